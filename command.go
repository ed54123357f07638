package stretcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killWait is what a command has between SIGTERM and SIGKILL.
	killWait = 5 * time.Second
	// outputWait is for how long after a command's end its output is read, if
	// a process that it left behind holds it open.
	outputWait = 3 * time.Second
	// maxOutputLine is where a line of a command's output is cut in two.
	maxOutputLine = 64 << 10
)

// errTimeout is the cause of a context that ended by one of our time limits.
var errTimeout = errors.New("timeout")

// CommandLine is a command for sh -c. An empty one does nothing.
type CommandLine string

// CommandLines are run one after another, until one fails.
type CommandLines []CommandLine

// Commands are the commands of a manifest.
type Commands struct {
	// Pre are run before the archive is extracted.
	Pre CommandLines `yaml:"pre"`
	// Post are run after dest has been synced.
	Post CommandLines `yaml:"post"`
	// Success are run when the deployment succeeded, with its log on stdin.
	Success CommandLines `yaml:"success"`
	// Failure are run when the deployment failed, with its log on stdin.
	Failure CommandLines `yaml:"failure"`
	// Env is added to the environment of all of them.
	Env map[string]string `yaml:"env"`
}

func (c CommandLine) String() string { return string(c) }

// Invoke runs the command. Its stdout and stderr go to the standard logger,
// line by line while it runs. An exit status other than 0 is an error.
func (c CommandLine) Invoke() error {
	return (&runner{}).logged(context.Background(), c)
}

// InvokePipe runs the command with src on its stdin; its stdout and stderr
// are those of this process. That it does not read src is no error.
func (c CommandLine) InvokePipe(src io.Reader) error {
	return (&runner{}).piped(context.Background(), c, src)
}

// Invoke runs the commands as CommandLine.Invoke does, until one fails.
func (cs CommandLines) Invoke() error {
	return (&runner{}).loggedAll(context.Background(), cs)
}

// InvokePipe runs the commands as CommandLine.InvokePipe does, each with all
// of src on its stdin, until one fails.
func (cs CommandLines) InvokePipe(src *bytes.Buffer) error {
	return (&runner{}).pipedAll(context.Background(), cs, src)
}

func (c CommandLine) empty() bool { return strings.TrimSpace(string(c)) == "" }

func (c *Commands) empty() bool {
	for _, list := range []CommandLines{c.Pre, c.Post, c.Success, c.Failure} {
		for _, line := range list {
			if !line.empty() {
				return false
			}
		}
	}
	return true
}

func (c *Commands) checkEnv() error {
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("manifest: commands.env: %q is no name of a variable", name)
		}
		if strings.ContainsRune(value, 0) {
			return fmt.Errorf("manifest: commands.env: %s has a NUL byte", name)
		}
	}
	return nil
}

// runner runs commands in the surroundings of one deployment. The zero value
// runs them with the environment of this process and without limits.
type runner struct {
	env     []string        // nil is that of this process
	timeout time.Duration   // of each command; 0 is none
	abort   <-chan struct{} // kills at once what a cancelled context only terminates
}

// unlimited returns a runner for a command that is not the manifest's.
func (r *runner) unlimited() *runner {
	return &runner{env: r.env, abort: r.abort}
}

