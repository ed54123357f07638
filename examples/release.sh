#!/bin/sh
# Releases the application in the directory app: packs it, publishes the archive
# and a manifest, and notifies the agents.
#
#   release.sh consul   fires a Consul event
#   release.sh serf     fires a Serf user event
#   release.sh print    only prints the URL, and tells no agent
#
# It prints the URL of the manifest to stdout, and everything else to stderr.
#
# Environment variables:
#
#   STORE      the directory to publish to, which a web server serves or the
#              hosts mount (default: ./store)
#   STORE_URL  the URL of that directory for the hosts (default: file://STORE)
#   DEST       the directory on the hosts to deploy to (default: /opt/hello)
#   EVENT      the name of the event (default: deploy)
#   SIGN_KEY   the file of a secret key of minisign, which signs the manifest for
#              agents with -public-key (default: none, the manifest is not signed).
#              minisign asks for its password, if it has one
#
# consul and serf also read their own: CONSUL_HTTP_ADDR and SERF_RPC_ADDR.
set -eu

# escape encodes a path for use in a URL.
escape() {
	printf '%s' "$1" | sed 's/%/%25/g; s/ /%20/g; s/#/%23/g; s/?/%3F/g'
}

# quote encodes any text as a YAML string.
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

# Both files get names that no earlier release has, because agents may still be
# fetching the previous one. It can be restored by firing its event again.
new=$(mktemp -d "$store/.release-XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
# The files in the archive belong to root: an agent that runs as root restores
# owners, and the user who packed them may not exist on the hosts.
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
    - echo "\$STRETCHER_DEST is deployed after \$STRETCHER_DURATION seconds"
  failure:
    - 'echo "\$STRETCHER_ERROR" >&2'
excludes:
  - /log/  # keep the files that the application writes
MANIFEST

if [ -n "${SIGN_KEY-}" ]; then
	minisign -S -s "$SIGN_KEY" -m "$new/manifest" -x "$new/signature" -t "$release" >&2
fi

# Publish the archive and the signature first, so that they exist when the manifest
# does. For a bucket, replace these lines with calls of aws s3 cp or gcloud storage cp.
chmod 644 "$new"/*
mv "$new/archive" "$store/$release.tar.gz"
[ -z "${SIGN_KEY-}" ] || mv "$new/signature" "$store/$release.yml.minisig"
mv "$new/manifest" "$store/$release.yml"

manifest=$url/$release.yml
case $1 in
consul) consul event -name "${EVENT:-deploy}" "$manifest" >&2 ;;
serf) serf event "${EVENT:-deploy}" "$manifest" >&2 ;;
esac
echo "$manifest"
