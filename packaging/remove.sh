#!/bin/sh
# Before a removal, stops and disables the units that an administrator has enabled.
# Before an upgrade, does nothing. The argument is "remove" for dpkg, 0 for rpm, and
# missing or a version for apk.
set -e

case ${1:-} in
upgrade | deconfigure | failed-upgrade | 1) exit 0 ;;
esac
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl disable --now stretcher-consul.service stretcher-serf.service || true
fi
