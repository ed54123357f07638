#!/bin/sh
# Receives the events of release.sh. Run it on every host to deploy to.
#
#   receive.sh consul [OPTION...]   watches the Consul agent of this host
#   receive.sh serf [OPTION...]     prints a command that starts a Serf agent
#                                   which deploys; add the options it needs
#
# OPTION is an option of stretcher, as in: receive.sh consul -retry 3
#
# Environment variables:
#
#   EVENT      the name of the event (default: deploy)
#   STRETCHER  the program (default: stretcher, as found in PATH)
#   LOG        the log file, with serf (default: /var/log/stretcher.log)
set -eu

# quote quotes any text as a single word for sh.
quote() {
	printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

usage() {
	echo "usage: receive.sh consul|serf [OPTION...]" >&2
	exit 2
}

[ $# -ge 1 ] || usage
with=$1
shift
event=${EVENT:-deploy}
stretcher=$(command -v "${STRETCHER:-stretcher}") || {
	echo "receive.sh: ${STRETCHER:-stretcher}: command not found" >&2
	exit 1
}

case $with in
consul)
	# Without -shell=false, a shell would split a path that contains spaces.
	exec consul watch -type event -name "$event" -shell=false "$stretcher" "$@"
	;;
serf)
	handler=$(quote "$stretcher")
	for option; do
		handler="$handler $(quote "$option")"
	done
	# A Serf agent shows the output of its handlers only at its debug log level.
	handler="$handler >> $(quote "${LOG:-/var/log/stretcher.log}") 2>&1"
	echo "serf agent -event-handler=$(quote "user:$event=$handler")"
	;;
*) usage ;;
esac
