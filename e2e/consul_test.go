package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// consul is a Consul agent.
type consul struct {
	*server
	host *host
	http string // address of its HTTP API
	lan  string // address at which other agents join it
}

// startConsul starts an agent with more arguments: a server that forms its own
// cluster, or a client of the given server.
func startConsul(t *testing.T, join *consul, more ...string) *consul {
	t.Helper()
	c := &consul{host: newHost(t)}
	consulTool := tool(t, "consul")
	c.server = startServer(t, "consul", func() *exec.Cmd {
		p := freePorts(t, 4)
		c.http, c.lan = fmt.Sprintf("127.0.0.1:%d", p[0]), fmt.Sprintf("127.0.0.1:%d", p[2])
		args := []string{"agent", "-node", fmt.Sprintf("node-%d", p[0]), "-disable-host-node-id",
			"-bind", "127.0.0.1", "-client", "127.0.0.1",
			"-http-port", strconv.Itoa(p[0]), "-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1", "-https-port=-1",
			"-server-port", strconv.Itoa(p[1]), "-serf-lan-port", strconv.Itoa(p[2]), "-serf-wan-port", strconv.Itoa(p[3]),
			"-hcl", "disable_update_check=true", "-log-level", "warn",
		}
		if join == nil {
			args = append(args, "-dev")
		} else {
			args = append(args, "-data-dir", t.TempDir(), "-retry-join", join.lan, "-retry-interval", "1s")
		}
		return c.host.command(consulTool, append(args, more...)...)
	}, c.ready)
	return c
}

// ready returns nil once the agent's cluster has a leader.
func (c *consul) ready() error {
	leader, err := get("http://" + c.http + "/v1/status/leader")
	if err == nil && !strings.Contains(leader, ":") {
		err = fmt.Errorf("no leader: %s", leader)
	}
	return err
}

// fire fires the event "deploy" and waits until this agent has received it, so
// that events which are fired one after another stay in order.
func (c *consul) fire(payload string) {
	c.t.Helper()
	before := c.events()
	args := []string{"event", "-http-addr", c.http, "-name", "deploy"}
	if payload != "" {
		args = append(args, payload)
	}
	output(c.t, c.host.command(tool(c.t, "consul"), args...))
	waitFor(c.t, "the event", func() error {
		if n := c.events(); n <= before {
			return fmt.Errorf("the agent has %d events", n)
		}
		return nil
	})
}

// events returns the number of events that this agent has received.
func (c *consul) events() int {
	c.t.Helper()
	list, err := get("http://" + c.http + "/v1/event/list?name=deploy")
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(list, `"ID"`)
}

// watch starts consul watch with the agent as its handler.
func (c *consul) watch(h *host, args ...string) *server {
	c.t.Helper()
	handler := strings.Join(append([]string{stretcherPath}, args...), " ")
	return launch(c.t, "consul-watch", h.command(tool(c.t, "consul"), "watch", "-http-addr", c.http, "-type", "event", "-name", "deploy", handler))
}

// wantWatching checks that the watch is still running.
func wantWatching(t *testing.T, watch *server) {
	t.Helper()
	if !watch.running() {
		t.Errorf("consul watch has exited:\n%s", watch.output())
	}
	wantNoRace(t, watch.output())
}

const noEvent = "No event: nothing to deploy."

// publish writes a release's archive and its manifest to the host's disk and
// returns the URL of the manifest.
func (h *host) publish(name string, r *release, manifest func(src, dest string, more ...string) string, more ...string) string {
	h.t.Helper()
	src := h.path("files", name+".tar.gz")
	write(h.t, src, r.archive)
	url := h.path("files", name+".yml")
	write(h.t, url, []byte(manifest(fileURL(src), h.path("dest"), more...)))
	return fileURL(url)
}

func TestConsulWatch(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t)
	one, two := newRelease(t, "one"), newRelease(t, "two")

	// The watch runs the handler at its start, with an empty list.
	watch := c.watch(h)
	watch.waitForOutput(noEvent, 1)
	wantMissing(t, h.path("dest"))

	c.fire(h.publish("one", one, one.manifest))
	watch.waitForOutput("Deploy manifest succeeded.", 1)
	one.wantDeployed(t, h.path("dest"))

	// The log names the event as consul event did.
	list, err := get("http://" + c.http + "/v1/event/list?name=deploy")
	if err != nil {
		t.Fatal(err)
	}
	var events []struct{ ID string }
	if err := json.Unmarshal([]byte(list), &events); err != nil || len(events) != 1 {
		t.Fatalf("%v: %s", err, list)
	}
	watch.waitForOutput("Consul event ID: "+events[0].ID, 1)

	// A failure in any step changes nothing and does not end the watch.
	c.fire(h.publish("bad", two, two.badManifest))
	watch.waitForOutput("Checksum mismatch", 1)
	watch.waitForOutput("Deploy manifest failed:", 1)
	c.fire(fileURL(h.path("files", "missing.yml")))
	watch.waitForOutput("Load manifest failed:", 1)
	c.fire("") // an event without a payload
	watch.waitForOutput("has no payload", 1)
	c.fire(h.publish("fails", two, two.manifest, "commands: {pre: [exit 7]}"))
	watch.waitForOutput("failed: exit 7 exit status 7", 1)
	wantWatching(t, watch)
	one.wantDeployed(t, h.path("dest"))

	c.fire(h.publish("two", two, two.manifest))
	watch.waitForOutput("Deploy manifest succeeded.", 2)
	two.wantDeployed(t, h.path("dest"))
	wantWatching(t, watch)
}

