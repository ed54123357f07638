#!/bin/sh
# Installs the programs that the tests run beside Go, where they are missing.
# A program that cannot be installed ends it with an error: a test that is
# left out proves nothing.
set -eu

PATH=$PATH:/usr/sbin:/sbin # where an ordinary user's PATH has no sshd and nginx

# missing_packages prints the package of each program that is missing.
missing_packages() {
	while read -r program package; do
		command -v "$program" >/dev/null || echo "$package"
	done <<-LIST
		gcc gcc
		tar tar
		gzip gzip
		rsync rsync
		sshd openssh-server
		ssh openssh-client
		ssh-keygen openssh-client
		nginx nginx-light
		curl curl
		zstd zstd
		xz xz-utils
		bzip2 bzip2
	LIST
	# The race detector needs cgo: a C compiler and the C library's headers.
	[ -e /usr/include/stdlib.h ] || echo libc6-dev
}

packages=$(missing_packages | sort -u | tr '\n' ' ')
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "the tests need these Debian packages, or their like: $packages" >&2
	exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
	sudo='sudo -n'
	if ! $sudo true 2>/dev/null; then
		echo "the tests need these packages: $packages" >&2
		echo "hint: apt-get install $packages" >&2
		exit 1
	fi
fi

echo "installing for the tests: $packages"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages

packages=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$packages" ]; then
	echo "still missing after their installation: $packages" >&2
	exit 1
fi
