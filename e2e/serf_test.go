package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// serfNode is a Serf agent with stretcher as its event handler.
type serfNode struct {
	*server
	host *host
	bind string // address at which other nodes join it
	rpc  string
}

// startSerfAgent starts the agent that start returns, which has to use the two
// addresses: at one of them other nodes join it, at the other it takes commands.
func startSerfAgent(t *testing.T, start func(bind, rpc string) *exec.Cmd) (agent *server, bind, rpc string) {
	t.Helper()
	serf := tool(t, "serf")
	agent = startServer(t, "serf", func() *exec.Cmd {
		p := freePorts(t, 2)
		bind, rpc = fmt.Sprintf("127.0.0.1:%d", p[0]), fmt.Sprintf("127.0.0.1:%d", p[1])
		return start(bind, rpc)
	}, func() error {
		return exec.Command(serf, "members", "-rpc-addr", rpc).Run()
	})
	return agent, bind, rpc
}

// startSerf starts a cluster of n nodes whose handlers log to serf.log in the
// home directories of their hosts. The options are those of stretcher.
func startSerf(t *testing.T, n int, options ...string) []*serfNode {
	t.Helper()
	serf := tool(t, "serf")
	handler := strings.Join(append([]string{stretcherPath}, options...), " ")
	var nodes []*serfNode
	for i := range n {
		node := &serfNode{host: newHost(t)}
		node.server, node.bind, node.rpc = startSerfAgent(t, func(bind, rpc string) *exec.Cmd {
			args := []string{"agent", "-node", fmt.Sprintf("node-%d", i), "-bind", bind, "-rpc-addr", rpc, "-profile", "local",
				"-event-handler", "user:deploy=" + handler + " >> " + node.logFile() + " 2>&1",
			}
			if i > 0 {
				args = append(args, "-retry-join", nodes[0].bind, "-retry-interval", "1s")
			}
			return node.host.command(serf, args...)
		})
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		node.waitForMembers(n)
	}
	return nodes
}

// waitForMembers waits until the node knows so many members of its cluster that are alive.
func (n *serfNode) waitForMembers(count int) {
	n.t.Helper()
	waitFor(n.t, "the cluster", func() error {
		members, err := n.command("members").Output()
		if alive := strings.Count(string(members), "alive"); err == nil && alive != count {
			err = fmt.Errorf("the members are:\n%s", members)
		}
		return err
	})
}

// command returns a serf command that connects to the node.
func (n *serfNode) command(name string, args ...string) *exec.Cmd {
	return n.host.command(tool(n.host.t, "serf"), append([]string{name, "-rpc-addr", n.rpc}, args...)...)
}

func (n *serfNode) fire(args ...string) {
	n.t.Helper()
	output(n.t, n.command("event", args...))
}

func (n *serfNode) logFile() string { return n.host.path("home", "serf.log") }

// waitForLog waits until the log of the node's handlers contains text count
// times.
func (n *serfNode) waitForLog(text string, count int) {
	n.t.Helper()
	waitForText(n.t, n.logFile(), text, count)
}

// log returns the log of the node's handlers.
func (n *serfNode) log() string {
	n.t.Helper()
	log, err := os.ReadFile(n.logFile())
	if err != nil {
		n.t.Error(err)
	}
	wantNoRace(n.t, string(log))
	return string(log)
}

// serve serves a directory over HTTP and returns its URL.
func serve(t *testing.T, dir string) string {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(s.Close)
	return s.URL
}

// publisher publishes releases for all nodes of a cluster. Each node deploys to
// its own home directory.
type publisher struct {
	t        *testing.T
	dir, url string
}

func newPublisher(t *testing.T) *publisher {
	dir := t.TempDir()
	return &publisher{t: t, dir: dir, url: serve(t, dir)}
}

func (p *publisher) publish(name string, r *release) (url string) {
	p.t.Helper()
	write(p.t, p.dir+"/files/"+name+".tar.gz", r.archive)
	write(p.t, p.dir+"/files/"+name+".yml", []byte(r.manifest(p.url+"/files/"+name+".tar.gz", `{{ must_env "HOME" }}/app`,
		"commands:", "  post:", "  - echo "+name+" $SERF_EVENT $SERF_USER_EVENT $SERF_SELF_NAME $STRETCHER_EVENT_ID >> $HOME/deployed")))
	return p.url + "/files/" + name + ".yml"
}

