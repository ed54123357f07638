package proc

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
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what has to happen.
const patience = time.Minute

// shell returns a command that runs a script in the directory dir.
func shell(dir, script string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	return cmd
}

// logOf returns what f logs. Tests that call it cannot be parallel.
func logOf(f func()) string {
	var b bytes.Buffer
	out, flags := log.Writer(), log.Flags()
	log.SetOutput(&b)
	log.SetFlags(0)
	defer func() {
		log.SetOutput(out)
		log.SetFlags(flags)
	}()
	f()
	return b.String()
}

// until waits until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// pidIn waits until the file holds a process ID with a newline, and returns it.
func pidIn(t *testing.T, path string) (pid int) {
	t.Helper()
	until(t, path+" has a process ID", func() bool {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.HasSuffix(text, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(string(bytes.TrimSpace(text)))
		return err == nil
	})
	return pid
}

// lives reports whether a process has not ended.
func lives(pid int) bool {
	p, err := unixfs.ReadProcessStat(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && p.State != "Z" && p.State != "X"
}

// cancelWhenStarted returns a context that is done once dir has a file "pid".
func cancelWhenStarted(t *testing.T, dir string, cause error) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
				cancel(cause)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return ctx
}

// cancelWhenEnded returns a context that is done once the process of the file
// "pid" has been waited for. Then abort is closed too, unless it is nil.
func cancelWhenEnded(t *testing.T, dir string, abort chan struct{}) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		pid := 0
		for ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			if pid == 0 {
				text, _ := os.ReadFile(filepath.Join(dir, "pid"))
				pid, _ = strconv.Atoi(string(bytes.TrimSpace(text)))
			} else if unix.Kill(pid, 0) == unix.ESRCH {
				cancel(errStopped)
				if abort != nil {
					close(abort)
				}
			}
		}
	}()
	return ctx
}

// started is the beginning of a script that tells cancelWhenStarted, at once and
// with all of its content, that what came before has been done.
const started = "echo $$ > pid.new; mv pid.new pid; "

var errStopped = errors.New("stopped")

func TestRun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ script, out, err string }{
		{"true", "", ""},
		{"echo out; echo err >&2", "out\nerr\n", ""},
		{"cat", "", ""}, // stdin is empty
		{"exit 7", "", "failed: NAME exit status 7"},
		{"echo why; false", "why\n", "failed: NAME exit status 1"},
		{"kill -TERM $$", "", "failed: NAME: terminated by signal SIGTERM"},
		{"kill -40 $$", "", "failed: NAME: terminated by signal 40"},
	} {
		var out bytes.Buffer
		cmd := shell("", test.script)
		cmd.Stdout, cmd.Stderr = &out, &out
		err := Run(t.Context(), "NAME", cmd, Options{})
		if text := fmt.Sprint(err); test.err == "" && err != nil || test.err != "" && text != test.err {
			t.Errorf("%s: got error %v, expected %q", test.script, err, test.err)
		}
		var exit *exec.ExitError
		if test.err != "" && !errors.As(err, &exit) {
			t.Errorf("%s: the error wraps no exec.ExitError", test.script)
		}
		if out.String() != test.out {
			t.Errorf("%s: printed %q, expected %q", test.script, &out, test.out)
		}
	}
}

