package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// forever is a command that starts a process in the background and waits
	// for it. The process IDs of the shell and of the child are written to files.
	forever = "echo $$ > parent.pid; sleep 600 & echo $! > child.pid; wait"

	// failed records the stdin and the environment of the failure commands.
	failed = "  failure: ['cat > failure.log; echo \"$STRETCHER_RESULT $STRETCHER_ERROR\" > failure.env']\n"
)

// stalled serves files that never end. The channel receives a value for each
// request.
func stalled(t *testing.T) (url string, asked chan struct{}) {
	asked = make(chan struct{}, 10)
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "half of it")
		w.(http.Flusher).Flush()
		asked <- struct{}{}
		<-done
	}))
	t.Cleanup(func() {
		close(done)
		s.Close()
	})
	return s.URL, asked
}

// waits are the situations in which a signal may reach the agent. Each start
// function returns when the agent is waiting for something that does not happen;
// hooks tells whether the agent has read the manifest by then, and runs whether
// the processes of forever are running.
var waits = map[string]struct {
	start       func(w *world, variables ...string) *agent
	hooks, runs bool
}{
	"stdin": {start: func(w *world, variables ...string) *agent {
		cmd := exec.Command("stretcher")
		if _, err := cmd.StdinPipe(); err != nil {
			w.t.Fatal(err)
		}
		a := w.startCommand(cmd, variables)
		a.logged("Starting up stretcher agent")
		return a
	}},
	"random delay": {start: func(w *world, variables ...string) *agent {
		a := w.start("manifest.yml", variables, "-random-delay", "1e9")
		a.logged("Sleeping ")
		return a
	}},
	"retry wait": {start: func(w *world, variables ...string) *agent {
		a := w.start("missing.yml", variables, "-retry", "3", "-retry-wait", "600")
		a.logged("attempt 1 of 4 failed: .* next in ")
		return a
	}},
	"download of the manifest": {start: func(w *world, variables ...string) *agent {
		url, asked := stalled(w.t)
		a := w.start(url+"/manifest.yml", variables)
		<-asked
		return a
	}},
	"download": {hooks: true, start: func(w *world, variables ...string) *agent {
		url, asked := stalled(w.t)
		w.write("manifest.yml", "src: "+url+"/app.tar\nchecksum: d41d8cd98f00b204e9800998ecf8427e\ndest: %s/dest\ncommands:\n"+failed)
		a := w.start("manifest.yml", variables, "-retry", "3")
		<-asked
		return a
	}},
	"lock": {hooks: true, start: func(w *world, variables ...string) *agent {
		m := w.archive(w.path("dest"))
		w.write("first.yml", m+"commands: {pre: [exec sleep 600]}\n")
		w.write("manifest.yml", m+"commands:\n"+failed)
		w.start("first.yml", nil).logged("invoking command: exec sleep")
		a := w.start("manifest.yml", variables)
		a.logged("waiting for another deployment")
		return a
	}},
	"pre": {hooks: true, runs: true, start: func(w *world, variables ...string) *agent {
		w.write("manifest.yml", w.archive(w.path("dest"))+"commands:\n  pre: ['"+forever+"', touch %s/never]\n"+failed)
		return w.start("manifest.yml", variables)
	}},
	"post": {hooks: true, runs: true, start: func(w *world, variables ...string) *agent {
		w.write("manifest.yml", w.archive(w.path("dest"))+"commands:\n  post: ['"+forever+"', touch %s/never]\n"+failed)
		return w.start("manifest.yml", variables)
	}},
	"rsync": {hooks: true, runs: true, start: func(w *world, variables ...string) *agent {
		w.write("bin/rsync", "#!/bin/sh\n"+forever+"\n")
		w.write("manifest.yml", w.archive(w.path("dest"))+"commands:\n  post: [touch %s/never]\n"+failed)
		return w.start("manifest.yml", append(variables, "PATH="+w.path("bin")+":"+os.Getenv("PATH")))
	}},
}

// A signal ends every wait at once. The agent cleans up and runs the failure
// commands.
func TestSignals(t *testing.T) {
	// Do not pass on an ignored SIGHUP to the agent if the tests run under nohup.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangup) }) // runs after the parallel subtests
	for name := range waits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSignal(t, name, syscall.SIGTERM, 1)
		})
	}
	t.Run("SIGINT", func(t *testing.T) {
		t.Parallel()
		testSignal(t, "pre", syscall.SIGINT, 1)
	})
	t.Run("SIGHUP", func(t *testing.T) {
		t.Parallel()
		testSignal(t, "pre", syscall.SIGHUP, 1)
	})
	t.Run("under Consul", func(t *testing.T) {
		t.Parallel()
		testSignal(t, "pre", syscall.SIGTERM, 0, "CONSUL_INDEX=1")
	})
}

