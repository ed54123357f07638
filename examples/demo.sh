#!/bin/sh
# Deploys two versions of a small application, and then shows that a damaged
# archive is refused. Everything happens in a temporary directory.
#
#	examples/demo.sh [STRETCHER]
set -eu
stretcher=$(realpath "${1:-bin/stretcher}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

say() { printf '\n== %s\n' "$*"; }

# package VERSION does what a build machine does: it packs the application into
# an archive and writes a manifest with the archive's URL, its checksum and the
# directory to deploy to.
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
		    - echo "the success command received a log of \$(wc -l) lines"
		  failure:
		    - echo "the failure command received the error \$STRETCHER_ERROR"
		excludes:
		  - '*.pid'
	MANIFEST
}

# show prints every file that is live, with its content.
show() {
	find live -type f | sort | while read -r file; do
		printf '%-16s %s\n' "$file" "$(cat "$file")"
	done
}

command -v rsync >/dev/null || say "rsync is not installed: stretcher syncs in-process, and logs a warning"

say "Version 1 is packed, and deployed with: echo file://.../app-1.yml | stretcher"
mkdir app
echo 'echo "hello from version 1"' >app/hello.sh
echo 'only in version 1' >app/old.txt
echo 'in every version' >app/data.txt
package 1
cat app-1.yml
echo
echo "file://$work/app-1.yml" | "$stretcher"
say "The live files"
show

say "The running application writes its pid file. Version 2 changes one file, adds one and removes one"
echo 4711 >live/app.pid
rm app/old.txt
# The new size differs, because rsync considers a file unchanged if its size and
# its time in seconds are the same.
echo 'echo "hello from version 2, the next one"' >app/hello.sh
echo 'new in version 2' >app/new.txt
package 2
echo "file://$work/app-2.yml" | "$stretcher"
say "The live files: old.txt is gone, app.pid is excluded and was kept"
show

say "Version 3 is damaged in transit: its checksum does not match the manifest"
echo 'echo "hello from version 3"' >app/hello.sh
package 3
printf 'damage' | dd of=app-3.tar.gz bs=1 seek=20 conv=notrunc status=none
if echo "file://$work/app-3.yml" | "$stretcher"; then
	echo 'a damaged archive was deployed' >&2
	exit 1
fi
say "It was refused with exit status 1, and version 2 is still live"
show
sh live/hello.sh