func TestRunNotStarted(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), "NAME", exec.Command("/no/such/program"), Options{})
	if !errors.Is(err, os.ErrNotExist) || err.Error() != "failed: NAME: fork/exec /no/such/program: no such file or directory" {
		t.Errorf("a program that does not exist: got error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStopped)
	dir := t.TempDir()
	err = Run(ctx, "NAME", shell(dir, "touch never"), Options{})
	if !errors.Is(err, errStopped) || err.Error() != "failed: NAME: not started: stopped" {
		t.Errorf("with a context that is done: got error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "never")); err == nil {
		t.Error("a command was started with a context that is done")
	}
}

func TestRunEnvironment(t *testing.T) {
	t.Setenv("OF_THE_TEST", "test")
	for _, test := range []struct {
		env  []string
		want string
	}{
		{nil, "test "},
		{[]string{"OWN=own"}, " own"},
		{[]string{}, " "},
	} {
		var out strings.Builder
		cmd := exec.Command("/bin/sh", "-c", `printf %s "$OF_THE_TEST $OWN"`)
		cmd.Stdout = &out
		if err := Run(t.Context(), "NAME", cmd, Options{Env: test.env}); err != nil || out.String() != test.want {
			t.Errorf("with %q it has %q, expected %q; %v", test.env, out.String(), test.want, err)
		}
	}
}

// A command need not read its stdin, which may be more than a pipe holds.
func TestRunStdin(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"true", "exec <&-; true", "head -c 10 > head"} {
		cmd := shell(t.TempDir(), script)
		cmd.Stdin = strings.NewReader(strings.Repeat("a line of the log\n", 20000))
		if err := Run(t.Context(), "NAME", cmd, Options{}); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestRunTimeout(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), "NAME", shell("", "sleep 600"), Options{Timeout: 50 * time.Millisecond})
	if err == nil || err.Error() != "failed: NAME: timeout after 50ms" {
		t.Errorf("got error %v", err)
	}
}

// The processes that a command has started are terminated with it, also those
// that are stopped and would not act on SIGTERM.
func TestRunCancelled(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"children": "sleep 600 & echo $! > child; " + started + "wait",
		"stopped":  "sleep 600 & echo $! > child; kill -STOP $!; " + started + "kill -STOP $$",
		// The group lives longer than the command.
		"clean-up": `sh -c 'trap "sleep 0.3; touch cleaned; exit" TERM; echo $$ > child; while :; do sleep 0.01; done' & until test -s child; do sleep 0.01; done; ` + started + "wait",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			err := Run(cancelWhenStarted(t, dir, errStopped), "NAME", shell(dir, script), Options{})
			if !errors.Is(err, errStopped) || err.Error() != "failed: NAME: stopped" {
				t.Errorf("got error %v", err)
			}
			for _, file := range []string{"pid", "child"} {
				if lives(pidIn(t, filepath.Join(dir, file))) {
					t.Errorf("the process of %s still lives", file)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil && name == "clean-up" {
				t.Error("a child could not clean up")
			}
		})
	}
}

// ignoring is a script whose processes ignore SIGTERM.
const ignoring = `trap "" TERM; sleep 600 & echo $! > child; ` + started + "wait"

func TestRunKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begin := time.Now()
	err := Run(cancelWhenStarted(t, dir, errStopped), "NAME", shell(dir, ignoring), Options{})
	if !errors.Is(err, errStopped) {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(begin); took < killWait {
		t.Errorf("it was killed after %s, expected %s", took, killWait)
	}
	// Of the group, only the command itself has been waited for.
	until(t, "all processes were killed", func() bool { return !lives(pidIn(t, dir+"/pid")) && !lives(pidIn(t, dir+"/child")) })
}

