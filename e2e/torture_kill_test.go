package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	tortureSeed  = flag.Uint64("torture.seed", 0, "seed of the torture tests; 0 means a random one")
	tortureKills = flag.Int("torture.kills", 34, "number of times that the kill test kills each strategy with each signal")
)

// victim is a site whose deployments are killed.
type victim struct {
	*site
	program  string // the program that is killed
	strategy string
	signal   syscall.Signal
	random   *rand.Rand
	trees    [2]tree
	urls     [2]string

	whole   time.Duration // duration of the last undisturbed run
	syncing time.Duration // its duration from the beginning of the sync

	kills  int
	phases map[string]int // number of kills in each phase
	mixed  int            // number of kills that left dest between two versions
}

// Deployments with each strategy are killed at random times. After each kill, dest
// must be in a state that the strategy promises. The next undisturbed run must make
// it equal to the archive, and must leave no trace of the killed runs.
func TestTortureKill(t *testing.T) {
	t.Parallel()
	seed := *tortureSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	start := time.Now()
	var mu sync.Mutex
	kills, phases := 0, map[string]int{}
	t.Run("strategy", func(t *testing.T) {
		for i, strategy := range []string{"rsync", "mv", "builtin", "symlink"} {
			for j, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				t.Run(fmt.Sprintf("%s %s", strategy, signalName(signal)), func(t *testing.T) {
					t.Parallel()
					random := rand.New(rand.NewPCG(seed, uint64(2*i+j)))
					v := newVictim(t, strategy, signal, random)
					for v.kills < *tortureKills && !t.Failed() {
						v.torture()
					}
					t.Logf("seed %d: %d kills, dest mixed after %d of them; a run took %s, its sync %s; kills by phase: %v",
						seed, v.kills, v.mixed, v.whole.Round(time.Millisecond), v.syncing.Round(time.Millisecond), v.phases)
					mu.Lock()
					defer mu.Unlock()
					kills += v.kills
					for phase, n := range v.phases {
						phases[phase] += n
					}
				})
			}
		}
	})
	t.Logf("seed %d: %d kills in %s; kills by phase: %v", seed, kills, time.Since(start).Round(time.Second), phases)
}

