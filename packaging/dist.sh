#!/bin/sh
# Builds what a release consists of, in dist/: archives of the program for each system,
# packages for Debian, for Red Hat and SUSE, and for Alpine, and their checksums. The
# same commit gives the same bytes, wherever it is built.
#
# The arguments are the systems to build for, such as linux/amd64 (default: all).
#
# Environment variables:
#
#   VERSION            the version that the program shows
#   PACKAGE_VERSION    the version of the packages (default: that of git describe)
#   SOURCE_DATE_EPOCH  the time of all files (default: that of the commit)
#   MAINTAINER         of the packages, with a mail address (default: the committer)
set -eu

cd "$(dirname "$0")/.."
top=$PWD
export LC_ALL=C TZ=UTC CGO_ENABLED=0
umask 022

# If git fails, so does this script. With ${SOURCE_DATE_EPOCH:=...} it would go on.
[ -n "${SOURCE_DATE_EPOCH:-}" ] || SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
[ -n "${MAINTAINER:-}" ] || MAINTAINER=$(git log -1 --format='%cn <%ce>')
export SOURCE_DATE_EPOCH MAINTAINER

# Versions that sort as intended: 1.2.3~rc1 is before 1.2.3, and 1.2.3+5.g1234567, five
# commits after it, is after it. Without a tag, 0.0.0~git and the time.
if [ -z "${PACKAGE_VERSION:-}" ]; then
	if tag=$(git describe --tags --match 'v[0-9]*' 2>/dev/null); then
		PACKAGE_VERSION=$(echo "${tag#v}" | sed -E 's/-([0-9]+)-(g[0-9a-f]+)$/+\1.\2/; s/-/~/g')
	else
		PACKAGE_VERSION=0.0.0~git$(date -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)
	fi
fi
# For apk, a version has only the suffixes that it knows, and no hash.
apk_version=$(echo "$PACKAGE_VERSION" | sed -E 's/~(alpha|beta|rc|git)\.?/_\1/; s/\+([0-9]+)\.g.*/_p\1/')

rm -rf dist
mkdir dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# build GOOS GOARCH FILE
build() {
	GOOS=$1 GOARCH=$2 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X github.com/fujiwara/stretcher.Version=${VERSION:-$PACKAGE_VERSION}" -o "$3" ./cmd/stretcher
}

cp -r packaging "$work/"
mkdir -p "$work/package/units" "$work/package/doc"
gzip -9nc packaging/stretcher.8 >"$work/package/stretcher.8.gz"
cp README.md SECURITY.md "$work/package/doc/"
cp -r docs "$work/package/doc/docs"
gzip -9nc CHANGELOG.md >"$work/package/doc/CHANGELOG.md.gz"
{
	echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
	echo
	echo 'Files: *'
	sed -n 's/^Copyright (c)/Copyright:/p' LICENSE
	echo 'License: Expat'
	sed -n '/^Permission/,$p' LICENSE | sed 's/^$/./; s/^/ /'
} >"$work/package/doc/copyright"
{
	echo "stretcher ($PACKAGE_VERSION) unstable; urgency=medium"
	echo
	echo '  * The changes are in CHANGELOG.md.'
	echo
	echo " -- $MAINTAINER  $(date -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$work/package/doc/changelog.gz"
for unit in examples/systemd/*.service; do
	# The comment on how to install the unit is done with.
	sed 's,/usr/local/bin/stretcher,/usr/bin/stretcher,; s,^# Copy it to /etc/systemd/system. then: ,# To start it: ,' \
		"$unit" >"$work/package/units/${unit##*/}"
done

[ $# -gt 0 ] || set -- linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
for target; do
	system=${target%/*} arch=${target#*/}
	name=stretcher_${PACKAGE_VERSION}_${system}_$arch
	dir=$work/$name
	mkdir "$dir"
	build "$system" "$arch" "$dir/stretcher"
	cp README.md LICENSE CHANGELOG.md packaging/stretcher.8 "$dir/"
	cp -r docs packaging/completions "$dir/"
	[ "$system" = darwin ] || cp -r examples/systemd "$dir/"
	tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		--mode='u=rwX,go=rX' --format=ustar -cf - "$name" | gzip -9n >"dist/$name.tar.gz"

	[ "$system" = linux ] || continue
	cp "$dir/stretcher" "$work/package/stretcher"
	# Packages have the modes and times of these files, also those of the scripts. Of the
	# originals, they depend on who has cloned this repository, and when.
	chmod -R u=rwX,go=rX "$work/package" "$work/packaging"
	find "$work/package" "$work/packaging" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for format in deb rpm apk; do
		version=$PACKAGE_VERSION
		zsh=/usr/share/zsh/site-functions
		units=/usr/lib/systemd/system
		case $format in
		apk) version=$apk_version ;;
		deb) zsh=/usr/share/zsh/vendor-completions units=/lib/systemd/system ;;
		esac
		(cd "$work" && ARCH=$arch ROOT=$work/package PACKAGE_VERSION=$version ZSH=$zsh UNITS=$units \
			"$top/bin/tools/nfpm" package -f packaging/nfpm.yaml -p $format -t "$top/dist/$name.$format" >/dev/null)
	done
done
cd dist
sha256sum -- * >SHA256SUMS
stat -c '%10s  %n' -- *
