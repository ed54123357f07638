package e2e

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// A watch is stopped while its handler is deploying.
//
// If only the watch is signalled, it may or may not forward SIGTERM and SIGINT to its
// child before it exits, and the child is the agent only if there is no shell in
// between. If the signal does not reach the agent, the deployment continues without
// the watch. The example unit uses SIGHUP, which the watch does not forward.
func TestTortureConsulWatchStopped(t *testing.T) {
	t.Parallel()
	for _, stop := range []struct {
		name   string
		shell  bool // the watch runs the agent through a shell
		signal syscall.Signal
		all    bool // signal all processes, not only the watch
	}{
		{"SIGTERM to all", true, syscall.SIGTERM, true},
		{"SIGTERM to all without a shell", false, syscall.SIGTERM, true},
		{"SIGINT to all without a shell", false, syscall.SIGINT, true},
		{"SIGTERM to the watch", true, syscall.SIGTERM, false},
		{"SIGTERM to the watch without a shell", false, syscall.SIGTERM, false},
		{"SIGHUP to the watch without a shell", false, syscall.SIGHUP, false},
		{"SIGKILL to the watch", true, syscall.SIGKILL, false},
	} {
		t.Run(stop.name, func(t *testing.T) {
			defer heed(stop.signal)()
			// On a busy machine, the second signal may arrive so late that it
			// ends the failure commands (see sameStop). Try again then.
			for attempt := 1; !stopWatch(t, stop.shell, stop.signal, stop.all); attempt++ {
				if attempt == 3 {
					t.Fatal("the failure commands were aborted three times")
				}
			}
		})
	}
}

// stopWatch stops a watch and checks the outcome of the deployment. It returns
// false if the failure commands were aborted.
func stopWatch(t *testing.T, shell bool, signal syscall.Signal, all bool) bool {
	t.Helper()
	c := startConsul(t, nil)
	s := newSite(t)
	watch := launch(t, "consul-watch", s.command(tool(t, "consul"), "watch", "-http-addr", c.http,
		"-type", "event", "-name", "deploy", fmt.Sprintf("-shell=%t", shell), stretcherPath))
	watch.waitForOutput(noEvent, 1)
	tr := tortured(100, false)[0]
	hang := fmt.Sprintf("while [ ! -e %s ]; do sleep 0.02; done", s.path("gate"))
	c.fire(s.publish("app", tr.pack(t), fmt.Sprintf("commands: {pre: [%q], success: [%q], failure: [%q]}", hang, s.tell("success"), s.tell("failure"))))
	watch.waitForOutput("invoking command: "+hang, 1)
	pid := watch.cmd.Process.Pid
	if all {
		pid = -pid
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of the watch", func() error {
		if watch.running() {
			return fmt.Errorf("it is still running")
		}
		return nil
	})
	if !all {
		s.openGate()
	}
	s.waitForNoSurvivor()
	log := watch.output()
	wantNoRace(t, log)
	s.wantClean()
	interrupted := strings.Contains(log, "interrupted by")
	if signal == syscall.SIGHUP && interrupted {
		t.Errorf("the watch has forwarded SIGHUP:\n%s", log)
	}
	if !all && !interrupted {
		s.wantFailureCommands(0)
		s.wantDeployed(tr)
		return true
	}
	wantMissing(t, s.dest)
	if strings.HasSuffix(strings.TrimSpace(log), "aborted") {
		return false
	}
	s.wantFailureCommands(1)
	return true
}

// heed makes this process, and therefore its children, stop ignoring a signal,
// which they would if it was started by nohup or in the background of a shell.
func heed(s os.Signal) (undo func()) {
	c := make(chan os.Signal, 1)
	if signal.Ignored(s) {
		signal.Notify(c, s)
	}
	return func() { signal.Stop(c) }
}
