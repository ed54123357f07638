#!/bin/sh
# Deploys an application, upgrades it by the difference only, shows that broken
# releases do not stay, and rolls back. Everything happens in a temporary directory:
# it needs neither root nor the network, and no program but stretcher and those of
# every Linux.
#
#	examples/demo.sh [STRETCHER]
set -eu
stretcher=$(realpath "${1:-bin/stretcher}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export WORK="$work"

say() { printf '\n== %s\n' "$*"; }

# stretcher shows a command line, and runs it.
stretcher() {
	printf '\n$ stretcher %s\n' "$*"
	"$stretcher" "$@"
}

# refused shows that a release is refused.
refused() {
	if stretcher "$1"; then
		echo "$1 was deployed" >&2
		exit 1
	fi
}

# live shows what is live: where dest leads to, and what the application says.
live() {
	printf '\n$ readlink live; sh live/hello.sh\n%s\n' "$(readlink live)"
	sh live/hello.sh
}

mkdir app
echo 'echo "hello from version 1"' >app/hello.sh
echo 'test -s data.csv' >app/check.sh
seq -f 'item-%06.0f;in stock' 1 100000 >app/data.csv
head -c 3000000 /dev/urandom >app/photo.jpg # does not compress, like a real one

cat >app.yml <<'EOM'
dest: '{{ must_env "WORK" }}/live'
sync_strategy: symlink
commands:
  post:
    - cd "$STRETCHER_DEST" && sh check.sh
  failure:
    - echo "The failure command runs after $STRETCHER_ERROR"
EOM

say "This manifest says where to deploy to, and how to check the result"
cat app.yml

say "1. A deployment. pack makes an archive of the directory app, and completes the manifest"
stretcher pack -o app-1.tar.zst -manifest app-1.yml -manifest-from app.yml app
stretcher app-1.yml
say "Version 1 is live: dest is a symlink to a complete release"
live

say "2. An upgrade. A script and a line of the data change, and -base adds the difference to version 1"
echo 'echo "hello from version 2"' >app/hello.sh
sed -i 's/^item-050000;in stock$/item-050000;sold out/' app/data.csv
stretcher pack -base app-1.tar.zst -o app-2.tar.zst -manifest app-2.yml -manifest-from app.yml app
stretcher app-2.yml
say "Version 2 is live. Of its archive, only what line 'Fetched ... of ...' says was downloaded"
live

say "3. A damaged release. The upload of version 3 is cut off: its checksum is not that of the manifest"
echo 'echo "hello from version 3"' >app/hello.sh
stretcher pack -o app-3.tar.zst -manifest app-3.yml -manifest-from app.yml app
head -c 1000000 app-3.tar.zst >app-3.part && mv app-3.part app-3.tar.zst
refused app-3.yml
say "It was refused before anything changed: version 2 is still live"
live

say "4. A release that does not work. Version 4 is deployed, but its post command finds it broken"
echo 'echo "hello from version 4"' >app/hello.sh
: >app/data.csv
stretcher pack -base app-2.tar.zst -o app-4.tar.zst -manifest app-4.yml -manifest-from app.yml app
refused app-4.yml
say "The link was put back: version 2 is live again"
live

say "5. A rollback. The release before is still on the host, so that nothing is downloaded"
stretcher -rollback "$work/live"
say "Version 1 is live again"
live
