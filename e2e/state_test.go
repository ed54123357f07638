package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// linesOf returns the lines of a file, none if there is no such file.
func linesOf(t *testing.T, path string) (lines []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// A watch that is restarted deploys nothing twice, but what failed again.
func TestStateConsulWatchRestarted(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t, "STRETCHER_METRICS_FILE=stretcher.prom")
	one, two := newRelease(t, "one"), newRelease(t, "two")
	tell := func(name string) string {
		return fmt.Sprintf("commands: {post: [echo %s >> %s], success: [echo %s >> %s]}", name, h.path("post"), name, h.path("success"))
	}
	var watch *server
	// restart restarts the watch, which passes all events of its agent again, and waits
	// until its handler logs text.
	restart := func(text string) {
		t.Helper()
		if watch != nil {
			wantWatching(t, watch)
			watch.stop()
		}
		watch = c.watch(h, "-state-dir", h.path("state"))
		watch.waitForOutput(text, 1)
	}
	wantRun := func(post, success string) {
		t.Helper()
		if got := strings.Join(linesOf(t, h.path("post")), " "); got != post {
			t.Errorf("post ran for %q, want %q", got, post)
		}
		if got := strings.Join(linesOf(t, h.path("success")), " "); got != success {
			t.Errorf("success ran for %q, want %q", got, success)
		}
	}
	const skipped, done = "Skipping the Consul event ", "Done: "

	c.fire(h.publish("one", one, one.manifest, tell("one")))
	restart(done)
	restart(skipped)
	restart(skipped)
	wantRun("one", "one")

	// The second event fails, until its archive is what its manifest says.
	c.fire(h.publish("two", two, two.badManifest, tell("two")))
	watch.waitForOutput("Checksum mismatch", 1)
	restart("Checksum mismatch")
	restart("Checksum mismatch")
	one.wantDeployed(t, h.path("dest"))
	h.publish("two", two, two.manifest, tell("two"))
	restart(done)
	two.wantDeployed(t, h.path("dest"))
	restart(skipped)
	wantRun("one two", "one two")

	// Somebody deploys the first release again by hand, which the watch does not undo.
	h.stretcher(fileURL(h.path("files", "one.yml")), "-state-dir", h.path("state")).wantSuccess()
	restart(skipped)
	one.wantDeployed(t, h.path("dest"))
	wantRun("one two one", "one two one")

	// The same manifest in a new event is deployed.
	c.fire(fileURL(h.path("files", "two.yml")))
	watch.waitForOutput(done, 1)
	two.wantDeployed(t, h.path("dest"))

	if n := len(linesOf(t, h.path("state", "history.jsonl"))); n < 7 {
		t.Errorf("the history has %d lines", n)
	}
	wantMetrics(t, h.path("work", "stretcher.prom"),
		fmt.Sprintf(`stretcher_last_deploy_success{dest=%q} 1`, h.path("dest")),
		fmt.Sprintf(`stretcher_deploys_total{dest=%q,result="success"} 4`, h.path("dest")),
		fmt.Sprintf(`stretcher_deploys_total{dest=%q,result="failure"} 3`, h.path("dest")))
	wantWatching(t, watch)
}

