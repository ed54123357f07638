#!/bin/sh
# Releases the application in the directory app: packs it, publishes the archive
# and a manifest, and tells the agents.
#
#   release.sh consul   by a Consul event
#   release.sh serf     by a Serf user event
#   release.sh print    not at all: what to do with the URL is up to you
#
# It prints the URL of the manifest; all else goes to stderr.
#
# From the environment:
#
#   STORE      where to publish: a directory that a web server serves or that
#              the hosts mount (default: ./store)
#   STORE_URL  the URL that the hosts find it at (default: file://STORE)
#   DEST       the directory on the hosts to deploy to (default: /opt/hello)
#   EVENT      the name of the event (default: deploy)
#
# consul and serf find their agent as ever: CONSUL_HTTP_ADDR, SERF_RPC_ADDR.
set -eu

# escape makes a path fit for a URL.
escape() {
	printf '%s' "$1" | sed 's/%/%25/g; s/ /%20/g; s/#/%23/g; s/?/%3F/g'
}

# quote makes any text a YAML string.
quote() {
	printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

case ${1-} in
consul | serf | print) ;;
*)
	echo "usage: release.sh consul|serf|print" >&2
	exit 2
	;;
esac
here=$(cd "$(dirname "$0")" && pwd)
store=${STORE:-store}
mkdir -p "$store"
store=$(cd "$store" && pwd)
url=${STORE_URL:-file://$(escape "$store")}

# Both files get a name that no release had before: agents may still be
# fetching the last one, and going back to it takes just its event.
new=$(mktemp -d "$store/.release-XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
# As root's files: an agent that runs as root restores owners, and the hosts
# need not know who packed.
tar -czf "$new/archive" --owner=root --group=root -C "$here/app" .
checksum=$(sha256sum < "$new/archive")
checksum=${checksum%% *}
release=hello-$(date -u +%Y%m%d-%H%M%S)-$(printf %.8s "$checksum")

cat > "$new/manifest" <<MANIFEST
src: $(quote "$url/$release.tar.gz")
checksum: $checksum
dest: $(quote "${DEST:-/opt/hello}")
commands:
  pre:
    - echo "deploying $release to \$STRETCHER_DEST"
  post:
    - '"\$STRETCHER_DEST/bin/hello" release'
  success:
    - echo "\$STRETCHER_DEST is deployed, after \$STRETCHER_DURATION seconds"
  failure:
    - 'echo "\$STRETCHER_ERROR" >&2'
excludes:
  - /log/  # what the application writes stays
MANIFEST

# The archive first: the manifest must not name what is not there yet. To a
# bucket, these would be two calls of aws s3 cp or gcloud storage cp.
chmod 644 "$new/archive" "$new/manifest"
mv "$new/archive" "$store/$release.tar.gz"
mv "$new/manifest" "$store/$release.yml"

manifest=$url/$release.yml
case $1 in
consul) consul event -name "${EVENT:-deploy}" "$manifest" >&2 ;;
serf) serf event "${EVENT:-deploy}" "$manifest" >&2 ;;
esac
echo "$manifest"