func TestRunAborted(t *testing.T) {
	t.Parallel()
	abort := make(chan struct{})
	close(abort)
	// Without the end of its context, a command is not aborted.
	if err := Run(t.Context(), "NAME", shell("", "sleep 0.1"), Options{Abort: abort}); err != nil {
		t.Errorf("of a running command: %v", err)
	}
	dir := t.TempDir()
	begin := time.Now()
	err := Run(cancelWhenStarted(t, dir, errStopped), "NAME", shell(dir, ignoring), Options{Abort: abort})
	if !errors.Is(err, errStopped) {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(begin); took >= killWait {
		t.Errorf("it took %s", took)
	}
	// Of the group, only the command itself has been waited for.
	until(t, "all processes were killed", func() bool { return !lives(pidIn(t, dir+"/pid")) && !lives(pidIn(t, dir+"/child")) })
}

// leavesBehind is a script that detaches a process which holds the output open
// and prints until that is closed.
const leavesBehind = `setsid sh -c 'echo $$ > child; while echo line; do sleep 0.001; done' & until test -s child; do sleep 0.01; done; ` + started

// An abort gives up a command whose output is still held open. Nothing that is
// printed later gets to the log, which belongs to the caller again.
func TestRunAbortedWhileOutputIsHeld(t *testing.T) {
	t.Parallel()
	t.Run("one pipe", func(t *testing.T) {
		t.Parallel()
		w, logged, _ := newTestWriter()
		testAbortedWhileOutputIsHeld(t, leavesBehind, w, w, logged)
	})
	t.Run("two pipes", func(t *testing.T) {
		t.Parallel()
		stdout, _, _ := newTestWriter()
		stderr, logged, _ := newTestWriter()
		testAbortedWhileOutputIsHeld(t, "exec >&2; "+leavesBehind, stdout, stderr, logged)
	})
}

func testAbortedWhileOutputIsHeld(t *testing.T, script string, stdout, stderr *LineWriter, logged *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	abort := make(chan struct{})
	close(abort)
	cmd := shell(dir, script+"exec sleep 600")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := Run(cancelWhenStarted(t, dir, errStopped), "NAME", cmd, Options{Abort: abort})
	child := pidIn(t, dir+"/child")
	if !lives(child) {
		t.Error("the detached process does not live: Run waited for the end of its output")
	}
	if !errors.Is(err, errStopped) || err.Error() != "failed: NAME: stopped" {
		t.Errorf("got error %v", err)
	}
	before := logged.String() // the race detector watches it
	if !strings.HasSuffix(before, "line\n") {
		t.Errorf("logged %.100q", before)
	}
	until(t, "the output of the detached process is closed", func() bool { return !lives(child) })
	if after := logged.String(); after != before {
		t.Errorf("%d bytes were logged after Run", len(after)-len(before))
	}
}

// A command that has ended has succeeded or failed, whatever happens while its
// output is held open by a process that it left behind.
func TestRunLeavesProcess(t *testing.T) {
	tests := []struct {
		name, script, err string
		cancelled         bool
	}{
		{"success", leavesBehind, "", false},
		{"success cancelled", leavesBehind, "", true},
		{"failure", leavesBehind + "exit 3", "failed: failure exit status 3", false},
		{"failure cancelled", leavesBehind + "exit 3", "failed: failure cancelled exit status 3", true},
	}
	logged := logOf(func() {
		var wg sync.WaitGroup
		for _, test := range tests {
			dir := t.TempDir()
			ctx := t.Context()
			if test.cancelled {
				ctx = cancelWhenEnded(t, dir, nil)
			}
			wg.Go(func() {
				cmd := shell(dir, test.script)
				cmd.Stdout = NewLineWriter(log.New(io.Discard, "", 0), func() {})
				err := Run(ctx, test.name, cmd, Options{})
				if test.err == "" && err != nil || test.err != "" && fmt.Sprint(err) != test.err {
					t.Errorf("%s: got error %v", test.name, err)
				}
				if test.cancelled && ctx.Err() == nil {
					t.Errorf("%s: the context was not done in time", test.name)
				}
			})
		}
		wg.Wait()
	})
	logged = regexp.MustCompile(`(?m)^command ended after [3-9].*\n`).ReplaceAllString(logged, "")
	const warning = " left a process behind that holds its output: no longer reading it (redirect the output of daemons)\n"
	for _, name := range []string{"success", "success cancelled"} {
		line := "[WARN] " + name + warning
		if !strings.Contains(logged, line) {
			t.Errorf("%s: there is no warning", name)
		}
		logged = strings.Replace(logged, line, "", 1)
	}
	if logged != "" {
		t.Errorf("it also logged %q", logged)
	}
}

// A second signal does not wait for output that is held open.
func TestRunAbortedAfterEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	abort := make(chan struct{})
	ctx := cancelWhenEnded(t, dir, abort)
	cmd := shell(dir, leavesBehind)
	cmd.Stdout = NewLineWriter(log.New(io.Discard, "", 0), func() {})
	if err := Run(ctx, "NAME", cmd, Options{Abort: abort}); !errors.Is(err, errStopped) {
		t.Errorf("got error %v", err)
	}
	if !lives(pidIn(t, dir+"/child")) {
		t.Error("the detached process does not live: Run waited for the end of its output")
	}
}

