package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stopDaemon ends the process whose pid a command has written to a file, after
// checking that it is still running.
func (s *site) stopDaemon(file string) {
	s.t.Helper()
	data := read(s.t, file)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Errorf("the daemon, pid %d, is not running: %v", pid, err)
	}
}

// Commands that leave a daemon behind do not block the agent, even if the daemon
// keeps the pipes to the agent open, and the daemon does not keep the lock.
func TestTortureDaemonisingCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tr := tortured(100, false)[0]
	archive := tr.pack(t)
	hook := func(redirect, file string) string {
		return fmt.Sprintf("exec 3<&0; sleep 1000 <&3 %s & echo $! > %s", redirect, s.path(file))
	}
	o := s.deploy(s.publish("daemons", archive, fmt.Sprintf(`commands:
  pre: [%q]
  post: ["yes | head -c 1000000"] # more log than a pipe holds
  success: [%q]`, hook("", "output"), hook(">/dev/null 2>&1", "input"))))
	o.wantLog("left a process behind that holds its output")
	if n := len(s.survivors()); n != 2 {
		t.Errorf("%d daemons are running, want 2", n)
	}
	s.deploy(s.publish("next", archive))
	s.stopDaemon(s.path("output"))
	s.stopDaemon(s.path("input"))
	s.waitForNoSurvivor()
	s.wantDeployed(tr)
}

// Commands that hang are ended by the time limit or a signal, together with all
// processes that they have started.
func TestTortureHangingCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tr := tortured(100, false)[0]
	archive := tr.pack(t)
	const (
		hang = "sleep 1000 & sleep 1000"
		deaf = "trap '' TERM; sleep 1000 & sleep 1000"
	)
	manifest := func(list, hook string) string {
		failure := s.tell("failure")
		if list == "failure" {
			return s.publish(list, archive, fmt.Sprintf("commands: {pre: [exit 7], failure: [%q, %q]}", failure, hook))
		}
		return s.publish(list, archive, fmt.Sprintf("commands: {%s: [%q], failure: [%q]}", list, hook, failure))
	}

	limit := []string{"-command-timeout", "1"}
	s.start(manifest("pre", hang), limit...).wait().wantFailure("pre command: failed: "+hang, "timeout after 1s")
	s.wantFailureCommands(1)
	s.wantClean()
	s.start(manifest("post", deaf), limit...).wait().wantFailure("post command: failed: "+deaf, "timeout after 1s")
	s.wantFailureCommands(1)
	s.wantClean()
	s.start(manifest("success", hang), limit...).wait().wantSuccess().wantLog("success command: failed: "+hang, "timeout after 1s")
	s.wantFailureCommands(0)
	s.wantDeployed(tr)
	s.start(manifest("failure", hang), limit...).wait().wantFailure("failed: exit 7", "failure command: failed: "+hang, "timeout after 1s")
	s.wantFailureCommands(1)
	s.wantClean()

	// interrupt sends a signal to a run after it has started a command.
	interrupt := func(r *running, command string) {
		t.Helper()
		r.waitForLog("invoking command: " + command)
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for list, hook := range map[string]string{"pre": hang, "post": deaf} {
		r := s.start(manifest(list, hook))
		interrupt(r, hook)
		r.wait().wantFailure(list+" command: failed: "+hook, "interrupted by SIGTERM")
		s.wantFailureCommands(1)
		s.wantClean()
	}
	// A second signal ends the failure command, which may otherwise run for a
	// minute. It must not follow the first one too closely: see onSignals.
	r := s.start(s.publish("both", archive, fmt.Sprintf("commands: {pre: [%q], failure: [%q]}", hang, deaf)))
	interrupt(r, hang)
	r.waitForLog("invoking command: " + deaf)
	time.Sleep(500 * time.Millisecond)
	interrupt(r, deaf)
	second := time.Now()
	r.wait().wantFailure("interrupted by SIGTERM")
	if took := time.Since(second); took > 45*time.Second {
		t.Errorf("the agent ran for %s after the second signal", took)
	}
	s.wantClean()
}

// Success commands may read all, part or none of their stdin.
func TestTortureStdinIgnoringCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tr := tortured(100, false)[0]
	o := s.deploy(s.publish("app", tr.pack(t), fmt.Sprintf(`commands:
  pre: ["yes | head -c 1000000"] # more log than a pipe holds
  success:
    - "true"
    - "exec 0<&-; sleep 0.2"
    - "sleep 0.2"
    - "head -c 10 >/dev/null"
    - "cat > %s"`, s.path("got"))))
	o.wantNotPrinted("[ERROR]", "[WARN]")
	got := read(t, s.path("got"))
	if !strings.Contains(string(got), "Deploy manifest succeeded.") || len(got) < 1_000_000 {
		t.Errorf("the last command received %d bytes of the log: %s", len(got), tail(string(got), 500))
	}
	s.wantDeployed(tr)
}

// A command's output does not accumulate in memory: all of it goes to stderr, and
// the log that is kept for other commands is limited.
func TestTorturePrintingCommands(t *testing.T) {
	t.Parallel()
	const (
		printed = 200_000_000
		most    = 64 << 10 // KiB
	)
	for name, hook := range map[string]string{
		"lines":    fmt.Sprintf("yes %s | head -c %d", strings.Repeat("x", 99), printed),
		"one line": fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", printed),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			tr := tortured(100, false)[0]
			cmd := s.command(plainPath(t))
			stderr := &counter{}
			cmd.Stdin = strings.NewReader(s.publish("app", tr.pack(t), fmt.Sprintf(`commands:
  pre: [%q]
  success:
    - "cat > %s"
    - "grep VmHWM /proc/$PPID/status > %s"`, hook, s.path("got"), s.path("peak"))))
			cmd.Stderr = stderr
			tooLong := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
			defer tooLong.Stop()
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			if stderr.n < printed {
				t.Errorf("stderr received %d of %d bytes", stderr.n, printed)
			}
			got := read(t, s.path("got"))
			if len(got) > 8<<20+1024 || !strings.Contains(string(got), "left out") || !strings.Contains(string(got), "Deploy manifest succeeded.") {
				t.Errorf("the success command received %d bytes of the log: %s", len(got), tail(string(got), 500))
			}
			wantPeakBelow(t, string(read(t, s.path("peak"))), most)
			s.wantDeployed(tr)
		})
	}
}

// wantPeakBelow checks the peak memory of a process, by that line of its
// /proc/PID/status (see proc_pid_status(5)).
func wantPeakBelow(t *testing.T, line string, most int) {
	t.Helper()
	var kibibytes int
	if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kibibytes); err != nil {
		t.Fatalf("peak memory %q: %v", line, err)
	}
	if kibibytes >= most {
		t.Errorf("the agent used %d KiB of memory, want less than %d", kibibytes, most)
	}
	t.Logf("peak memory of the agent: %.1f MiB", float64(kibibytes)/1024)
}

// counter counts the bytes that are written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
