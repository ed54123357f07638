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
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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
		build := exec.Command("go", "build", "-race", "-o", stretcherPath, "./cmd/stretcher")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build stretcher: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

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
	t.Cleanup(func() { h.wantNoLeftovers() })
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

// run starts the agent by a command.
func (h *host) run(cmd *exec.Cmd) *running {
	h.t.Helper()
	r := &running{h: h, cmd: cmd, start: time.Now(), done: make(chan struct{})}
	r.cmd.Stdout = &r.stdout
	r.cmd.Stderr = &r.log
	if err := r.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
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

// server is a process that a test has started.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string // path of the file with its output
	done chan struct{}
}

// startServer starts a server and waits until it is ready. The command that start
// returns must listen on ports from freePorts. Because another process may have
// taken one of them in the meantime, a server that exits before it is ready is
// started again, with other ports.
func startServer(t *testing.T, name string, start func() *exec.Cmd, ready func() error) *server {
	t.Helper()
	for attempt := 1; ; attempt++ {
		s := launch(t, name, start())
		err := poll(func() error {
			select {
			case <-s.done:
				return errGone
			default:
				return ready()
			}
		})
		if err == nil {
			return s
		}
		s.stop()
		if !errors.Is(err, errGone) || attempt == 3 {
			t.Fatalf("%s is not ready: %v\n%s", name, err, s.output())
		}
	}
}

// launch starts a long-lived process, which is stopped at the end of the test. If
// the test fails, its output is logged.
func launch(t *testing.T, name string, cmd *exec.Cmd) *server {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	s := &server{t: t, cmd: cmd, log: out.Name(), done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait() // its exit status is in cmd.ProcessState
		close(s.done)
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, tail(s.output(), 16<<10))
		}
	})
	return s
}

// stop ends the server and all processes that it has started.
func (s *server) stop() {
	s.t.Helper()
	select {
	case <-s.done:
		return
	default:
	}
	group := -s.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		syscall.Kill(group, syscall.SIGKILL)
		<-s.done
	}
}

func (s *server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *server) output() string {
	s.t.Helper()
	data, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Error(err)
	}
	return string(data)
}

// waitForOutput waits until the server's output contains text n times.
func (s *server) waitForOutput(text string, n int) {
	s.t.Helper()
	waitFor(s.t, fmt.Sprintf("%q %d times in the output", text, n), func() error {
		if found := strings.Count(s.output(), text); found < n {
			return fmt.Errorf("found %d times", found)
		}
		return nil
	})
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

var (
	errGone = errors.New("it has ended")

	portsMu  sync.Mutex
	nextPort = 10000 + os.Getpid()*64%20000
)

// freePorts returns n ports of 127.0.0.1 on which nothing listens, neither with
// TCP nor with UDP. They are below the range that the kernel uses for outgoing
// connections, and every call returns different ports.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 20000 {
			t.Fatal("no free port")
		}
		if nextPort++; nextPort >= 32000 {
			nextPort = 10000
		}
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		l.Close()
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		p.Close()
		ports = append(ports, nextPort)
	}
	return ports
}

func freePort(t *testing.T) int {
	t.Helper()
	return freePorts(t, 1)[0]
}

// waitFor waits until condition returns nil.
func waitFor(t *testing.T, what string, condition func() error) {
	t.Helper()
	if err := poll(condition); err != nil {
		t.Fatalf("waited for %s: %v", what, err)
	}
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