// A process that the group's signals do not reach is left running.
func TestRunCannotEnd(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStopped)
	abort := make(chan struct{})
	close(abort)
	cmd := exec.Command("sleep", "600") // in the process group of the test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	var err error
	logged := logOf(func() { err = supervise(ctx, "NAME", cmd.Process, waited, Options{Abort: abort}) })
	if logged != "[WARN] NAME could not be ended, and is left running\n" {
		t.Errorf("logged %q", logged)
	}
	if !errors.Is(err, errStopped) {
		t.Errorf("got error %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-waited
}

// That a signal cannot be sent is logged, unless the group has ended.
func TestSignalGroup(t *testing.T) {
	logged := logOf(func() { signalGroup("NAME", 1<<30, unix.SIGTERM) })
	if logged != "" {
		t.Errorf("of a group that does not exist it logged %q", logged)
	}
	logged = logOf(func() { signalGroup("NAME", unix.Getpgrp(), 999) })
	if want := regexp.MustCompile(`^\[WARN\] .* to the processes of NAME: invalid argument\n$`); !want.MatchString(logged) {
		t.Errorf("of a signal that does not exist it logged %q", logged)
	}
}

// A group of which only zombies are left has ended.
func TestGroupLives(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	group := cmd.Process.Pid
	if !groupLives(group) {
		t.Error("a running process does not count")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "only a zombie is left", func() bool { return !lives(group) })
	if err := unix.Kill(-group, 0); err != nil {
		t.Fatalf("there is no zombie to test with: %v", err)
	}
	if groupLives(group) {
		t.Error("a zombie counts")
	}
	cmd.Wait()
	if groupLives(group) {
		t.Error("a group that does not exist lives")
	}
}

// The log tells that a command is still running, and when it has ended, after the
// last line of its output. A short command has neither.
func TestRunReports(t *testing.T) {
	defer func(d time.Duration) { reportInterval = d }(reportInterval)
	reportInterval = 100 * time.Millisecond
	logged := logOf(func() {
		for _, script := range []string{"sleep 1.2; printf last; exit 3", "true"} {
			cmd := shell("", script)
			w := NewLineWriter(log.Default(), func() {})
			cmd.Stdout = w
			if err := Run(t.Context(), "NAME "+script, cmd, Options{}); err != nil && err.Error() != "failed: NAME "+script+" exit status 3" {
				t.Errorf("got error %v", err)
			}
		}
	})
	name := "NAME sleep 1.2; printf last; exit 3\n"
	if want := regexp.MustCompile(`^(still running after [01]s: ` + name + `){5,}last\ncommand ended after [1-9][0-9.]*s: ` + name + `$`); !want.MatchString(logged) {
		t.Errorf("logged %q", logged)
	}
}

// When the process that runs a command is killed, the command is killed too.
// The test starts itself as that process.
func TestRunnerKilled(t *testing.T) {
	if dir := os.Getenv("TEST_RUN_IN"); dir != "" {
		t.Fatal(Run(context.Background(), "NAME", shell(dir, started+"exec sleep 600"), Options{}))
	}
	t.Parallel()
	dir := t.TempDir()
	runner := exec.Command(os.Args[0], "-test.run=^TestRunnerKilled$")
	runner.Env = append(os.Environ(), "TEST_RUN_IN="+dir)
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, dir+"/pid")
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	runner.Wait()
	until(t, "the command has ended", func() bool { return !lives(pid) })
}
