#!/bin/sh
# Prints the last result that each host of a fleet has reported by report.sh.
#
#   status.sh [-m URL] APP [HOST...]
#
# URL is the manifest that the hosts should have. The default is what deploy.sh has
# stored last. The secrets of URLs are neither compared nor shown. A HOST need not have
# reported anything yet: name those of the fleet, for example those of a service:
#
#   status.sh hello $(consul catalog nodes -service=web | awk 'NR > 1 { print $1 }')
#
# The states in upper case stand out:
#
#   ok      has the manifest
#   FAILED  could not deploy it
#   OTHER   has not reported it: the last result is that of another manifest
#   NONE    has never reported anything
#
# The exit status is 0 if all hosts are ok, 1 if not, and 2 if that is not known.
#
# Environment variables:
#
#   FLEET_PREFIX  the beginning of the keys (default: stretcher)
#
# consul also reads its own: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN_FILE and so on.
set -eu

usage() {
	echo "usage: status.sh [-m URL] APP [HOST...]" >&2
	exit 2
}

manifest=
while getopts m: option; do
	case $option in
	m) manifest=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
keys=${FLEET_PREFIX:-stretcher}/$1/
shift

stored=$(consul kv get -recurse "$keys") || exit 2

# With LC_ALL=C, characters are bytes, so that [\200-\237] is a range of them.
printf '%s\n' "$stored" | LC_ALL=C KEYS=$keys MANIFEST=$manifest HOSTS=$* awk '
# comparable removes what may be secret: user, password, query and fragment.
function comparable(url) {
	sub(/[?#].*/, "", url)
	sub(/:\/\/[^\/]*@/, "://", url)
	return printable(url)
}

# printable replaces control characters of ASCII and those of Unicode, which could
# control the terminal.
function printable(s) {
	gsub(/[\001-\037\177]|\302[\200-\237]/, " ", s)
	return s
}

function shorten(s, bytes) {
	if (length(s) <= bytes)
		return s
	s = substr(s, 1, bytes)
	sub(/[\300-\377][\200-\277]*$/, "", s) # it may be half a character
	return s "..."
}

function add(host) {
	if (!(host in known)) {
		known[host] = 1
		hosts[++count] = host
		if (length(host) > width)
			width = length(host)
	}
}

function row(host, state, when, seconds, checksum, url, error) {
	line = sprintf("%-" width "s  %-6s  %-20s  %8s  %-12s  %s  %s", host, state, when, seconds, checksum, url, error)
	sub(/ +$/, "", line)
	print line
}

BEGIN {
	keys = ENVIRON["KEYS"]
	wanted = comparable(ENVIRON["MANIFEST"])
	width = length("HOST")
}

index($0, keys "manifest:") == 1 && wanted == "" {
	wanted = comparable(substr($0, length(keys "manifest:") + 1))
}

index($0, keys "hosts/") == 1 {
	host = substr($0, length(keys "hosts/") + 1)
	report = host
	sub(/:.*/, "", host)
	report = substr(report, length(host) + 2)
	host = printable(host)
	add(host)
	reports[host] = report
}

END {
	named = split(ENVIRON["HOSTS"], names, " ")
	for (i = 1; i <= named; i++)
		add(printable(names[i]))
	row("HOST", "STATE", "WHEN", "SECONDS", "CHECKSUM", "MANIFEST", "")
	ok = 0
	for (i = 1; i <= count; i++) {
		host = hosts[i]
		if (!(host in reports)) {
			row(host, "NONE", "", "", "", "", "")
			continue
		}
		fields = split(reports[host], field, "\t")
		for (j = fields + 1; j <= 8; j++)
			field[j] = ""
		for (j = 1; j <= 8; j++)
			field[j] = printable(field[j])
		url = comparable(field[6])
		state = "FAILED"
		if (wanted != "" && url != wanted)
			state = "OTHER"
		else if (field[2] == "success") {
			state = "ok"
			ok++
		}
		row(host, state, field[1], field[3], substr(field[4], 1, 12), url, shorten(field[8], 200))
	}
	printf "%d of %d hosts ok%s\n", ok, count, (wanted == "" ? "" : ": " wanted)
	exit !(count > 0 && ok == count)
}'