// A watch that starts after events have been fired receives all of them. The last
// one is deployed.
func TestConsulWatchStartsWithOldEvents(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t)
	one, two := newRelease(t, "one"), newRelease(t, "two")
	c.fire(h.publish("one", one, one.manifest, "commands: {success: [echo one >> "+h.path("deployed")+"]}"))
	c.fire(h.publish("two", two, two.manifest, "commands: {success: [echo two >> "+h.path("deployed")+"]}"))

	watch := c.watch(h)
	watch.waitForOutput("Done", 1)
	two.wantDeployed(t, h.path("dest"))
	wantFile(t, h.path("deployed"), "two\n")
	wantWatching(t, watch)
}

// Events that arrive while the handler is busy are passed as one list.
func TestConsulEventsWhileBusy(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t)
	watch := c.watch(h)
	watch.waitForOutput(noEvent, 1)

	deployed := func(name string) string {
		return "commands:\n  success: [echo " + name + " >> " + h.path("deployed") + "]\n"
	}
	one, two, three := newRelease(t, "one"), newRelease(t, "two"), newRelease(t, "three")
	busy := "  pre:\n  - touch " + h.path("busy") + "\n  - while [ ! -e " + h.path("go-on") + " ]; do sleep 0.05; done\n"
	c.fire(h.publish("one", one, one.manifest, deployed("one")+busy))
	waitForFile(t, h.path("busy"))
	c.fire(h.publish("two", two, two.manifest, deployed("two")))
	c.fire(h.publish("three", three, three.manifest, deployed("three")))
	write(t, h.path("go-on"), nil)

	watch.waitForOutput("Done", 2)
	three.wantDeployed(t, h.path("dest"))
	wantFile(t, h.path("deployed"), "one\nthree\n")
	wantWatching(t, watch)
}

// An event reaches the hosts of all agents in a cluster.
func TestConsulCluster(t *testing.T) {
	t.Parallel()
	first := startConsul(t, nil)
	second := startConsul(t, first)
	waitFor(t, "two members", func() error {
		members := output(t, first.host.command(tool(t, "consul"), "members", "-http-addr", first.http))
		if n := strings.Count(members, "alive"); n != 2 {
			return fmt.Errorf("the members are:\n%s", members)
		}
		return nil
	})

	shared := newHost(t) // both hosts can read its files
	r := newRelease(t, "one")
	src, manifest := shared.path("app.tar.gz"), shared.path("app.yml")
	write(t, src, r.archive)
	write(t, manifest, []byte(r.manifest(fileURL(src), `{{ must_env "HOME" }}/app`)))

	var hosts []*host
	var watches []*server
	for _, c := range []*consul{first, second} {
		h := newHost(t)
		watch := c.watch(h)
		watch.waitForOutput(noEvent, 1)
		hosts, watches = append(hosts, h), append(watches, watch)
	}
	first.fire(fileURL(manifest))
	for i, watch := range watches {
		watch.waitForOutput("Done", 1)
		r.wantDeployed(t, hosts[i].path("home", "app"))
		wantWatching(t, watch)
	}
}

// A Consul agent loses its events when it is restarted, and consul watch then
// passes an empty list again. Nothing is deployed twice, and the next event is
// deployed.
func TestConsulAgentRestart(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t)
	r := newRelease(t, "one")
	watch := c.watch(h)
	watch.waitForOutput(noEvent, 1)
	c.fire(h.publish("one", r, r.manifest))
	watch.waitForOutput("Done", 1)

	c.stop()
	args := c.cmd.Args[1:]
	c.server = launch(t, "consul-again", c.host.command(c.cmd.Path, args...))
	waitFor(t, "the agent", c.ready)
	watch.waitForOutput(noEvent, 2)
	if n := strings.Count(watch.output(), "Deploy manifest succeeded."); n != 1 {
		t.Errorf("%d deployments of one event, want 1", n)
	}
	two := newRelease(t, "two")
	c.fire(h.publish("two", two, two.manifest))
	watch.waitForOutput("Done", 2)
	two.wantDeployed(t, h.path("dest"))
	wantWatching(t, watch)
}

// The agent itself can watch, if it is configured to. It shows the output of the
// handler only at its debug level. A reload restarts the watch, which deploys the
// last event again.
func TestConsulWatchOfAgent(t *testing.T) {
	t.Parallel()
	for level, shown := range map[string]bool{"info": false, "debug": true} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			config := h.path("etc", "watch.json")
			write(t, config, fmt.Appendf(nil, `{"watches": [{"type": "event", "name": "deploy", "handler_type": "script", "args": ["sh", "-c", %q]}]}`, "exec "+stretcherPath+" -retry 3"))
			c := startConsul(t, nil, "-log-level", level, "-config-file", config)
			r := newRelease(t, "one")
			c.fire(h.publish("one", r, r.manifest, "commands: {success: [echo done >> "+h.path("deployed")+"]}"))
			waitForDeployments := func(want string) {
				t.Helper()
				waitFor(t, "the deployments", func() error {
					deployed, err := os.ReadFile(h.path("deployed"))
					if err == nil && string(deployed) != want {
						err = fmt.Errorf("there were %q", deployed)
					}
					return err
				})
			}
			waitForDeployments("done\n")
			r.wantDeployed(t, h.path("dest"))

			output(t, c.host.command(tool(t, "consul"), "reload", "-http-addr", c.http))
			waitForDeployments("done\ndone\n")
			if shown {
				c.waitForOutput("Deploy manifest succeeded.", 2)
			} else if strings.Contains(c.output(), "Deploy manifest succeeded.") {
				t.Errorf("the agent shows the output of its handler at level %s:\n%s", level, c.output())
			}
		})
	}
}
