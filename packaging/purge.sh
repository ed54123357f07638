#!/bin/sh
# After a removal by dpkg. A purge also removes the history of the systemd units.
set -e

if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
	rm -rf "${DPKG_ROOT:-}/var/lib/stretcher"
fi