// The next run removes what killed runs have left in TMPDIR, but keeps the files of
// a run that is still alive.
func TestTortureLeftoversBesideTheLiving(t *testing.T) {
	t.Parallel()
	living, others := newSite(t), newSite(t)
	trees := tortured(100, false)
	held := filepath.Join(living.path("bin"), "rsync")
	write(t, held, fmt.Appendf(nil, "#!/bin/sh\nwhile [ ! -e %s ]; do sleep 0.02; done\nexec %s \"$@\"\n", living.path("gate"), program(t, "rsync")))
	if err := os.Chmod(held, 0o755); err != nil {
		t.Fatal(err)
	}
	withHeld := "PATH=" + living.path("bin") + ":" + os.Getenv("PATH")
	run := living.command(stretcherPath)
	run.Env = append(run.Env, withHeld)
	r := living.startCommand(run, living.publish("app", trees[0].pack(t)))
	r.waitForLog("invoking command: rsync")

	others.env = append(others.env, "TMPDIR="+living.path("tmp"))
	url := others.publish("app", trees[1].pack(t))
	for range 3 {
		cmd := others.command(stretcherPath)
		cmd.Env = append(cmd.Env, withHeld)
		killed := others.startCommand(cmd, url)
		killed.waitForLog("invoking command: rsync")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		killed.wait()
		others.waitForNoSurvivor()
	}
	others.deploy(url)
	others.wantDeployed(trees[1])
	left, err := os.ReadDir(living.path("tmp"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("TMPDIR contains %v, want only the directory of the running deployment", left)
	}
	living.openGate()
	r.wait().wantSuccess()
	living.wantDeployed(trees[0])
}

func signalName(s syscall.Signal) string {
	return map[syscall.Signal]string{syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", syscall.SIGHUP: "SIGHUP"}[s]
}

func newVictim(t *testing.T, strategy string, signal syscall.Signal, random *rand.Rand) *victim {
	v := &victim{site: newSite(t), program: stretcherPath, strategy: strategy, signal: signal, random: random, trees: tortured(300, strategy == "builtin"), phases: map[string]int{}}
	if signal == syscall.SIGKILL {
		v.program = plainPath(t) // SIGKILL leaves it no time to report a race
	}
	for i, tr := range v.trees {
		v.urls[i] = v.publish(fmt.Sprintf("version-%d", i), tr.pack(t), unpackedAgain(strategy), v.hooks())
	}
	v.repair() // the first deployment, with nothing to repair yet
	return v
}

// torture kills several runs in a row and then repairs dest.
func (v *victim) torture() {
	v.t.Helper()
	for range 1 + v.random.IntN(5) {
		killed := v.kill()
		// Sometimes repair immediately, while children are still exiting.
		atOnce := killed && v.signal == syscall.SIGKILL && v.random.IntN(3) == 0
		if v.signal == syscall.SIGKILL && !atOnce {
			v.waitForNoSurvivor()
		}
		v.wantPromise()
		if v.t.Failed() {
			return
		}
		if atOnce {
			break
		}
	}
	v.repair()
}

// repair runs an undisturbed deployment and checks its result.
func (v *victim) repair() {
	v.t.Helper()
	i := v.random.IntN(2)
	if v.strategy == "mv" {
		v.removeDest()
	}
	v.ran()
	program := plainPath(v.t)
	if v.whole == 0 || v.random.IntN(3) == 0 {
		program = v.program
	}
	seen := &sighting{text: "Syncing to"}
	o := v.startWatched(program, v.urls[i], seen).wait().wantSuccess()
	if program == v.program {
		v.whole, v.syncing = o.took, time.Since(seen.at)
	}
	v.wantDeployed(v.trees[i])
	if ran, want := v.ran(), []string{"pre:", "post:", "success:success"}; !slices.Equal(ran, want) {
		v.t.Errorf("commands that ran: %v, want %v", ran, want)
	}
	if v.strategy == "mv" || v.strategy == "symlink" {
		wantSameFile(v.t, v.dest+"/hard/a", v.dest+"/hard/b")
	}
	if v.strategy == "symlink" {
		v.wantOneRelease()
	}
	if v.strategy == "mv" {
		v.removeDest()
	}
}

// removeDest removes a dest that a run with mv has completed.
func (v *victim) removeDest() {
	v.t.Helper()
	if err := openTree(v.dest); err != nil {
		v.t.Fatal(err)
	}
	if err := os.RemoveAll(v.dest); err != nil {
		v.t.Fatal(err)
	}
}

func wantSameFile(t *testing.T, a, b string) {
	t.Helper()
	ia, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	ib, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(ia, ib) {
		t.Errorf("%s and %s are not the same file", a, b)
	}
}

// kill runs a deployment and kills it: at any time, after the sync has begun, or
// when dest begins to change. It reports whether the signal arrived before the run
// had ended.
func (v *victim) kill() bool {
	v.t.Helper()
	if v.strategy == "mv" {
		v.removeDest()
	}
	v.ran()
	link, _ := os.Readlink(v.dest) // "" if dest is none
	seen := &sighting{text: "Syncing to"}
	r := v.startWatched(v.program, v.urls[v.random.IntN(2)], seen)
	switch v.random.IntN(3) {
	case 0:
		time.Sleep(time.Duration(v.random.Int64N(int64(v.whole))))
	case 1:
		seen.wait(r)
		time.Sleep(time.Duration(v.random.Int64N(int64(v.syncing))))
	case 2:
		before := v.glance()
		seen.wait(r)
		for ended := false; !ended && slices.Equal(v.glance(), before); time.Sleep(100 * time.Microsecond) {
			select {
			case <-r.done:
				ended = true
			default:
			}
		}
		time.Sleep(time.Duration(v.random.ExpFloat64() * float64(2*time.Millisecond)))
	}
	if err := r.cmd.Process.Signal(v.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		v.t.Fatal(err)
	}
	o := r.wait()
	status := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() || o.code != 0 || strings.Contains(o.log, "interrupted by")
	if killed {
		v.kills++
		v.phases[phase(o.log)]++
	}
	if now, _ := os.Readlink(v.dest); strings.Contains(o.log, "Deploy manifest failed") && now != link {
		v.t.Errorf("after a failure dest is a link to %q, was one to %q; the log:\n%s", now, link, o.log)
	}
	if v.signal == syscall.SIGTERM {
		v.wantTerminated(o, status)
	} else if killed && (!status.Signaled() || status.Signal() != v.signal) {
		v.t.Errorf("exit status %d, want a death by SIGKILL; the log:\n%s", o.code, o.log)
	}
	return killed
}

// glance returns the times of some files that differ between the versions, which
// reveals whether dest has changed.
func (v *victim) glance() []time.Time {
	var times []time.Time
	for _, name := range []string{"zero", "hard/a", "d1/file-25", "d2/file-14", "d4/file-4", "d5/file-5", "d7/file-55", "d8/file-44", "d9/sub/file-105", "d10/file-34", "d11/file-35"} {
		var mtime time.Time // zero if there is no file
		if info, err := os.Lstat(filepath.Join(v.dest, name)); err == nil {
			mtime = info.ModTime()
		}
		times = append(times, mtime)
	}
	return times
}

// phase returns the phase in which a run was ended, according to its log.
func phase(log string) string {
	phase := "start"
	for _, p := range []struct{ name, text string }{
		{"manifest", "Loading manifest:"},
		{"download", "Downloading src:"},
		{"verified", "Checksum ok:"},
		{"pre", "echo pre:"},
		{"sync", "Syncing to"},
		{"rsync", "invoking command: rsync"},
		{"post", "echo post:"},
		{"success", "Deploy manifest succeeded."},
	} {
		if strings.Contains(log, p.text) {
			phase = p.name
		}
	}
	return phase
}

// wantTerminated checks that a run has reacted to SIGTERM correctly: it must clean
// up, run the failure commands once if it knows them and has not succeeded yet, and
// exit with status 1.
func (v *victim) wantTerminated(o *outcome, status syscall.WaitStatus) {
	v.t.Helper()
	v.wantClean()
	failed := 0
	switch {
	case status.Signaled() && o.log == "":
		// The signal arrived before its handler was installed.
	case o.code == 0:
		if !strings.Contains(o.log, "Deploy manifest succeeded.") {
			v.t.Errorf("exit status 0 without a success; the log:\n%s", o.log)
		}
	case o.code != 1 || !strings.Contains(o.log, "interrupted by SIGTERM"):
		v.t.Errorf("exit status %d, want 1 and a log with \"interrupted by SIGTERM\"; the log:\n%s", o.code, o.log)
	case strings.Contains(o.log, "Manifest:"):
		o.wantLog("Deploy manifest failed:")
		failed = 1
	}
	v.wantFailureCommands(failed)
	if v.t.Failed() {
		v.t.Logf("the log:\n%s", tail(o.log, 4<<10))
	}
}

// wantPromise checks that dest is in a state that the strategy promises after a
// kill.
func (v *victim) wantPromise() {
	v.t.Helper()
	if v.strategy == "rsync" {
		return // it only promises that the next run repairs dest
	}
	found := readTree(v.t, v.dest)
	if v.strategy == "builtin" {
		v.wantWhole(found)
	}
	if v.strategy == "symlink" && len(found) == 0 {
		v.t.Error("dest is missing")
	}
	if len(found) == 0 || len(v.trees[0].differences(found)) == 0 || len(v.trees[1].differences(found)) == 0 {
		return
	}
	v.mixed++
	if v.strategy == "mv" || v.strategy == "symlink" {
		v.t.Errorf("dest is neither missing nor complete: %v", v.trees[0].differences(found))
	}
}

// wantWhole checks that each file is a complete file of one of the versions, and
// that dest contains nothing else.
func (v *victim) wantWhole(found tree) {
	v.t.Helper()
	a, b := v.trees[0].extracted(), v.trees[1].extracted()
	for path, n := range found {
		top, _, _ := strings.Cut(path, "/")
		if strings.HasPrefix(top, ".stretcher-") {
			if v.signal == syscall.SIGTERM {
				v.t.Errorf("left in dest: %s", path)
			}
			if path == top && (n.kind != tar.TypeDir || n.mode != 0o700) {
				v.t.Errorf("the staging directory %s is %s", path, n)
			}
			continue
		}
		if !n.isWhole(a[path], b[path]) {
			v.t.Errorf("%s is %s, want %s or %s", path, n, a[path], b[path])
		}
	}
	// Files that are in both versions must never be missing.
	for path, n := range a {
		if other, ok := b[path]; ok && n.kind == other.kind {
			if _, ok := found[path]; !ok {
				v.t.Errorf("%s is missing", path)
			}
		}
	}
}

// isWhole reports whether n, which was found on disk, is complete: it must equal a
// or b. The attributes of directories are not compared, because they are set at the
// end. If a and b are files with the same content, their attributes are changed one
// by one, so any combination is accepted.
func (n node) isWhole(a, b node) bool {
	switch {
	case n.kind == tar.TypeDir:
		return a.kind == tar.TypeDir || b.kind == tar.TypeDir
	case n.kind == tar.TypeReg && a.kind == b.kind && a.content == b.content:
		return n.kind == a.kind && n.content == a.content && (n.mode == a.mode || n.mode == b.mode) && (n.mtime == a.mtime || n.mtime == b.mtime)
	}
	return n == a || n == b
}

// startWatched starts a run and makes seen watch its log.
func (v *victim) startWatched(program, url string, seen *sighting) *running {
	v.t.Helper()
	seen.seen = make(chan struct{})
	cmd := v.command(program)
	cmd.Stderr = seen
	return v.startCommand(cmd, url)
}

// sighting is a writer that detects when a text is written to it.
type sighting struct {
	text string
	seen chan struct{}
	at   time.Time // when it was written; read it only after the run has ended
	last []byte
}

func (s *sighting) Write(p []byte) (int, error) {
	if !s.at.IsZero() {
		return len(p), nil
	}
	s.last = append(s.last, p...)
	if bytes.Contains(s.last, []byte(s.text)) {
		s.at = time.Now()
		close(s.seen)
	}
	return len(p), nil
}

// wait waits until the text has been written or the run has ended.
func (s *sighting) wait(r *running) {
	select {
	case <-s.seen:
	case <-r.done:
	}
}
