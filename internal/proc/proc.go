// Package proc runs one command in a process group of its own, passes on the
// lines that it prints, and ends it with all its processes.
//
// Run supervises the command in one loop, which is always in one of four
// states:
//
//	running      until the command has ended or ctx is done
//	             ctx done, but the command has ended:     -> draining
//	             ctx done, and the command is running:    SIGTERM -> terminating
//	terminating  until no process of the group lives      -> terminated
//	             after 5 s, or on abort:                  SIGKILL -> terminated
//	terminated   until the command and its output have ended
//	             after 5 s, or 1 s after abort:           give it up
//	draining     until the output of the command has ended
//	             1 s after abort:                         give it up
//
// The end of a command and the end of its output are different events: a
// process that the command left behind may hold the output open. It is read
// for 3 s more; then Run warns and returns. What the command itself has
// written is passed on completely, also if that takes longer. A command that
// has ended in time has succeeded or failed by its exit status, even if ctx is
// done while its output is still being read (draining). A command that was
// terminated has failed because of ctx, whatever its exit status is.
//
// Only the process group is terminated. A process that left it, for example by
// setsid(1), is a daemon that is meant to stay.
//
// The log tells once a minute that a command is still running, and how long it
// took if that was more than a second.
package proc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

const (
	// killWait is how long a process group has to end after SIGTERM, and again
	// after SIGKILL.
	killWait = 5 * time.Second
	// abortWait is how long it has to end after an abort.
	abortWait = time.Second
	// outputWait is how long the output of a command that has ended is read
	// while a process that it left behind holds it open, and its stdin written.
	outputWait = 3 * time.Second
	// notable is how long a command has to run for its end to be logged.
	notable = time.Second
)

// reportInterval is how often the log tells that a command is still running.
var reportInterval = time.Minute

// Options are the conditions under which Run runs a command. The zero value
// runs it in the environment of this process and without a time limit.
type Options struct {
	// Env is the environment, as NAME=value. Nil is that of this process.
	Env []string
	// Timeout limits how long the command may run. 0 is no limit.
	Timeout time.Duration
	// Abort, when it is closed, kills at once what the end of the context
	// merely terminates. Before the context is done it has no effect. Nil never
	// aborts.
	Abort <-chan struct{}
	// Quiet leaves out the lines that tell that the command is still running, as
	// the caller reports its progress.
	Quiet bool
}

// Run starts cmd in a process group of its own and waits until it has ended.
// When ctx is done or the time limit passes first, Run terminates the whole
// group: with SIGTERM, and after 5 seconds with SIGKILL.
//
// An error reads "failed: NAME exit status N" or "failed: NAME: REASON", where
// the reason is the signal that ended cmd, "timeout after TIMEOUT", the cause of
// ctx, or why cmd could not be started. It wraps an *exec.ExitError or the cause
// of ctx. It is no error that cmd does not read all of its stdin.
//
// After an abort, and when a command could not be ended, Run may return while
// cmd.Stdin is still read and cmd.Stdout and cmd.Stderr are still written to. A
// LineWriter allows for that: Run closes it if it is cmd.Stdout or cmd.Stderr, so
// that nothing is logged after the end of the command.
func Run(ctx context.Context, name string, cmd *exec.Cmd, o Options) error {
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("timeout after %s", o.Timeout))
		defer cancel()
	}
	if ctx.Err() != nil {
		return failed(name+": not started", context.Cause(ctx))
	}
	cmd.Env = o.Env
	cmd.WaitDelay = outputWait
	cmd.SysProcAttr = attributes()
	writers := []io.Writer{cmd.Stdout, cmd.Stderr}
	out, err := pipeOutputs(cmd)
	if err != nil {
		return failed(name, err)
	}
	runtime.LockOSThread() // because of attributes
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		out.closeAll()
		return failed(name, err)
	}
	out.start()
	begin := time.Now()
	waited := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if outErr := out.wait(); err == nil || errors.Is(err, exec.ErrWaitDelay) {
			err = cmp.Or(outErr, err)
		}
		waited <- err
	}()
	err = supervise(ctx, name, cmd.Process, waited, o)
	for _, out := range writers {
		if w, ok := out.(*LineWriter); ok {
			w.Close()
		}
	}
	if took := time.Since(begin); took > notable {
		log.Printf("command ended after %s: %s", took.Round(100*time.Millisecond), name)
	}
	return err
}

type state int

const (
	running     state = iota
	terminating       // SIGTERM was sent
	terminated        // no process of the group lives, or SIGKILL was sent
	draining          // the command has ended in time; its output has not
)

