package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is the time limit for every condition that a test waits for.
const patience = 2 * time.Minute

// world is a directory for the files of a test, with its own TMPDIR.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	w := &world{t, t.TempDir()}
	if err := os.Mkdir(w.path("tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// url returns the URL of a file. The directory of a subtest may have a # in its
// name, which a URL has to escape.
func (w *world) url(name string) string {
	return (&url.URL{Scheme: "file", Path: w.path(name)}).String()
}

// write writes a file. Each %s in the text is replaced with the directory.
func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o777); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(strings.ReplaceAll(text, "%s", w.dir)), 0o777); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// run runs a system command in the directory. The command must succeed.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// archive returns the beginning of a manifest that deploys app.tar, which has one
// file, to the path dest. The archive is packed once: packed again, it would have
// another checksum than in the manifests before, if a second has begun since.
func (w *world) archive(dest string) string {
	w.t.Helper()
	if _, err := os.Stat(w.path("app.tar")); err != nil {
		w.write("app/file", "content\n")
		w.run("tar", "-cf", "app.tar", "-C", "app", "file")
	}
	sum, _, _ := strings.Cut(w.run("sha256sum", "app.tar"), " ")
	return fmt.Sprintf("src: %s\nchecksum: %s\ndest: %s\n", w.url("app.tar"), sum, dest)
}

// agent is a running stretcher.
type agent struct {
	world *world
	cmd   *exec.Cmd
	log   *output // its stderr
	ended chan struct{}
}

// start starts stretcher with event on its stdin, which is a URL or the name of a
// manifest file. The environment variables have the form NAME=value.
func (w *world) start(event string, variables []string, flags ...string) *agent {
	w.t.Helper()
	if !strings.Contains(event, "://") {
		event = w.url(event)
	}
	cmd := exec.Command("stretcher", flags...)
	cmd.Stdin = strings.NewReader(event + "\n")
	return w.startCommand(cmd, variables)
}

// users counts the users that asUser has invented.
var users atomic.Int32

// asUser gives another user access to the directory and returns a function that
// starts stretcher as that user. The user owns only the TMPDIR and a new directory
// srv. The test is skipped unless it runs as root.
func (w *world) asUser() (uid int, start func(manifest string, flags ...string) *agent) {
	t := w.t
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run the agent as another user")
	}
	uid = 1_000_000 + os.Getpid()*100 + int(users.Add(1)) // not used by anybody
	t.Cleanup(func() {
		for _, parent := range []string{"/dev/shm", "/tmp"} { // of the lock directories
			os.RemoveAll(fmt.Sprintf("%s/stretcher-%d", parent, uid))
		}
	})
	if err := os.Chmod(filepath.Dir(w.dir), 0o711); err != nil { // the parent that t.TempDir created
		t.Fatal(err)
	}
	for dir := w.dir; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			t.Skipf("other users cannot access %s", dir)
		}
	}
	// The test binary may be in a directory that only root can read.
	binary, err := exec.LookPath("stretcher")
	if err != nil {
		t.Fatal(err)
	}
	w.run("cp", binary, "stretcher")
	w.run("mkdir", "srv")
	w.run("chown", fmt.Sprint(uid), "srv", "tmp")
	return uid, func(manifest string, flags ...string) *agent {
		t.Helper()
		cmd := exec.Command(w.path("stretcher"), flags...)
		cmd.Stdin = strings.NewReader(w.url(manifest))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		return w.startCommand(cmd, nil)
	}
}

func (w *world) startCommand(cmd *exec.Cmd, variables []string) *agent {
	w.t.Helper()
	a := &agent{w, cmd, &output{}, make(chan struct{})}
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "TMPDIR="+w.path("tmp"))
	cmd.Env = append(cmd.Env, variables...)
	cmd.Stderr = a.log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		cmd.Wait() // its result is also in cmd.ProcessState
		close(a.ended)
	}()
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		if w.t.Failed() {
			w.t.Logf("log of pid %d:\n%s", cmd.Process.Pid, a.log)
		}
	})
	return a
}

func (a *agent) pid() int { return a.cmd.Process.Pid }

// logged waits until the log contains a match of pattern. It fails at once when
// the agent has ended without it.
func (a *agent) logged(pattern string) {
	a.world.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	a.until("the log matches "+pattern, func() bool { return re.MatchString(a.log.String()) })
}

// until waits until the condition is true, or the agent has ended; then it must be
// true.
func (a *agent) until(what string, is func() bool) {
	a.world.t.Helper()
	a.world.until(what, func() bool {
		ended := a.endsWithin(0) // before the condition, which may come true with the end
		if is() {
			return true
		}
		if ended {
			a.world.t.Fatalf("the agent has ended, and it is not true that %s", what)
		}
		return false
	})
}

func (a *agent) signal(s syscall.Signal) {
	a.world.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.world.t.Fatal(err)
	}
}

// endsWithin reports whether the agent exits within this time.
func (a *agent) endsWithin(d time.Duration) bool {
	select {
	case <-a.ended:
		return true
	default:
	}
	select {
	case <-a.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// exits waits until the agent exits and checks its exit status.
func (a *agent) exits(status int) {
	a.world.t.Helper()
	if !a.endsWithin(patience) {
		a.world.t.Fatalf("the agent is still running after %s", patience)
	}
	if got := a.cmd.ProcessState.ExitCode(); got != status {
		a.world.t.Fatalf("exit status %d, expected %d", got, status)
	}
}

// until waits until the condition is true. The test fails after a time limit.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// pid waits until a file contains a line with a process ID and returns the ID.
func (w *world) pid(name string) int {
	w.t.Helper()
	var pid int
	w.until(name+" has a pid", func() bool {
		data, err := os.ReadFile(w.path(name))
		if err != nil || !bytes.HasSuffix(data, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(string(bytes.TrimSpace(data)))
		return err == nil
	})
	return pid
}

// dead checks that a process has exited, or does so within a few seconds: on a busy
// machine, a killed process may still be there for a moment. It may be a zombie.
func (w *world) dead(pid int) {
	w.t.Helper()
	var stat []byte
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		if stat, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil {
			return
		}
		if state := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]; state == "Z" || state == "X" {
			return
		}
	}
	w.t.Errorf("process %d is still running: %s", pid, stat)
	unix.Kill(pid, unix.SIGKILL)
}

// clean checks that no temporary file is left.
func (w *world) clean() {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (filepath.Dir(path) == w.path("tmp") || strings.Contains(d.Name(), ".stretcher")) {
			w.t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

// output collects what a process writes, and can be read at any time.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*output)(nil)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
