#!/bin/sh
# Uses the example units on a machine whose service manager is systemd. It runs as
# root in the container of boot.sh, and fails at the first thing that is wrong.
# shellcheck disable=SC2016 # commands are expanded by those who run them
set -eu

fail() {
	echo "FAIL: $*"
	journalctl --no-pager --output short-monotonic | tail -n 150
	exit 1
}

# until_true waits until a command succeeds.
until_true() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || fail "waited for: $*"
		sleep 0.1
	done
}

# logged N TEXT is true if the log of the unit, which is its journal, has the text at
# least N times. Serf's handler logs by the name stretcher.
logged() { [ "$(journalctl --quiet --output cat "$journal" | grep -cF -- "$2")" -ge "$1" ]; }
ended() { [ "$(journalctl --quiet --output cat "$journal" | grep -cE ' (Done|Failed:)')" -ge "$1" ]; }
active() { systemctl --quiet is-active "$1"; }
lines() { [ "$(wc -l < "$2")" = "$1" ] || fail "$2 does not have $1 lines: $(cat "$2")"; }

# manifest NAME [COMMAND LIST...] writes a manifest without src.
manifest() {
	name=$1
	shift
	echo "commands:" > "/e2e/$name.yml"
	printf '  %s\n' "$@" >> "/e2e/$name.yml"
}

# A tree with all that root can unpack.
tree() {
	mkdir -p "$1/dir"
	echo setuid > "$1/setuid"
	echo owned > "$1/dir/owned"
	mkfifo "$1/fifo"
	mknod "$1/device" c 1 3
	ln -s /nowhere "$1/link"
	chown 12345:54321 "$1/dir/owned" "$1/dir"
	chmod 4755 "$1/setuid"
	chmod 3770 "$1/dir"
	chmod 0 "$1/dir/owned"
}
listing() { (cd "$1" && find . -mindepth 1 -printf '%P %y %m %U:%G %l\n' | sort); }

# deploy_tree DEST STRATEGY COMMAND... makes /e2e/tree.yml, whose pre commands are
# these. They are single-quoted in YAML.
deploy_tree() {
	{
		echo "src: file:///e2e/tree.tar"
		echo "checksum: $(sha256sum < /e2e/tree.tar | cut -d' ' -f1)"
		echo "dest: $1"
		echo "sync_strategy: $2"
		echo "commands:"
		echo "  pre:"
		shift 2
		for command; do
			printf "    - '%s'\n" "$(echo "$command" | sed "s/'/''/g")"
		done
	} > /e2e/tree.yml
}

# interrupted FIRE UNIT restarts the unit while it deploys. The deployment has to go
# on to its end, once, and what it starts has to survive the next restart.
interrupted() {
	rm -f /e2e/gate /e2e/posts
	before=$(journalctl --quiet --output cat "$journal" | grep -cF 'Deploy manifest succeeded.' || true)
	deploy_tree "/srv/$2" symlink 'while [ ! -e /e2e/gate ]; do sleep 0.05; done # gate'
	cat >> /e2e/tree.yml <<-MANIFEST
		  post:
		    - echo \$STRETCHER_EVENT_ID >> /e2e/posts
		    - setsid sleep 12321 < /dev/null > /dev/null 2>&1 & echo \$! > /e2e/daemon
	MANIFEST
	cp /e2e/tree.yml "/e2e/$2.yml"
	$1 "file:///e2e/$2.yml"
	until_true logged 1 'invoking command: while'
	main=$(systemctl show --value --property MainPID "$2")
	systemctl restart "$2"
	[ "$main" != "$(systemctl show --value --property MainPID "$2")" ] || fail "$2 was not restarted"
	touch /e2e/gate
	until_true logged $((before + 1)) 'Deploy manifest succeeded.'
	systemctl restart "$2"
	lines 1 /e2e/posts
	kill -0 "$(cat /e2e/daemon)" || fail "a restart of $2 killed a daemon"
	! logged 1 'interrupted by' || fail "a restart of $2 interrupted a deployment"
}

systemctl start consul app
until_true sh -c 'curl -fsS http://127.0.0.1:8500/v1/status/leader 2> /dev/null | grep -q :'

echo "== stretcher-consul.service"
journal=--unit=stretcher-consul
fire_consul() { consul event -name deploy "$1" > /e2e/fire.log 2>&1 || fail "$(cat /e2e/fire.log)"; }
systemctl start stretcher-consul
until_true logged 1 'No event: nothing to deploy.'

# All that an archive can contain is deployed, and commands do what they usually do.
mkdir /srv/tree
tree /srv/tree
tar -cf /e2e/tree.tar -C /srv/tree .
setpriv --reuid nobody --regid nogroup --clear-groups sleep 1000 &
user=$!
app=$(systemctl show --value --property MainPID app)
deploy_tree /usr/local/app builtin \
	'systemctl restart app' \
	'test $(runuser -u nobody -- id -un) = nobody' \
	'setpriv --reuid nobody --regid nogroup --clear-groups --bounding-set -chown true' \
	'touch /etc/touched /usr/touched /home/touched /root/touched /tmp/touched && mkdir -p /opt/new' \
	'touch /opt/new/file && chown 1234 /opt/new/file && chattr +i /opt/new/file && chattr -i /opt/new/file' \
	'nice -n -5 true' \
	"kill -0 $user && readlink /proc/$user/exe && kill $user" \
	"readlink /proc/$(systemctl show --value --property MainPID consul)/exe" \
	'systemd-run --quiet --wait --pipe mount -t tmpfs hatch /mnt && mountpoint /mnt' \
	'free > /dev/null && ps -e > /dev/null && ip link show lo' \
	'if mount -t tmpfs x /media; then exit 1; fi' \
	'if unshare --net true; then exit 1; fi' \
	'if date -s @0; then exit 1; fi' \
	'if chroot / true; then exit 1; fi' \
	'if echo 1 > /proc/sys/vm/drop_caches; then exit 1; fi' \
	'if dmesg; then exit 1; fi'
