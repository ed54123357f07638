#!/bin/sh
# Deploys a manifest to a fleet: stores its URL in Consul's KV store, where
# catchup.sh and status.sh read it, and fires the event.
#
#   deploy.sh APP URL
#
# Whoever can read the key can read the URL, with the secrets that it may have.
#
# Environment variables:
#
#   FLEET_PREFIX  the beginning of the keys (default: stretcher)
#   EVENT         the name of the event (default: deploy)
#
# consul also reads its own: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE and so on.
set -eu

if [ $# -ne 2 ]; then
	echo "usage: deploy.sh APP URL" >&2
	exit 2
fi
# The URL is stored first: a host that misses the event because it is just booting
# then finds it there.
printf '%s' "$2" | consul kv put "${FLEET_PREFIX:-stretcher}/$1/manifest" - > /dev/null
exec consul event -name "${EVENT:-deploy}" "$2"
