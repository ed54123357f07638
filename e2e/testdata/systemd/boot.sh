#!/bin/sh
# Boots the systemd of this machine in a container, on a copy of its root file system
# that nothing is written back from, and runs inside.sh there as a unit:
#
#   boot.sh NAME DIR SHARED STRETCHER TOOLS
#
# NAME is the name of the container and of its control groups, which the caller removes.
# DIR is an empty directory for the mounts. SHARED is visible as /e2e in the container.
# STRETCHER is the agent, and TOOLS the directory with consul and serf. The exit
# status is that of inside.sh. It has to run in a mount namespace of its own.
set -eu
name=$1 dir=$2 shared=$3 stretcher=$4 tools=$5

# systemd-nspawn makes its control groups below that which it is in. systemd needs
# its own hierarchy only, version 2 or, on older machines, version 1.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
	[ -e "$hierarchy/cgroup.procs" ] || continue
	mkdir "$hierarchy/$name"
	echo $$ > "$hierarchy/$name/cgroup.procs"
done

mount -t tmpfs -o size=1g tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
root=$dir/root
: > "$root/etc/fstab"
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$root/etc/machine-id"
# Nothing of this machine is started.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires

# The units and scripts of the examples, as an operator would install them, but for
# the random delay, which would only cost time.
mkdir -p "$root/usr/local/lib/stretcher" "$root/etc/default" "$root/etc/serf" "$root/etc/consul.d" "$root/etc/systemd/journald.conf.d"
cp "$shared"/examples/fleet/*.sh "$root/usr/local/lib/stretcher"
for unit in "$shared"/examples/systemd/*.service "$shared"/examples/fleet/*.service; do
	sed 's/ -random-delay 10//' "$unit" > "$root/etc/systemd/system/${unit##*/}"
done
cat > "$root/etc/default/stretcher" <<-ENV
	GORACE=atexit_sleep_ms=0
	STRETCHER=/usr/local/bin/stretcher
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV
echo '{"node_name": "e2e", "bind": "127.0.0.1:7946", "rpc_addr": "127.0.0.1:7373", "profile": "local"}' > "$root/etc/serf/serf.json"
# journalctl overlooks some files of a journal on an overlay.
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/volatile.conf"
for program in usr/bin/consul usr/bin/serf usr/local/bin/stretcher; do
	: > "$root/$program"
done

cat > "$root/etc/systemd/system/consul.service" <<-UNIT
	[Service]
	ExecStart=/usr/bin/consul agent -dev -config-dir /etc/consul.d -bind 127.0.0.1 -log-level warn
UNIT
cat > "$root/etc/systemd/system/app.service" <<-UNIT
	[Service]
	ExecStart=/bin/sleep infinity
UNIT
cat > "$root/etc/systemd/system/e2e.service" <<-UNIT
	[Unit]
	DefaultDependencies=no
	Wants=basic.target
	After=basic.target
	[Service]
	Type=oneshot
	ExecStart=/bin/sh /e2e/inside.sh
	ExecStopPost=/bin/sh -c 'systemctl exit "\$EXIT_STATUS"'
	StandardOutput=append:/e2e/log
	StandardError=append:/e2e/log
UNIT

# Without a terminal, systemd would halt at once. script is one.
cat > "$dir/nspawn.sh" <<-NSPAWN
	exec systemd-nspawn --quiet --directory='$root' --machine='$name' --boot --register=no --keep-unit \
		--private-network --capability=all --console=interactive \
		--bind='$shared:/e2e' --bind-ro='$stretcher:/usr/local/bin/stretcher' \
		--bind-ro='$tools/consul:/usr/bin/consul' --bind-ro='$tools/serf:/usr/bin/serf' \
		systemd.unit=e2e.service systemd.show_status=false
NSPAWN
exec script --quiet --return --command "sh '$dir/nspawn.sh'" /dev/null < /dev/null
