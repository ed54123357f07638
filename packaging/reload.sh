#!/bin/sh
# Makes systemd read the units that were installed, replaced or removed. Nothing is
# enabled or started, and an upgrade need not restart anything: the next event starts
# the new program.
set -e

if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
