#!/bin/sh
# Releases the application in the directory app: packs it, uploads the archive and a
# manifest, and notifies the agents.
#
#   release.sh consul   fires a Consul event
#   release.sh serf     fires a Serf user event
#   release.sh print    only prints the URL, and tells no agent
#
# It prints the URL of the manifest to stdout, and everything else to stderr.
#
# Environment variables:
#
#   STORE      where to upload to: the URL of a bucket, such as s3://releases/hello, or
#              the absolute path of a directory, which a web server serves or the hosts
#              mount (default: ./store)
#   STORE_URL  where the hosts find it, if not there, such as https://example.com/hello
#   EVENT      the name of the event (default: deploy)
#   SIGN_KEY   the file of a secret key of minisign, which signs the manifest for
#              agents with -public-key (default: none, the manifest is not signed)
#   STRETCHER  the program (default: stretcher, as found in PATH)
#
# consul and serf also read their own: CONSUL_HTTP_ADDR and SERF_RPC_ADDR.
set -eu

case ${1-} in
consul | serf | print) ;;
*)
	echo "usage: release.sh consul|serf|print" >&2
	exit 2
	;;
esac
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Each release has a name of its own, because agents may still be fetching the previous
# one. It can be restored by firing its event again.
#
# The files in the archive belong to root: an agent that runs as root restores owners,
# and the user who packed them may not exist on the hosts.
name=$work/hello-$(date -u +%Y%m%d-%H%M%S)-$$
manifest=$("${STRETCHER:-stretcher}" pack -owner root:root -o "$name.tar.zst" \
	-manifest "$name.yml" -manifest-from "$here/hello.yml" ${SIGN_KEY:+-sign "$SIGN_KEY"} \
	-upload "${STORE:-$PWD/store}" ${STORE_URL:+-url "$STORE_URL"} "$here/app")

case $1 in
consul) consul event -name "${EVENT:-deploy}" "$manifest" >&2 ;;
serf) serf event "${EVENT:-deploy}" "$manifest" >&2 ;;
esac
echo "$manifest"
