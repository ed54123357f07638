// Package e2e runs the stretcher program the way operators do: as the child
// of consul watch and serf agent, over ssh, and against third-party servers. Each
// test starts the servers that it needs on free loopback ports, with their data
// in a directory of the test, and stops them.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is the time limit for every condition that a test waits for. It is far
// longer than necessary even on a loaded machine, so only failing tests reach it.
const patience = 90 * time.Second

// stretcherPath is the program under test: the one that STRETCHER_BIN names, or
// else one built from this tree with the race detector.
var stretcherPath string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stretcherPath = os.Getenv("STRETCHER_BIN")
	if stretcherPath == "" {
		dir, err := os.MkdirTemp("", "stretcher-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// sshd, or an agent of another user, may start the program.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		stretcherPath = filepath.Join(dir, "stretcher")
		if err := build(stretcherPath, "-race"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build builds the program from this tree.
func build(path string, flags ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", path}, flags, []string{"./cmd/stretcher"})...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build stretcher: %w\n%s", err, out)
	}
	return nil
}

// plainPath returns the path of a program without the race detector, which adds to
// the memory and the time that the program takes.
func plainPath(t *testing.T) string {
	t.Helper()
	if os.Getenv("STRETCHER_BIN") != "" {
		return stretcherPath
	}
	path, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildPlain builds it next to stretcherPath, in the directory that is removed at
// the end of all tests.
var buildPlain = sync.OnceValues(func() (string, error) {
	path := stretcherPath + "-plain"
	return path, build(path)
})

// host simulates one machine for the agent: a home directory, a directory for
// temporary files, a current directory, and the environment that refers to them.
type host struct {
	t   *testing.T
	dir string
	env []string
}

// newHost returns a host. The test fails if the host's directory for temporary
// files is not empty at its end.
func newHost(t *testing.T, env ...string) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	for _, sub := range []string{"home", "tmp", "work"} {
		if err := os.Mkdir(filepath.Join(h.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Do not inherit the environment of the user who runs the tests.
	h.env = append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME=" + h.path("home"),
		"TMPDIR=" + h.path("tmp"),
		"AWS_EC2_METADATA_DISABLED=true",
		"GORACE=atexit_sleep_ms=0", // otherwise the race detector delays each exit by a second
	}, env...)
	t.Cleanup(func() {
		h.wantNoLeftovers()
		if os.Geteuid() != 0 { // for whom what was deployed may be read-only
			if err := openTree(h.dir); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

// path returns a path in the host's directory.
func (h *host) path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// wantNoLeftovers checks that the agent left no temporary file.
func (h *host) wantNoLeftovers() {
	h.t.Helper()
	left, err := os.ReadDir(h.path("tmp"))
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range left {
		h.t.Errorf("left in TMPDIR: %s", e.Name())
	}
}

// command returns a command for the host that has not been started yet. It is
// killed when the test process exits.
func (h *host) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = h.path("work")
	cmd.Env = h.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// fileURL returns the URL of a file. The directory of a subtest may have a # in
// its name, which a URL has to escape.
func fileURL(path string) string {
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// outcome is the result of a run of the agent.
type outcome struct {
	t      *testing.T
	code   int
	stdout string
	log    string // stderr
	took   time.Duration
}

// stretcher runs the agent with the manifest's URL on stdin and waits until it
// exits.
func (h *host) stretcher(url string, args ...string) *outcome {
	h.t.Helper()
	return h.start(url, args...).wait()
}

// running is an agent that has been started.
type running struct {
	h      *host
	cmd    *exec.Cmd
	stdout bytes.Buffer
	log    syncBuffer
	start  time.Time
	done   chan struct{} // closed when the agent has exited
	err    error         // result of Wait, valid once done is closed
}

// start starts the agent with the manifest's URL on stdin.
func (h *host) start(url string, args ...string) *running {
	h.t.Helper()
	cmd := h.command(stretcherPath, args...)
	cmd.Stdin = strings.NewReader(url + "\n")
	return h.run(cmd)
}

// run starts the agent by a command. If the command has a stderr, it receives a copy
// of the log.
func (h *host) run(cmd *exec.Cmd) *running {
	h.t.Helper()
	r := &running{h: h, cmd: cmd, start: time.Now(), done: make(chan struct{})}
	cmd.Stdout = &r.stdout
	if cmd.Stderr == nil {
		cmd.Stderr = &r.log
	} else {
		cmd.Stderr = io.MultiWriter(&r.log, cmd.Stderr)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	return r
}

// waitForLog waits until the agent's log contains text.
func (r *running) waitForLog(text string) {
	r.h.t.Helper()
	waitFor(r.h.t, fmt.Sprintf("%q in the log", text), func() error {
		gone := error(nil)
		select {
		case <-r.done:
			gone = errGone
		default:
		}
		if log := r.log.String(); !strings.Contains(log, text) {
			return errors.Join(gone, fmt.Errorf("the log is:\n%s", log))
		}
		return nil
	})
}

// wait waits until the agent exits.
func (r *running) wait() *outcome {
	r.h.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		<-r.done
		r.h.t.Fatalf("stretcher was still running after %s; the log:\n%s", patience, r.log.String())
	}
	if exit := (*exec.ExitError)(nil); r.err != nil && !errors.As(r.err, &exit) {
		r.h.t.Fatal(r.err)
	}
	o := &outcome{t: r.h.t, code: r.cmd.ProcessState.ExitCode(), stdout: r.stdout.String(), log: r.log.String(), took: time.Since(r.start)}
	wantNoRace(r.h.t, o.log)
	return o
}

// wantSuccess checks that the deployment succeeded.
func (o *outcome) wantSuccess() *outcome {
	o.t.Helper()
	if o.code != 0 {
		o.t.Fatalf("exit status %d, want 0; the log:\n%s", o.code, o.log)
	}
	return o.wantLog("Starting up stretcher agent", "Loading manifest:", "Deploy manifest succeeded.", "Done")
}

// wantFailure checks that the run failed with exit status 1 and that its log
// contains all the given words.
func (o *outcome) wantFailure(words ...string) *outcome {
	o.t.Helper()
	if o.code != 1 {
		o.t.Fatalf("exit status %d, want 1; the log:\n%s", o.code, o.log)
	}
	if strings.Contains(o.log, "Deploy manifest succeeded.") {
		o.t.Errorf("the run failed, but logged a success:\n%s", o.log)
	}
	return o.wantLog(words...)
}

func (o *outcome) wantLog(words ...string) *outcome {
	o.t.Helper()
	for _, w := range words {
		if !strings.Contains(o.log, w) {
			o.t.Errorf("the log lacks %q:\n%s", w, o.log)
		}
	}
	return o
}

// wantNotPrinted checks that the agent printed none of the words, which are
// secrets.
func (o *outcome) wantNotPrinted(words ...string) *outcome {
	o.t.Helper()
	for _, w := range words {
		if strings.Contains(o.log, w) || strings.Contains(o.stdout, w) {
			o.t.Errorf("the secret %q is in the output:\n%s%s", w, o.log, o.stdout)
		}
	}
	return o
}

func wantNoRace(t *testing.T, log string) {
	t.Helper()
	if strings.Contains(log, "DATA RACE") {
		t.Errorf("a data race:\n%s", log)
	}
}

// tool returns the path of one of the programs that e2e/tools pins.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", "tools", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nhint: make deps", err)
	}
	return path
}

// program returns the path of a program that is installed on the system.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name)) // which is not in an ordinary user's PATH
	}
	if err != nil {
		t.Fatalf("%v\nhint: make deps", err)
	}
	return path
}

// output runs a command that must succeed and returns its output.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

var errGone = errors.New("it has ended")

// waitFor waits until condition returns nil.
func waitFor(t *testing.T, what string, condition func() error) {
	t.Helper()
	if err := poll(condition); err != nil {
		t.Fatalf("waited for %s: %v", what, err)
	}
}

// waitForFile waits until a file exists.
func waitForFile(t *testing.T, path string) {
	t.Helper()
	waitFor(t, path, func() error { _, err := os.Stat(path); return err })
}

// waitForText waits until a file contains text n times.
func waitForText(t *testing.T, path, text string, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%q %d times in %s", text, n, path), func() error {
		data, err := os.ReadFile(path)
		if err == nil && strings.Count(string(data), text) < n {
			err = fmt.Errorf("it is:\n%s", data)
		}
		return err
	})
}

// poll calls condition until it returns nil or errGone, or until patience expires.
func poll(condition func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := condition()
		if err == nil || errors.Is(err, errGone) || time.Now().After(deadline) {
			return err
		}
	}
}

// get fetches a URL and returns the body. A status other than 200 is an error.
func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

func tail(s string, n int) string {
	if len(s) > n {
		return "[...]\n" + s[len(s)-n:]
	}
	return s
}

// syncBuffer is a buffer that can be read while it is being written to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
