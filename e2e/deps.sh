#!/bin/sh
# Installs the programs other than Go that the tests need, if they are missing.
# It fails if a program cannot be installed, because a skipped test proves
# nothing.
set -eu

PATH=$PATH:/usr/sbin:/sbin # sshd and nginx are there, but not in an ordinary user's PATH

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
	# The race detector needs cgo, which needs a C compiler and the headers of
	# the C library.
	[ -e /usr/include/stdlib.h ] || echo libc6-dev
}

packages=$(missing_packages | sort -u | tr '\n' ' ')
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "the tests need these Debian packages or equivalent ones: $packages" >&2
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

echo "installing packages for the tests: $packages"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages

packages=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$packages" ]; then
	echo "still missing after the installation: $packages" >&2
	exit 1
fi