fire_consul file:///e2e/tree.yml
until_true ended 1
logged 1 'Deploy manifest succeeded.' || fail "the tree was not deployed"
[ "$(listing /srv/tree)" = "$(listing /usr/local/app)" ] || fail "dest is $(listing /usr/local/app)"
[ "$app" != "$(systemctl show --value --property MainPID app)" ] || fail "app was not restarted"

interrupted fire_consul stretcher-consul
until_true logged 1 'was handled'

# The log is complete.
manifest flood "pre: ['seq -f \"%.0f of the flood\" 40000']"
fire_consul file:///e2e/flood.yml
until_true logged 3 'Deploy manifest succeeded.'
logged 40000 ' of the flood' || fail "the journal lacks lines"

# The watch is started again when it ends, and a stop is not a failure.
kill -KILL "$(systemctl show --value --property MainPID stretcher-consul)"
until_true sh -c '[ "$(systemctl show --value --property NRestarts stretcher-consul)" -ge 1 ]'
until_true active stretcher-consul
systemctl stop stretcher-consul
[ "$(systemctl is-active stretcher-consul)" = inactive ] || fail "$(systemctl status --no-pager stretcher-consul)"

# The drop-in that the unit proposes.
mkdir -p /etc/systemd/system/stretcher-consul.service.d
{
	echo '[Service]'
	sed -n 's/^#   \(ProtectSystem=strict\|ReadWritePaths=.*\)/\1/p' /etc/systemd/system/stretcher-consul.service
} > /etc/systemd/system/stretcher-consul.service.d/strict.conf
lines 3 /etc/systemd/system/stretcher-consul.service.d/strict.conf
systemctl daemon-reload
systemctl start stretcher-consul
for strategy in symlink builtin rsync mv; do
	deploy_tree "/srv/strict-$strategy" "$strategy" 'if touch /etc/strict; then exit 1; fi'
	cp /e2e/tree.yml "/e2e/strict-$strategy.yml"
	fire_consul "file:///e2e/strict-$strategy.yml"
	until_true test -e "/srv/strict-$strategy/setuid"
done
systemctl stop stretcher-consul

echo "== stretcher-catchup@.service"
journal=--unit=stretcher-catchup@hello
deploy_tree /srv/caught builtin 'setsid sleep 12321 < /dev/null > /dev/null 2>&1 & echo $! > /e2e/daemon'
consul kv put stretcher/hello/manifest file:///e2e/tree.yml > /dev/null
systemctl start stretcher-catchup@hello || fail "catchup"
[ "$(listing /srv/tree)" = "$(listing /srv/caught)" ] || fail "catchup has deployed $(listing /srv/caught)"
kill -0 "$(cat /e2e/daemon)" || fail "the end of the unit killed a daemon"

echo "== cloud-init/user-data.yml"
# The test has made two scripts of it: one that writes its files, and one of its commands.
systemctl disable --now --quiet stretcher-consul
sh -eu /e2e/cloud-files.sh
[ "$(stat -c %a /etc/default/stretcher)" = 600 ] || fail "the options can be read by everybody"
minisign -G -W -f -p /etc/stretcher/release.pub -s /e2e/release.key > /dev/null
sed -i 's|^STRETCHER_ALLOW=.*|STRETCHER_ALLOW=file:///e2e|' /etc/default/stretcher
deploy_tree /srv/cloud builtin true
cp /e2e/tree.yml /e2e/cloud.yml
minisign -S -s /e2e/release.key -m /e2e/cloud.yml > /dev/null
consul kv put stretcher/hello/manifest file:///e2e/cloud.yml > /dev/null
sh -eu /e2e/cloud-commands.sh
until_true active stretcher-consul
[ "$(listing /srv/tree)" = "$(listing /srv/cloud)" ] || fail "cloud-init has deployed $(listing /srv/cloud)"
for unit in stretcher-consul stretcher-catchup@hello; do
	systemctl --quiet is-enabled "$unit" || fail "$unit is not enabled"
done
systemctl disable --now --quiet stretcher-consul

echo "== consul/stretcher.hcl"
journal=--identifier=stretcher
sed -i '/^STRETCHER_/d' /etc/default/stretcher
sed 's/"-random-delay", "10",//' /e2e/examples/consul/stretcher.hcl > /etc/consul.d/stretcher.hcl
consul reload > /dev/null
until_true logged 1 'was handled'
deploy_tree /srv/hcl builtin true
fire_consul file:///e2e/tree.yml
until_true logged 1 'Deploy manifest succeeded.'
[ "$(listing /srv/tree)" = "$(listing /srv/hcl)" ] || fail "the agent has deployed $(listing /srv/hcl)"
rm /etc/consul.d/stretcher.hcl
consul reload > /dev/null

echo "== stretcher-serf.service"
journal=--identifier=stretcher
fire_serf() { serf event -coalesce=false deploy "$1" > /e2e/fire.log 2>&1 || fail "$(cat /e2e/fire.log)"; }
systemctl start stretcher-serf
until_true sh -c 'serf members > /dev/null 2>&1'
interrupted fire_serf stretcher-serf
systemctl stop stretcher-serf
[ "$(systemctl is-active stretcher-serf)" = inactive ] || fail "$(systemctl status --no-pager stretcher-serf)"
echo "all is well"
