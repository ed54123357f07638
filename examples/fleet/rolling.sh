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
lock=${FLEET_PREFIX:-stretcher}/$1/rolling
hosts=$2
shift 2
# The event is on stdin.
exec consul lock -n "$hosts" -pass-stdin -shell=false -child-exit-code "$lock" \
	"${STRETCHER:-stretcher}" "$@"
