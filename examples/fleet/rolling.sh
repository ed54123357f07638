#!/bin/sh
# Runs stretcher when fewer than N hosts of the fleet are deploying, and waits until
# then. It is the handler of consul watch in place of stretcher:
#
#   consul watch -type event -name deploy -shell=false \
#       /usr/local/lib/stretcher/rolling.sh hello 2 -retry 3
#
# hello is the name of the application, 2 is N, and what follows are options of
# stretcher. N has to be the same on all hosts: as long as others use another N, consul
# refuses the lock.
#
# The rollout has to be started by deploy.sh, which stores the URL of the manifest. It
# is stopped by storing another one, or by deleting the key: hosts that are waiting do
# not deploy then.
#
# A host whose deployment fails makes way for the next one, as does a host that goes
# down; for the latter, Consul waits until its session has expired. If a host loses its
# connection to Consul, its deployment is cancelled, because another host may have
# its place by then.
#
# Environment variables:
#
#   FLEET_PREFIX  the beginning of the keys (default: stretcher)
#   STRETCHER     the program (default: stretcher, as found in PATH)
#
# consul also reads its own: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE and so on.
set -eu

if [ $# -lt 2 ]; then
	echo "usage: rolling.sh APP N [OPTION...]" >&2
	exit 2
fi
keys=${FLEET_PREFIX:-stretcher}/$1
hosts=$2
shift 2

# If Consul does not answer, the watch ends here, and passes the event again when it
# has been restarted.
wanted=$(consul kv get -recurse "$keys/manifest")
if [ -z "$wanted" ]; then
	echo "rolling.sh: not deploying: $keys/manifest does not exist" >&2
	exit 0
fi
export wanted
echo "rolling.sh: waiting until fewer than $hosts hosts deploy" >&2
# The event is on stdin.
# shellcheck disable=SC2016 # the variables are those of the inner sh
exec consul lock -n "$hosts" -pass-stdin -shell=false -child-exit-code "$keys/rolling" \
	sh -c '
		now=$(consul kv get -recurse "$1") || exit
		if [ "$now" != "$wanted" ]; then
			echo "rolling.sh: not deploying: $1 has been changed or deleted" >&2
			exit 0
		fi
		unset wanted
		shift
		exec "$@"
	' rolling.sh "$keys/manifest" "${STRETCHER:-stretcher}" "$@"
