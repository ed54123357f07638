#!/bin/sh
# Deploys the manifest that deploy.sh has stored last, at boot, because this host does
# not receive the events that were fired while it was down. See
# stretcher-catchup@.service.
#
#   catchup.sh APP [OPTION...]
#
# OPTION is an option of stretcher. If nothing has been stored, nothing is deployed.
# What has been deployed before is deployed again, so the host ends up right also
# if its disk has been restored.
#
# Environment variables:
#
#   FLEET_PREFIX  the beginning of the keys (default: stretcher)
#   FLEET_WAIT    how long to wait until Consul answers, in seconds (default: 300)
#   STRETCHER     the program (default: stretcher, as found in PATH)
#
# consul also reads its own: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE and so on.
set -eu

if [ $# -lt 1 ]; then
	echo "usage: catchup.sh APP [OPTION...]" >&2
	exit 2
fi
key=${FLEET_PREFIX:-stretcher}/$1/manifest
shift

end=$(($(date +%s) + ${FLEET_WAIT:-300}))
until url=$(timeout 10 consul kv get "$key" 2> /dev/null); do
	problem=$(timeout 10 consul kv get "$key" 2>&1 > /dev/null) && continue
	case $problem in
	*"No key exists"*)
		echo "catchup.sh: nothing to deploy: $key does not exist" >&2
		exit 0
		;;
	esac
	if [ "$(date +%s)" -ge "$end" ]; then
		echo "catchup.sh: could not read $key: ${problem:-no answer}" >&2
		exit 1
	fi
	sleep 1
done

# The URL is passed on stdin, because the command line is visible to other users.
exec "${STRETCHER:-stretcher}" "$@" << URL
$url
URL
