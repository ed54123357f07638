# Lets the Consul agent start stretcher itself, instead of by stretcher-consul.service.
#
# Copy it to /etc/consul.d, then: consul reload
#
# Deployments run as the user of the agent, with the restrictions of its unit. This is
# commonly "consul": dest and the state directory have to be writable by it, owners of
# files are not restored, and commands that need root have to use sudo. Where hosts
# deploy as root, use the unit.
#
# The agent shows the output of handlers only at its debug log level. systemd-cat sends
# it to the journal instead: journalctl -t stretcher
#
# After a reload, the agent passes the last event again; with -state-dir, it is skipped if
# it was deployed. The limits keep a download or command that hangs from keeping
# this host from all later deployments. Add -allow and -public-key, as docs/security.md
# shows: without them, whoever can fire the event decides what runs on this host.
watches = [
  {
    type         = "event"
    name         = "deploy"
    handler_type = "script"
    args = [
      "systemd-cat", "-t", "stretcher",
      "/usr/local/bin/stretcher", "-retry", "3", "-random-delay", "10",
      "-timeout", "30m", "-command-timeout", "10m", "-max-size", "10GB",
      "-state-dir", "/var/lib/stretcher",
    ]
  },
]
