package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// inTurn returns commands that record in the file "order" when the agent begins
// and ends its work on dest, and that block it in between until the file "gate"
// exists. The first one mentions dest, since mv refuses an existing dest before it
// otherwise.
func (s *site) inTurn() string {
	return fmt.Sprintf(`commands:
  pre: ["echo begin $PPID >> %[1]s; : $STRETCHER_DEST; while [ ! -e %[2]s ]; do sleep 0.02; done"]
  post: ["echo end $PPID >> %[1]s"]
  failure: ["echo end $PPID >> %[1]s"]`, s.path("order"), s.path("gate"))
}

func (s *site) openGate() {
	s.t.Helper()
	if err := os.WriteFile(s.path("gate"), nil, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) shutGate() {
	s.t.Helper()
	for _, name := range []string{"gate", "order"} {
		if err := os.RemoveAll(s.path(name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// order returns the pids of the agents that have worked on dest, in order. It
// fails the test if an agent began before the previous one had ended.
func (s *site) order() []int {
	s.t.Helper()
	data := read(s.t, s.path("order"))
	words := strings.Fields(string(data))
	if len(words)%4 != 0 {
		s.t.Fatalf("the order of events is %q", words)
	}
	var pids []int
	for e := range slices.Chunk(words, 4) {
		pid, err := strconv.Atoi(e[1])
		if err != nil || e[0] != "begin" || e[2] != "end" || e[1] != e[3] {
			s.t.Fatalf("the order of events is %q", words)
		}
		pids = append(pids, pid)
	}
	return pids
}

var waitingLine = regexp.MustCompile(`waiting for another deployment to \S+: pid (\S*), since (\S*)\n`)

// waitedFor returns the pids for which a run logged that it was waiting, without
// duplicates.
func waitedFor(t *testing.T, log string) []int {
	t.Helper()
	var pids []int
	for _, m := range waitingLine.FindAllStringSubmatch(log, -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil || m[2] == "" {
			t.Errorf("the log does not say for which pid it waits and since when: %q", m[0])
		}
		if !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Two deployments of different archives to the same dest, one of them through a
// symlink, are started at the same time. One waits for the other, and dest finally
// equals the archive of the one that ran last.
func TestTortureConcurrentDeployments(t *testing.T) {
	t.Parallel()
	const rounds = 50
	s := newSite(t)
	// The other site has the same dest under another name.
	alias := *s
	alias.dest = s.path("alias", "dest")
	if err := os.Symlink(filepath.Dir(s.dest), filepath.Dir(alias.dest)); err != nil {
		t.Fatal(err)
	}
	trees := tortured(100, false)
	urls := map[string][2]string{}
	for _, strategy := range []string{"rsync", "builtin"} {
		urls[strategy] = [2]string{
			s.publish(strategy+"-0", trees[0].pack(t), "sync_strategy: "+strategy, s.inTurn()),
			alias.publish(strategy+"-1", trees[1].pack(t), "sync_strategy: "+strategy, s.inTurn()),
		}
	}
	waited := 0
	for round := range rounds {
		s.shutGate()
		strategy := []string{"rsync", "builtin"}[round%2]
		// In every second pair of rounds, the gate is already open.
		gated := round%4 < 2
		if !gated {
			s.openGate()
		}
		first := rand.IntN(2)
		var runs [2]*running
		for _, i := range []int{first, 1 - first} {
			runs[i] = s.start(urls[strategy][i])
		}
		if gated {
			waitFor(t, "a run that waits for the other", func() error {
				if !waitingLine.MatchString(runs[0].log.String() + runs[1].log.String()) {
					return fmt.Errorf("the logs are:\n%s\n%s", &runs[0].log, &runs[1].log)
				}
				return nil
			})
			s.openGate()
		}
		logs := map[int]string{}
		tree := map[int]tree{}
		for i, r := range runs {
			pid := r.cmd.Process.Pid
			logs[pid] = r.wait().wantSuccess().log
			tree[pid] = trees[i]
		}
		order := s.order()
		if len(order) != 2 {
			t.Fatalf("these agents ran commands: %v", order)
		}
		if pids := waitedFor(t, logs[order[0]]); len(pids) != 0 {
			t.Errorf("the first one waited for %v", pids)
		}
		pids := waitedFor(t, logs[order[1]])
		if want := order[:1]; len(pids) > 0 && !slices.Equal(pids, want) || len(pids) == 0 && gated {
			t.Errorf("the second one waited for %v, not %v; its log:\n%s", pids, want, logs[order[1]])
		}
		waited += len(pids)
		s.wantDeployed(tree[order[1]])
		if t.Failed() {
			t.Fatalf("failed in round %d, with strategy %s", round, strategy)
		}
	}
	t.Logf("%d rounds; in %d of them, one deployment logged that it waited for the other", rounds, waited)
}

// Of two deployments with mv, one succeeds and the other fails because dest
// exists.
func TestTortureConcurrentMv(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	trees := tortured(100, false)
	var urls [2]string
	for i, tr := range trees {
		urls[i] = s.publish(fmt.Sprint(i), tr.pack(t), "sync_strategy: mv", s.inTurn())
	}
	for range 10 {
		s.shutGate()
		s.openGate()
		runs := [2]*running{s.start(urls[0]), s.start(urls[1])}
		outcomes := [2]*outcome{runs[0].wait(), runs[1].wait()}
		winner := 0
		if s.order()[0] == runs[1].cmd.Process.Pid {
			winner = 1
		}
		outcomes[winner].wantSuccess()
		outcomes[1-winner].wantFailure("dest exists already")
		s.wantDeployed(trees[winner])
		if err := openTree(s.dest); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(s.dest); err != nil {
			t.Fatal(err)
		}
	}
}

// When the holder of the lock is killed, the waiting deployment continues.
func TestTortureLockOfKilledHolder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tr := tortured(100, false)[0]
	url := s.publish("app", tr.pack(t), s.inTurn())
	holder := s.start(url)
	holder.waitForLog("invoking command: echo begin")
	waiter := s.start(url)
	waiter.waitForLog("waiting for another deployment")
	if err := holder.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	holder.wait()
	waiter.waitForLog("invoking command: echo begin") // the gate is still closed
	s.openGate()
	log := waiter.wait().wantSuccess().log
	if pids := waitedFor(t, log); !slices.Equal(pids, []int{holder.cmd.Process.Pid}) {
		t.Errorf("it waited for %v, want %d", pids, holder.cmd.Process.Pid)
	}
	s.waitForNoSurvivor()
	s.wantDeployed(tr)
}

// The lock file of a killed holder is removed even if dest has become a different
// directory in the meantime.
func TestTortureLockOfReplacedDest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tr := tortured(100, false)[0]
	url := s.publish("app", tr.pack(t), s.inTurn())
	if err := os.Mkdir(s.dest, 0o755); err != nil {
		t.Fatal(err)
	}
	holder := s.start(url)
	holder.waitForLog("invoking command: echo begin")
	if err := holder.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	holder.wait()
	s.waitForNoSurvivor()
	if err := os.Rename(s.dest, s.path("old-dest")); err != nil { // keeps its inode in use, so that the new dest has another one
		t.Fatal(err)
	}
	s.openGate()
	s.deploy(url)
	s.wantDeployed(tr)
}

// A hook may deploy to another dest. A deployment to the same dest would wait
// forever, so it fails with an error that says so.
func TestTortureNestedDeployments(t *testing.T) {
	t.Parallel()
	outer, inner := newSite(t), newSite(t)
	tr := tortured(100, false)[0]
	archive := tr.pack(t)
	// nest returns a hook that deploys the manifest at a URL, with the
	// environment of a site.
	nest := func(s *site, list, url string) string {
		return fmt.Sprintf("commands: {%s: [%q]}", list, fmt.Sprintf("echo %s | env TMPDIR=%s %s %s", url, s.path("tmp"), s.mark, stretcherPath))
	}
	plain := inner.publish("plain", archive)
	for _, list := range []string{"pre", "post", "success"} {
		outer.deploy(outer.publish("nested-"+list, archive, nest(inner, list, plain)))
		outer.wantDeployed(tr)
		inner.wantDeployed(tr)
		if err := openTree(inner.dest); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(inner.dest); err != nil {
			t.Fatal(err)
		}
	}

	self := outer.publish("plain", archive)
	const refused = "neither could go on"
	outer.start(outer.publish("self", archive, nest(outer, "pre", self))).wait().wantFailure(refused)
	outer.wantClean()
	through := inner.publish("through", archive, nest(outer, "post", self))
	outer.start(outer.publish("back", archive, nest(inner, "pre", through))).wait().wantFailure(refused)
	outer.wantClean()
	// The success commands run after the deployment and may deploy to the same
	// dest again.
	outer.deploy(outer.publish("again", archive, nest(outer, "success", self)))
	outer.wantDeployed(tr)
}
