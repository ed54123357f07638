#!/bin/sh
# Reports the result of a deployment to Consul's KV store, where status.sh reads it.
# It is a command of the manifest:
#
#   commands:
#     success: [/usr/local/lib/stretcher/report.sh hello]
#     failure: [/usr/local/lib/stretcher/report.sh hello]
#
# hello is the name of the application. The result is the value of the key
# stretcher/hello/hosts/HOST: a line of TIME, RESULT, SECONDS, CHECKSUM, DEST,
# MANIFEST, EVENT and ERROR, separated by tabs. The agent has removed the secrets of
# URLs from these.
#
# If Consul does not take the report, that is only logged: the exit status is 0, so
# that the commands that follow are run.
#
# Environment variables:
#
#   FLEET_PREFIX   the beginning of the keys (default: stretcher)
#   FLEET_HOST     the name of this host (default: uname -n)
#   FLEET_TIMEOUT  how long to wait for Consul, in seconds (default: 10)
#
# consul also reads its own: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE and so on.
set -eu

if [ $# -ne 1 ] || [ -z "${STRETCHER_RESULT-}" ]; then
	echo "usage: report.sh APP, as a success or failure command of a manifest" >&2
	exit 2
fi
key=${FLEET_PREFIX:-stretcher}/$1/hosts/${FLEET_HOST:-$(uname -n)}

# An error may have tabs and newlines. They become spaces.
set -- "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$STRETCHER_RESULT" "$STRETCHER_DURATION" \
	"$STRETCHER_CHECKSUM" "$STRETCHER_DEST" "$STRETCHER_MANIFEST_URL" \
	"$STRETCHER_EVENT_ID" "$STRETCHER_ERROR"
report=
tab=$(printf '\t')
for field; do
	field=$(printf '%s' "$field" | tr '\001-\037\177' '[ *]')
	report=${report:+$report$tab}$field
done

# The command line is visible to other users, so the value is passed on stdin.
if ! printf '%s' "$report" | timeout "${FLEET_TIMEOUT:-10}" consul kv put "$key" - > /dev/null; then
	echo "report.sh: could not report to Consul: $key" >&2
fi