func TestSerfCluster(t *testing.T) {
	t.Parallel()
	nodes := startSerf(t, 3)
	p := newPublisher(t)
	one := newRelease(t, "one")
	nodes[0].fire("deploy", p.publish("one", one))
	for i, n := range nodes {
		n.waitForLog("Done", 1)
		n.waitForLog("Reading Serf user event: deploy", 1)
		one.wantDeployed(t, n.host.path("home", "app"))
		deployed := string(read(t, n.host.path("home", "deployed")))
		// The ID is a Lamport time, which differs from run to run.
		want := fmt.Sprintf("one user deploy node-%d ", i)
		if id, ok := strings.CutPrefix(deployed, want); !ok || strings.TrimSpace(id) == "" {
			t.Errorf("node %d deployed %q, want %q and the ID of an event", i, deployed, want)
		}
		n.log()
	}

	// Events with other names are ignored.
	nodes[1].fire("restart", "no-url")
	// An event without a payload is an error that says what was expected.
	nodes[1].fire("deploy")
	for _, n := range nodes {
		n.waitForLog("stdin is empty: expected a manifest URL", 1)
		if log := n.log(); strings.Contains(log, "no-url") {
			t.Errorf("an event with another name was deployed:\n%s", log)
		}
	}

	// A failure is logged on every node, and dest stays as it was.
	nodes[2].fire("deploy", p.url+"/files/missing.yml")
	for _, n := range nodes {
		n.waitForLog("404 Not Found", 1)
		one.wantDeployed(t, n.host.path("home", "app"))
	}
	two := newRelease(t, "two")
	nodes[2].fire("deploy", p.publish("two", two))
	for _, n := range nodes {
		n.waitForLog("Done", 2)
		two.wantDeployed(t, n.host.path("home", "app"))
	}
}

// Events in quick succession are coalesced: the newest is deployed, while older
// ones may be skipped.
func TestSerfCoalesced(t *testing.T) {
	t.Parallel()
	nodes := startSerf(t, 3)
	p := newPublisher(t)
	var urls []string
	var last *release
	for _, name := range []string{"one", "two", "three", "four", "five"} {
		last = newRelease(t, name)
		urls = append(urls, p.publish(name, last))
	}
	for _, url := range urls {
		nodes[0].fire("deploy", url)
	}
	for _, n := range nodes {
		waitFor(t, "the last deployment", func() error {
			log, err := os.ReadFile(n.logFile())
			if err != nil {
				return err
			}
			if strings.Count(string(log), "Starting up") > strings.Count(string(log), "Done") {
				return fmt.Errorf("a handler is still running:\n%s", log)
			}
			return last.files.differs(n.host.path("home", "app"))
		})
		n.log()
	}
}

// Events that are sent with -coalesce=false are all deployed.
func TestSerfNotCoalesced(t *testing.T) {
	t.Parallel()
	nodes := startSerf(t, 3)
	p := newPublisher(t)
	for i, name := range []string{"one", "two", "three"} {
		r := newRelease(t, name)
		nodes[0].fire("-coalesce=false", "deploy", p.publish(name, r))
		for _, n := range nodes {
			n.waitForLog("Done", i+1)
			r.wantDeployed(t, n.host.path("home", "app"))
		}
	}
	// Events that are fired together may arrive in any order, but none is lost,
	// and dest finally equals one of the releases.
	four, five := newRelease(t, "four"), newRelease(t, "five")
	nodes[0].fire("-coalesce=false", "deploy", p.publish("four", four))
	nodes[0].fire("-coalesce=false", "deploy", p.publish("five", five))
	for _, n := range nodes {
		n.waitForLog("Done", 5)
		app := n.host.path("home", "app")
		if errFour, errFive := four.files.differs(app), five.files.differs(app); errFour != nil && errFive != nil {
			t.Errorf("dest is neither of the two releases: %v; %v", errFour, errFive)
		}
		n.log()
	}
}
