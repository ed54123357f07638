#!/bin/sh
# Deploys a small application for real, twice, and then shows that a damaged
# archive is refused. Everything happens in a temporary directory.
#
#	examples/demo.sh [STRETCHER]
set -eu
stretcher=$(realpath "${1:-bin/stretcher}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

say() { printf '\n== %s\n' "$*"; }

# package VERSION: what happens on a build machine. The application's tree
# becomes an archive, and a manifest says where it is, what its checksum is
# and where it goes.
package() {
	tar -C app -czf "app-$1.tar.gz" .
	checksum=$(sha256sum "app-$1.tar.gz" | cut -d' ' -f1)
	cat >"app-$1.yml" <<-MANIFEST
		src: file://$work/app-$1.tar.gz
		checksum: $checksum
		dest: $work/live
		commands:
		  pre:
		    - echo "about to deploy version $1"
		  post:
		    - sh $work/live/hello.sh
		  success:
		    - echo "the success command was given a log of \$(wc -l) lines"
		  failure:
		    - echo "the failure command was told why, \$STRETCHER_ERROR"
		excludes:
		  - '*.pid'
	MANIFEST
}

# show: what is live, file by file.
show() {
	find live -type f | sort | while read -r file; do
		printf '%-16s %s\n' "$file" "$(cat "$file")"
	done
}

command -v rsync >/dev/null || say "rsync is not installed: stretcher does its work itself, and says so"

say "Version 1 is packed, and deployed by: echo file://.../app-1.yml | stretcher"
mkdir app
echo 'echo "hello from version 1"' >app/hello.sh
echo 'only in version 1' >app/old.txt
echo 'in every version' >app/data.txt
package 1
cat app-1.yml
echo
echo "file://$work/app-1.yml" | "$stretcher"
say "What is live now"
show

say "The running application writes its pid file; version 2 changes a file, adds one and drops one"
echo 4711 >live/app.pid
rm app/old.txt
# Of another size: rsync takes files of one size and second for equal.
echo 'echo "hello from version 2, the next one"' >app/hello.sh
echo 'new in version 2' >app/new.txt
package 2
echo "file://$work/app-2.yml" | "$stretcher"
say "What is live now: old.txt is gone, app.pid is excluded and has stayed"
show

say "Version 3 is damaged on its way: its checksum is not that of the manifest"
echo 'echo "hello from version 3"' >app/hello.sh
package 3
printf 'damage' | dd of=app-3.tar.gz bs=1 seek=20 conv=notrunc status=none
if echo "file://$work/app-3.yml" | "$stretcher"; then
	echo 'a damaged archive was deployed' >&2
	exit 1
fi
say "It was refused with exit status 1, and what is live is still version 2"
show
sh live/hello.sh