func (r *runner) loggedAll(ctx context.Context, cs CommandLines) error {
	for _, c := range cs {
		if err := r.logged(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) pipedAll(ctx context.Context, cs CommandLines, src *bytes.Buffer) error {
	for _, c := range cs {
		if err := r.piped(ctx, c, bytes.NewReader(src.Bytes())); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) logged(ctx context.Context, c CommandLine) error {
	if c.empty() {
		return nil
	}
	log.Println("invoking command:", c)
	return r.log(ctx, c.String(), exec.Command("sh", "-c", c.String()))
}

func (r *runner) piped(ctx context.Context, c CommandLine, src io.Reader) error {
	if c.empty() {
		return nil
	}
	log.Println("invoking command:", c)
	cmd := exec.Command("sh", "-c", c.String())
	cmd.Stdin = src
	cmd.Stdout = os.Stdout
	cmd.Stderr = os.Stderr
	return r.run(ctx, c.String(), cmd)
}

// log runs cmd with its output in the log. The name is what errors call it.
func (r *runner) log(ctx context.Context, name string, cmd *exec.Cmd) error {
	out := newLineWriter()
	defer out.flush()
	cmd.Stdout = out
	cmd.Stderr = out
	return r.run(ctx, name, cmd)
}

// run starts cmd in a process group of its own and waits for its end. When
// ctx ends first, or the time limit passes, the whole group is terminated.
func (r *runner) run(ctx context.Context, name string, cmd *exec.Cmd) error {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("%w after %s", errTimeout, r.timeout))
		defer cancel()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("failed: %s not started: %w", name, context.Cause(ctx))
	}
	cmd.Env = r.env
	cmd.WaitDelay = outputWait
	// Should the agent be killed, its command goes too, so that it cannot
	// meddle with the deployment that repairs this one. The kernel watches
	// the thread that started it, which therefore has to stay.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("failed: %s %w", name, err)
	}
	select {
	case err := <-ended:
		return r.outcome(name, err)
	case <-ctx.Done():
	}
	if hasEnded(cmd.Process) {
		// It has ended in time: only its output is still waited for.
		select {
		case err := <-ended:
			return r.outcome(name, err)
		case <-r.abort:
			return fmt.Errorf("failed: %s %w", name, context.Cause(ctx))
		}
	}
	r.terminate(name, cmd.Process.Pid)
	patience := killWait
	select {
	case <-r.abort:
		patience = time.Second
	default:
	}
	select {
	case <-ended:
	case <-time.After(patience):
		if !hasEnded(cmd.Process) {
			log.Printf("[WARN] %s could not be ended, and is left running", name)
		}
	}
	return fmt.Errorf("failed: %s %w", name, context.Cause(ctx))
}

func hasEnded(p *os.Process) bool {
	return errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

func (r *runner) outcome(name string, err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		log.Printf("[WARN] %s left a process behind that holds its output: no longer reading it (redirect the output of daemons)", name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("failed: %s %w", name, err)
	}
	return nil
}

// terminate ends the process group pgid: SIGTERM first, SIGKILL for what is
// left of it after killWait or an abort.
func (r *runner) terminate(name string, pgid int) {
	signal := func(s unix.Signal) {
		if err := unix.Kill(-pgid, s); err != nil && !errors.Is(err, unix.ESRCH) {
			log.Printf("[WARN] %s to the processes of %s: %v", unix.SignalName(s), name, err)
		}
	}
	signal(unix.SIGTERM)
	signal(unix.SIGCONT) // or one that is stopped would not see it
	deadline := time.NewTimer(killWait)
	defer deadline.Stop()
	// No call waits for a whole process group, grandchildren included.
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-time.After(pause):
			if !groupLives(pgid) {
				return
			}
			continue
		case <-deadline.C:
		case <-r.abort:
		}
		signal(unix.SIGKILL)
		return
	}
}

// groupLives reports whether a process group has a process that has not ended.
// The kernel counts those too that nobody has waited for yet: a container's
// first process may never do.
func groupLives(pgid int) bool {
	if errors.Is(unix.Kill(-pgid, 0), unix.ESRCH) {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if p, err := readStat(path); err == nil && p.group == pgid && p.state != "Z" && p.state != "X" {
			return true
		}
	}
	return len(stats) == 0 // there is no /proc to tell
}

// procStat is what is of use in /proc/PID/stat (proc(5)).
type procStat struct {
	state         string
	parent, group int
}

func readStat(path string) (p procStat, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	// "pid (name) state parent group ...", where the name may hold anything.
	_, err = fmt.Sscan(string(data[bytes.LastIndexByte(data, ')')+1:]), &p.state, &p.parent, &p.group)
	return p, err
}

// lineWriter logs what is written to it, line by line.
type lineWriter struct {
	log     *log.Logger
	handOn  func() // to be called after lines were logged
	pending []byte
}

func newLineWriter() *lineWriter {
	w := &lineWriter{}
	w.log, w.handOn = outputLog()
	return w
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.pending = append(w.pending, p...)
			if len(w.pending) >= maxOutputLine {
				w.print()
			}
			break
		}
		w.pending = append(w.pending, p[:i]...)
		w.print()
		p = p[i+1:]
	}
	w.handOn()
	return n, nil
}

// flush logs a last line that has no end.
func (w *lineWriter) flush() {
	if len(w.pending) > 0 {
		w.print()
		w.handOn()
	}
}

func (w *lineWriter) print() {
	w.log.Printf("%s", w.pending) // string(w.pending) would be garbage as large as the output
	w.pending = w.pending[:0]
}