// supervise runs the loop that the package comment describes. What waited
// receives is the result of cmd.Wait, or else of its outputs.
func supervise(ctx context.Context, name string, p *os.Process, waited <-chan error, o Options) error {
	now := running
	done := ctx.Done()
	var aborted <-chan struct{}   // nil, and so without effect, until ctx is done
	var deadline <-chan time.Time // of the state
	pause := 5 * time.Millisecond // before the next look at the group
	begin := time.Now()
	report := time.NewTicker(reportInterval)
	defer report.Stop()
	for {
		ended, look := waited, (<-chan time.Time)(nil)
		if now == terminating {
			// The whole group has to end, not just the command. The kernel
			// cannot wait for a group, so it is looked at again and again.
			ended, look = nil, time.After(pause)
		}
		select {
		case err := <-ended:
			if now == terminated {
				return failed(name, context.Cause(ctx))
			}
			return outcome(name, err)

		case <-done:
			done, aborted = nil, o.Abort
			if hasEnded(p) {
				now = draining
				continue
			}
			signalGroup(name, p.Pid, unix.SIGTERM)
			signalGroup(name, p.Pid, unix.SIGCONT) // a stopped process would not act on SIGTERM
			now, deadline = terminating, time.After(killWait)

		case <-report.C:
			if now == running && !hasEnded(p) && !o.Quiet {
				log.Printf("still running after %s: %s", time.Since(begin).Round(time.Second), name)
			}

		case <-look:
			pause = min(2*pause, 100*time.Millisecond)
			if !groupLives(p.Pid) {
				now, deadline = terminated, time.After(killWait)
			}

		case <-aborted:
			aborted = nil // a closed channel would be received from for ever
			if now == terminating {
				signalGroup(name, p.Pid, unix.SIGKILL)
				now = terminated
			}
			deadline = time.After(abortWait)

		case <-deadline:
			if now == terminating {
				signalGroup(name, p.Pid, unix.SIGKILL)
				now, deadline = terminated, time.After(killWait)
				continue
			}
			if !hasEnded(p) {
				log.Printf("[WARN] %s could not be ended, and is left running", name)
			}
			return failed(name, context.Cause(ctx))
		}
	}
}

// outcome turns the result of a command that ended by itself into that of Run.
func outcome(name string, err error) error {
	switch {
	case errors.Is(err, errHeld):
		log.Printf("[WARN] %s left a process behind that holds its output: no longer reading it (redirect the output of daemons)", name)
	case errors.Is(err, exec.ErrWaitDelay):
		log.Printf("[WARN] %s left a process behind that holds its stdin: no longer writing to it (redirect the stdin of daemons)", name)
	case err != nil:
		return failed(name, err)
	}
	return nil
}

// failed returns the error of a command. "exit status N" follows the name without
// a colon, since it is documented so.
func failed(name string, reason error) error {
	var exit *exec.ExitError
	if !errors.As(reason, &exit) {
		return fmt.Errorf("failed: %s: %w", name, reason)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &signalError{fmt.Sprintf("failed: %s: terminated by signal %s", name, signalName(status.Signal())), exit}
	}
	return fmt.Errorf("failed: %s %w", name, exit)
}

// signalName returns a name such as SIGTERM. Real-time signals have only numbers.
func signalName(s syscall.Signal) string { return cmp.Or(unix.SignalName(s), strconv.Itoa(int(s))) }

// signalError is an exec.ExitError with a text that names the signal.
type signalError struct {
	text string
	exit *exec.ExitError
}

func (e *signalError) Error() string { return e.text }
func (e *signalError) Unwrap() error { return e.exit }

// hasEnded reports whether cmd.Wait has collected the exit status of p. It may
// still be waiting for the output then.
func hasEnded(p *os.Process) bool {
	return errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// signalGroup sends s to a process group. An error is logged, such as that a
// process belongs to another user; that the group has ended is none.
func signalGroup(name string, group int, s unix.Signal) {
	if err := unix.Kill(-group, s); err != nil && !errors.Is(err, unix.ESRCH) {
		log.Printf("[WARN] %s to the processes of %s: %v", unix.SignalName(s), name, err)
	}
}

// groupLives reports whether a process group has a process that has not ended.
// Zombies do not count: kill(2) finds them too, but if their parent has ended
// and the first process of the container does not reap them, they stay for
// ever.
func groupLives(group int) bool {
	if errors.Is(unix.Kill(-group, 0), unix.ESRCH) {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		// A process that cannot be read has ended since it was listed.
		if p, err := unixfs.ReadProcessStat(path); err == nil && p.Group == group && p.State != "Z" && p.State != "X" {
			return true
		}
	}
	return len(stats) == 0 // /proc is not mounted: rely on kill(2)
}