func testSignal(t *testing.T, wait string, s syscall.Signal, status int, variables ...string) {
	w := newWorld(t)
	a := waits[wait].start(w, variables...)
	var pids []int
	if waits[wait].runs {
		pids = append(pids, w.pid("parent.pid"), w.pid("child.pid"))
	}
	a.signal(s)
	a.exits(status)
	because := "interrupted by " + unix.SignalName(s)
	a.logged(`\[ERROR\] .* failed: .*` + because)
	for _, pid := range pids {
		w.dead(pid)
	}
	if waits[wait].hooks {
		if log := w.read("failure.log"); !strings.Contains(log, because) {
			t.Errorf("the log on the stdin of failure does not contain the reason:\n%s", log)
		}
		if env := w.read("failure.env"); !strings.HasPrefix(env, "failure ") || !strings.Contains(env, because) {
			t.Errorf("the failure command has this environment: %s", env)
		}
	}
	if _, err := os.Stat(w.path("never")); err == nil {
		t.Error("a command was run after the signal")
	}
	w.clean()
}

// A command that ignores SIGTERM, like its children, is killed after 5 seconds.
func TestSignalIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", "commands:\n  pre: ['trap \"\" TERM; "+forever+"']\n"+failed)
	a := w.start("manifest.yml", nil)
	parent, child := w.pid("parent.pid"), w.pid("child.pid")
	begin := time.Now()
	a.signal(syscall.SIGTERM)
	a.exits(1)
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("the command was killed after %s, want at least 5s", took)
	}
	w.dead(parent)
	w.dead(child)
	if env := w.read("failure.env"); !strings.Contains(env, "interrupted by SIGTERM") {
		t.Errorf("the failure command has this environment: %s", env)
	}
}

// After a second signal, the agent waits neither for a command that ignores
// SIGTERM nor for the failure commands.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", w.archive(w.path("dest"))+"commands:\n  pre: [exec sleep 600]\n  failure: ['trap \"\" TERM; "+forever+"', touch %s/never]\n")
	a := w.start("manifest.yml", nil)
	a.logged("invoking command: exec sleep 600")
	begin := time.Now()
	a.signal(syscall.SIGTERM)
	parent, child := w.pid("parent.pid"), w.pid("child.pid")
	time.Sleep(2 * sameStop)
	a.signal(syscall.SIGTERM)
	if !a.endsWithin(20 * time.Second) {
		a.signal(syscall.SIGTERM) // the previous signal was considered part of the same stop
	}
	a.exits(1)
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the agent took %s to exit", took) // the time limit of the failure commands
	}
	w.dead(parent)
	w.dead(child)
	if _, err := os.Stat(w.path("never")); err == nil {
		t.Error("a command was run after the second signal")
	}
	w.clean()
}

// If the shell of a command exits in time, the time limit of the command no longer
// applies while the agent waits for the end of its output. A process that the
// command left behind is not ended.
func TestTimeoutWhileOutputIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", "commands:\n  post: ['sleep 600 & echo $! > child.pid; sleep 1']\n")
	a := w.start("manifest.yml", nil, "-command-timeout", "2")
	a.exits(0)
	a.logged("left a process behind")
	if err := syscall.Kill(w.pid("child.pid"), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// Whenever the signal arrives, exactly one of success and failure is run.
func TestSignalAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", w.archive(w.path("dest"))+"commands:\n  post: ['kill -TERM $PPID; sleep 0.2']\n  success: [touch success]\n  failure: [touch failure]\n")
	a := w.start("manifest.yml", nil)
	a.exits(1)
	a.logged("Deploy manifest failed: .*interrupted by SIGTERM")
	w.read("failure")
	if _, err := os.Stat(w.path("success")); err == nil {
		t.Error("success was run as well")
	}
	w.clean()
}

// SIGHUP stays ignored under nohup(1).
func TestSignalUnderNohup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", "commands:\n  pre: ['"+forever+"']\n"+failed)
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec stretcher`)
	cmd.Stdin = strings.NewReader(w.url("manifest.yml"))
	a := w.startCommand(cmd, nil)
	w.pid("child.pid")
	a.signal(syscall.SIGHUP)
	a.signal(syscall.SIGTERM)
	a.exits(1)
	a.logged("interrupted by SIGTERM")
}

// When the agent is killed, its command is killed too, so that it cannot interfere
// with the next deployment.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", "commands: {pre: ['echo $$ > sh.pid; exec sleep 600']}")
	a := w.start("manifest.yml", nil)
	pid := w.pid("sh.pid")
	a.signal(syscall.SIGKILL)
	a.exits(-1)
	w.until("the command has ended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
