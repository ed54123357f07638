package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The torture tests treat deployments the way machines and operators do: they kill
// them, run two at the same time, fill disks, and use commands that misbehave.

// site is a host with a dest that is alone in its parent directory, so that the
// tests see anything that is left next to it.
type site struct {
	*host
	dest    string
	mark    string            // environment variable of all processes of this site
	started map[int]time.Time // when the agents were started that were run here, by pid
}

func newSite(t *testing.T) *site {
	t.Helper()
	mark := fmt.Sprintf("TORTURED_SITE=%d-%x", os.Getpid(), rand.Uint64())
	s := &site{host: newHost(t, mark), mark: mark, started: map[int]time.Time{}}
	s.dest = s.path("site", "dest")
	if err := os.Mkdir(filepath.Dir(s.dest), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range s.survivors() {
			t.Errorf("still running at the end of the test: %s", p)
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	})
	return s
}

// publish writes an archive and its manifest, and returns the manifest's URL.
func (s *site) publish(name string, archive []byte, more ...string) string {
	s.t.Helper()
	src := s.path("files", name+".tar.gz")
	write(s.t, src, archive)
	sum := sha256.Sum256(archive)
	manifest := fmt.Sprintf("src: %q\nchecksum: %s\ndest: %q\n%s\n", fileURL(src), hex.EncodeToString(sum[:]), s.dest, strings.Join(more, "\n"))
	write(s.t, s.path("files", name+".yml"), []byte(manifest))
	return fileURL(s.path("files", name+".yml"))
}

// tell returns a command that records that it ran and for which result.
func (s *site) tell(list string) string {
	return fmt.Sprintf("cat >/dev/null; sleep 0.02; echo %s:$STRETCHER_RESULT >> %s", list, s.path("ran"))
}

// hooks returns the lines of a manifest with commands that record that they ran.
// The failure command also records any files in TMPDIR and next to dest, where
// none may be left by then.
func (s *site) hooks() string {
	look := fmt.Sprintf("for f in %[1]s/.[!.]* %[1]s/* %[2]s/.[!.]*; do [ ! -e \"$f\" ] || echo leftover:$f >> %[3]s; done", s.path("tmp"), filepath.Dir(s.dest), s.path("ran"))
	return fmt.Sprintf(`commands:
  pre: [%q]
  post: [%q]
  success: [%q]
  failure: [%q]`, s.tell("pre"), s.tell("post"), s.tell("success"), s.tell("failure")+"; "+look)
}

// ran returns the records of the commands of hooks and removes them.
func (s *site) ran() []string {
	s.t.Helper()
	data, err := os.ReadFile(s.path("ran"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	if err := os.RemoveAll(s.path("ran")); err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// wantFailureCommands checks how often the failure command of hooks has run, and
// that it found no leftovers of the run.
func (s *site) wantFailureCommands(times int) {
	s.t.Helper()
	ran := s.ran()
	failures := 0
	for _, word := range ran {
		if strings.HasPrefix(word, "leftover:") {
			s.t.Errorf("the failure command found a %s", word)
		}
		if word == "failure:failure" {
			failures++
		}
	}
	if failures != times {
		s.t.Errorf("the failure command ran %d times, want %d; commands that ran: %v", failures, times, ran)
	}
}

// wantClean checks that a run left no process and no files in TMPDIR or next to
// dest.
func (s *site) wantClean() {
	s.t.Helper()
	for _, p := range s.survivors() {
		s.t.Errorf("a process survived: %s", p)
	}
	s.wantNoLeftovers()
	for _, name := range s.neighbours() {
		s.t.Errorf("left next to dest: %s", name)
	}
	s.releases()
}

// releases returns the names of the releases of dest, and checks that all of them
// are finished, and that nothing else is there.
func (s *site) releases() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.dest + ".releases")
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	var releases, manifests []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yml"); ok {
			manifests = append(manifests, name)
		} else {
			releases = append(releases, e.Name())
		}
	}
	if !slices.Equal(releases, manifests) {
		s.t.Errorf("the releases %v have the manifests %v", releases, manifests)
	}
	return releases
}

// wantOneRelease checks that only the current release is kept.
func (s *site) wantOneRelease() {
	s.t.Helper()
	if kept := s.releases(); len(kept) != 1 {
		s.t.Errorf("the releases %v are left, want only the current one", kept)
	}
}

