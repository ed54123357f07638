#!/bin/sh
# Installs the programs other than Go that the tests need, if they are missing.
# It fails if a program cannot be installed, because a skipped test proves
# nothing. No daemon of the installed packages is started, neither now nor at the
# next boot.
#
# Environment variables:
#
#   SUDO  the command to become root with, such as sudo. Without it, only root
#         installs anything.
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
		git git
		bash bash
		zstd zstd
		xz xz-utils
		bzip2 bzip2
		setfacl acl
		getfacl acl
		chattr e2fsprogs
		setpriv util-linux
		systemd-analyze systemd
		systemd-nspawn systemd-container
		strace strace
		minisign minisign
		bsdtar libarchive-tools
		mkfs.ext4 e2fsprogs
		mkfs.xfs xfsprogs
		mkfs.btrfs btrfs-progs
		rpm rpm
		lintian lintian
		mandoc mandoc
		zsh zsh
		fish fish
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
if [ "$(id -u)" != 0 ] && [ -z "${SUDO:-}" ]; then
	echo "the tests need these packages: $packages" >&2
	echo "hint: install them as root: apt-get install --no-install-recommends $packages" >&2
	echo "hint: or let make test install them without starting their daemons: make test SUDO=sudo" >&2
	exit 1
fi

# Maintainer scripts start the daemons of their packages unless this program
# exits with status 101. See invoke-rc.d(8). An existing one is put aside, and
# put back at the end.
policy=/usr/sbin/policy-rc.d
aside=$policy.before-stretcher-tests
mark='# Written by e2e/deps.sh of stretcher: no daemon is started for now.'

is_ours() { grep -qsxF "$mark" "$policy"; }

forbid_starting() {
	# After a run that was killed, the policy may be ours already.
	is_ours && return
	if [ -e "$policy" ] || [ -L "$policy" ]; then
		$SUDO mv "$policy" "$aside"
	fi
	printf '#!/bin/sh\n%s\nexit 101\n' "$mark" | $SUDO tee "$policy" >/dev/null
	$SUDO chmod 755 "$policy"
}

restore_policy() {
	if [ -e "$aside" ] || [ -L "$aside" ]; then
		$SUDO mv -f "$aside" "$policy"
	elif is_ours || [ ! -s "$policy" ]; then # empty if writing it was interrupted
		$SUDO rm -f "$policy"
	fi
}

# disable_at_boot disables the units that the installation has enabled.
disable_at_boot() {
	command -v systemctl >/dev/null || return 0
	for package in $packages; do
		case $package in
		openssh-server) units='ssh.service ssh.socket' ;;
		nginx-light) units=nginx.service ;;
		*) continue ;;
		esac
		for unit in $units; do
			if systemctl is-enabled --quiet "$unit" 2>/dev/null; then
				$SUDO systemctl disable --quiet "$unit"
			fi
		done
	done
}

[ "$(id -u)" != 0 ] || SUDO=
echo "installing packages for the tests, without starting their daemons: $packages"
trap restore_policy EXIT
trap 'exit 1' HUP INT TERM
forbid_starting
$SUDO apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
disable_at_boot

packages=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$packages" ]; then
	echo "still missing after the installation: $packages" >&2
	exit 1
fi
