#!/bin/sh
# Receives what release.sh sends, on every host that is to deploy.
#
#   receive.sh consul [OPTION...]   watches the Consul agent of this host
#   receive.sh serf [OPTION...]     prints the command of a Serf agent that
#                                   deploys; add what else your agent needs
#
# The options are stretcher's, as in: receive.sh consul -retry 3
#
# From the environment:
#
#   EVENT      the name of the event (default: deploy)
#   STRETCHER  the program (default: stretcher, as found in PATH)
#   LOG        with serf, the file of the log (default: /var/log/stretcher.log)
set -eu

# quote makes any text a word for sh.
quote() {
	printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

usage() {
	echo "usage: receive.sh consul|serf [option of stretcher...]" >&2
	exit 2
}

[ $# -ge 1 ] || usage
with=$1
shift
event=${EVENT:-deploy}
stretcher=$(command -v "${STRETCHER:-stretcher}") || {
	echo "receive.sh: no ${STRETCHER:-stretcher} here" >&2
	exit 1
}

case $with in
consul)
	# Without -shell=false, a path with a space in it would fall apart.
	exec consul watch -type event -name "$event" -shell=false "$stretcher" "$@"
	;;
serf)
	handler=$(quote "$stretcher")
	for option; do
		handler="$handler $(quote "$option")"
	done
	# A Serf agent shows what its handlers print at its debug level only.
	handler="$handler >> $(quote "${LOG:-/var/log/stretcher.log}") 2>&1"
	echo "serf agent -event-handler=$(quote "user:$event=$handler")"
	;;
*) usage ;;
esac