// unpackedAgain returns the lines of a manifest for a strategy with which each of
// two versions that are deployed in turn is unpacked again.
func unpackedAgain(strategy string) string {
	lines := "sync_strategy: " + strategy
	if strategy == "symlink" {
		lines += "\nkeep_releases: 1"
	}
	return lines
}

// neighbours returns the names of the files next to dest, its releases aside.
func (s *site) neighbours() []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(s.dest))
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != filepath.Base(s.dest) && e.Name() != filepath.Base(s.dest)+".releases" {
			names = append(names, e.Name())
		}
	}
	return names
}

// wantDeployed checks that dest equals the tree, and that all runs so far,
// including killed ones, have left nothing else.
func (s *site) wantDeployed(want tree) {
	s.t.Helper()
	for _, d := range want.differences(readTree(s.t, s.dest)) {
		s.t.Errorf("dest differs from the archive: %s", d)
	}
	s.wantClean()
	for _, name := range s.lockFiles() {
		s.t.Errorf("a lock file is left: %s", name)
	}
}

// lockDirs returns the directories in which the agent may have its lock files.
func lockDirs() []string {
	own := fmt.Sprintf("stretcher-%d", os.Geteuid())
	return []string{"/run/stretcher", "/dev/shm/" + own, "/tmp/" + own}
}

// lockDir returns the one of them in which the agents of this user have their lock
// files on an ordinary machine.
func lockDir() string {
	if os.Geteuid() == 0 {
		return lockDirs()[0]
	}
	return lockDirs()[1]
}

// lockFiles returns the lock files that dead agents of this site have left in the
// agent's lock directories.
func (s *site) lockFiles() []string {
	s.t.Helper()
	var left []string
	for _, dir := range lockDirs() {
		names, err := filepath.Glob(dir + "/*.lock")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				continue // it belongs to another user, or is gone
			}
			pid, since, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
			n, err := strconv.Atoi(pid)
			if started, ours := s.started[n]; err == nil && ours && !locked(name) && wasSoonAfter(since, started) {
				left = append(left, name)
			}
		}
	}
	return left
}

// wasSoonAfter reports whether a time in a lock file is one at which an agent that was
// started then ran. A later agent of another test may have had the same pid.
func wasSoonAfter(since string, started time.Time) bool {
	t, err := time.Parse(time.RFC3339, since)
	return err != nil || !t.Before(started.Truncate(time.Second)) && t.Before(started.Add(patience))
}

// locked reports whether a process holds the lock on a file. Then the pid in it is
// that of a running process, which has reused the pid of a dead agent.
func locked(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return true // it is gone, so its holder was alive
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// process is a process that was found in /proc.
type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("pid %d: %s", p.pid, p.command) }

// survivors returns the processes whose environment contains the site's mark. This
// excludes zombies, which have no environment.
func (s *site) survivors() []process {
	s.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		s.t.Fatal(err)
	}
	var list []process
	for _, path := range found {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), s.mark) {
			continue // it has exited, or belongs to another user
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			s.t.Fatal(err)
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue // it has exited in the meantime
		}
		list = append(list, process{pid, strings.ReplaceAll(strings.Trim(string(command), "\x00"), "\x00", " ")})
	}
	return list
}

// waitForNoSurvivor waits until all processes of a killed agent have exited.
func (s *site) waitForNoSurvivor() {
	s.t.Helper()
	waitFor(s.t, "the end of all processes", func() error {
		if p := s.survivors(); len(p) > 0 {
			return fmt.Errorf("running: %v", p)
		}
		return nil
	})
}

// start starts the agent with the manifest's URL on stdin.
func (s *site) start(url string, args ...string) *running {
	s.t.Helper()
	return s.startCommand(s.command(stretcherPath, args...), url)
}

// startCommand is like start, but for a command that may have its own stdin.
func (s *site) startCommand(cmd *exec.Cmd, url string) *running {
	s.t.Helper()
	cmd.WaitDelay = patience // processes that it left behind may hold its output
	if cmd.Stdin == nil {
		cmd.Stdin = strings.NewReader(url + "\n")
	}
	r := s.run(cmd)
	s.started[cmd.Process.Pid] = r.start
	return r
}

// deploy runs a deployment that must succeed.
func (s *site) deploy(url string, args ...string) *outcome {
	s.t.Helper()
	return s.start(url, args...).wait().wantSuccess()
}