// wantMetrics checks that a metrics file has the lines, and that Prometheus has nothing
// to say against it.
func wantMetrics(t *testing.T, path string, lines ...string) {
	t.Helper()
	data := read(t, path)
	for _, line := range lines {
		if !strings.Contains(string(data), line+"\n") {
			t.Errorf("the metrics lack %s:\n%s", line, data)
		}
	}
	problems, err := promlint.New(strings.NewReader(string(data))).Lint()
	if err != nil {
		t.Errorf("%v:\n%s", err, data)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The agent is killed around the end of a deployment, and with it the watch ends. The
// next watch passes the event again: it is not deployed again if somebody may have been
// told that it succeeded, by the log or by a success command.
func TestStateConsulAgentKilled(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newHost(t)
	r := newRelease(t, "one")
	url := h.publish("one", r, r.manifest, "sync_strategy: builtin", fmt.Sprintf("commands: {pre: ['echo $PPID > %[1]s.new && mv %[1]s.new %[1]s'], post: ['echo $STRETCHER_EVENT_ID >> %[2]s', sleep 0.03], success: ['echo $STRETCHER_EVENT_ID >> %[3]s', sleep 0.1]}", h.path("agent"), h.path("post"), h.path("success")))
	count := func(name, id string) (n int) {
		for _, line := range linesOf(t, h.path(name)) {
			if line == id {
				n++
			}
		}
		return n
	}
	watch := c.watch(h, "-state-dir", h.path("state"))
	watch.waitForOutput(noEvent, 1)
	killed, again := 0, 0
	for round := range 24 {
		os.Remove(h.path("agent"))
		posts := len(linesOf(t, h.path("post")))
		c.fire(url)
		var pid int
		waitFor(t, "the agent", func() error {
			data, err := os.ReadFile(h.path("agent"))
			if err == nil {
				pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
			}
			return err
		})
		switch round % 4 {
		case 0: // as soon as the log tells the success
			watch.waitForOutput("Deploy manifest succeeded.", 1)
		case 1: // as soon as post has run, and a little later
			waitFor(t, "post", func() error {
				if len(linesOf(t, h.path("post"))) == posts {
					return fmt.Errorf("it has not run")
				}
				return nil
			})
			time.Sleep(rand.N(60 * time.Millisecond))
		default: // at any time
			time.Sleep(rand.N(100 * time.Millisecond))
		}
		program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // fails if it has ended
		if program == stretcherPath && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
		watch.stop()
		log := watch.output()
		_, id, _ := strings.Cut(log[strings.LastIndex(log, "Consul event ID: "):], ": ")
		id = strings.Fields(id)[0]
		told := strings.Contains(log[strings.LastIndex(log, id):], "Deploy manifest succeeded.") || count("success", id) > 0
		posts = count("post", id)

		watch = c.watch(h, "-state-dir", h.path("state"))
		watch.waitForOutput("Consul event ID: "+id, 1)
		var skipped bool
		waitFor(t, "the handler", func() error {
			skipped = strings.Contains(watch.output(), "Skipping the Consul event "+id)
			if !skipped && !strings.Contains(watch.output(), "Done: ") {
				return fmt.Errorf("its log is:\n%s", watch.output())
			}
			return nil
		})
		switch {
		case told && !skipped:
			t.Errorf("round %d: it was deployed again after it was told to have succeeded:\n%s", round, log)
		case skipped && (posts != 1 || count("post", id) != 1):
			t.Errorf("round %d: it was skipped, and post ran %d times", round, count("post", id))
		}
		if n := count("success", id); n > 1 || n == 0 && !skipped {
			t.Errorf("round %d: success ran %d times", round, n)
		}
		if !skipped {
			again++
		}
		wantWatching(t, watch)
	}
	t.Logf("%d agents were killed, %d events deployed again", killed, again)
	r.wantDeployed(t, h.path("dest"))
}

// A Serf agent that joins with -replay passes old events again, and others may arrive
// late. They are skipped.
func TestStateSerfReplay(t *testing.T) {
	t.Parallel()
	nodes := startSerf(t, 2, "-state-dir", "$HOME/state")
	p := newPublisher(t)
	one, two := newRelease(t, "one"), newRelease(t, "two")
	nodes[0].fire("deploy", p.publish("one", one))
	for _, n := range nodes {
		n.waitForLog("Done", 1)
	}
	nodes[0].fire("deploy", p.publish("two", two))
	for _, n := range nodes {
		n.waitForLog("Done", 2)
		two.wantDeployed(t, n.host.path("home", "app"))
	}

	// The second node has been down, and asks the first for what it has missed.
	second := nodes[1]
	args := second.cmd.Args[1:]
	second.stop()
	second.server = launch(t, "serf-again", second.host.command(second.cmd.Path, append(args, "-replay")...))
	second.waitForLog("Skipping the Serf event deploy with Lamport time ", 1)
	waitFor(t, "the handlers", func() error {
		if log := second.log(); strings.Count(log, "Starting up") != strings.Count(log, "Done")+strings.Count(log, "Skipping the") {
			return fmt.Errorf("the log is:\n%s", log)
		}
		return nil
	})
	two.wantDeployed(t, second.host.path("home", "app"))
	if got := linesOf(t, second.host.path("home", "deployed")); strings.Count(strings.Join(got, " "), " user deploy ") != 2 {
		t.Errorf("it deployed %q", got)
	}

	// An older event, as one sent with -coalesce=false may arrive after a newer one.
	old := second.host.command("sh", "-c", "echo "+p.url+"/files/one.yml | "+stretcherPath+" -state-dir $HOME/state")
	old.Env = append(old.Env, "SERF_EVENT=user", "SERF_USER_EVENT=deploy", "SERF_USER_LTIME=1")
	if log := output(t, old); !strings.Contains(log, "Skipping the Serf event deploy with Lamport time 1: ") {
		t.Errorf("an old event was not skipped:\n%s", log)
	}
	two.wantDeployed(t, second.host.path("home", "app"))

	// A new event is deployed by both.
	nodes[0].waitForMembers(2)
	three := newRelease(t, "three")
	nodes[0].fire("deploy", p.publish("three", three))
	for _, n := range nodes {
		n.waitForLog("Done", 3)
		three.wantDeployed(t, n.host.path("home", "app"))
	}
}

// What was deployed is on disk before post runs; the state is, after post and before
// anybody is told of a success.
func TestStateOrder(t *testing.T) {
	t.Parallel()
	archive := tortured(30, false)[0].pack(t)
	for _, strategy := range []string{"rsync", "builtin", "mv", "symlink"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.env = append(s.env, "STRETCHER_STATE_DIR="+s.path("state"))
			url := s.publish("app", archive, "sync_strategy: "+strategy, "commands: {post: [true  post], success: [true  success]}")
			for run := range 2 {
				if run == 1 && strategy == "mv" {
					break // it needs a dest that does not exist
				}
				s.strace(url, "-s", "200", "-e", "trace=syncfs,fsync,?rename,?renameat,renameat2,write,execve").wait().wantSuccess()
				trace := string(read(t, s.path("trace")))
				sync := strings.LastIndex(trace, "syncfs(")
				post := strings.Index(trace, `"true  post"]`)
				state := strings.LastIndex(trace, `state.json.tmp"`)
				told := strings.Index(trace, "Deploy manifest succeeded.")
				success := strings.Index(trace, `"true  success"]`)
				if sync < 0 || sync > post || post > state || state > told || told > success {
					t.Fatalf("run %d: syncfs at %d, post at %d, state at %d, told at %d, success at %d:\n%s", run, sync, post, state, told, success, trace)
				}
				// The state itself before its rename, and the directory after it.
				if n := strings.Count(trace[post:state], "fsync("); n != 1 {
					t.Errorf("run %d: %d flushes before the state is in place, want 1", run, n)
				}
				if strings.Count(trace[state:told], "fsync(") < 1 {
					t.Errorf("run %d: the directory of the state is not flushed", run)
				}
			}
		})
	}
}

// All that may be in a metrics file passes the checks of Prometheus.
func TestMetricsLint(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := newRelease(t, "one")
	file := filepath.Join(h.path("work"), "stretcher.prom")
	options := []string{"-metrics-file", file, "-state-dir", h.path("state")}
	good := h.publish("one", r, r.manifest)
	write(t, h.path("files", "commands.yml"), []byte("commands: {post: ['true']}\n"))
	h.stretcher(good, options...).wantSuccess()
	h.stretcher(fileURL(h.path("files", "commands.yml")), options...).wantSuccess()
	h.stretcher(fileURL(h.path("files", "one", `missing "é\`)), options...).wantFailure("Load manifest failed")
	wantMetrics(t, file,
		fmt.Sprintf(`stretcher_last_deploy_success{dest=%q} 1`, h.path("dest")),
		`stretcher_last_deploy_success{dest=""} 1`,
		`stretcher_last_deploy_success{dest="unknown"} 0`,
		fmt.Sprintf(`stretcher_last_deploy_downloaded_bytes{dest=%q} %d`, h.path("dest"), len(r.archive)),
		`stretcher_deploys_total{dest="unknown",result="failure"} 1`)
}
