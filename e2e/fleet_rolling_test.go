package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Never more than two of five hosts deploy at once, and one that fails does not keep
// the others from deploying.
func TestFleetRolling(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	names := []string{"web1", "web2", "web3", "web4", "web5"}
	shared := newFleetHost(t, "operator", c.http)
	running, manifest := shared.path("running"), shared.path("app.yml")
	if err := os.Mkdir(running, 0o755); err != nil {
		t.Fatal(err)
	}
	// The first host waits for a second one, which proves that two may run.
	write(t, manifest, reporting(t, fmt.Sprintf(`cd '%s'
mkdir running/$FLEET_HOST
until [ -e two ]; do test $(ls running | wc -l) -lt 2 || touch two; sleep 0.05; done
ls running | wc -l >> counts
sleep 1
ls running | wc -l >> counts
rmdir running/$FLEET_HOST
test $FLEET_HOST != web2`, shared.dir)))

	var watches []*server
	for _, name := range names {
		watches = append(watches, newFleetHost(t, name, c.http).watchRolling("2"))
	}
	for _, watch := range watches {
		watch.waitForOutput("rolling.sh: not deploying", 1) // nothing is stored when the watch starts
	}
	output(t, shared.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)))
	for _, watch := range watches {
		watch.waitForOutput("commands: 1 pre", 1)
		waitFor(t, "the end of the deployment", func() error {
			if out := watch.output(); !strings.Contains(out, "Done in") && !strings.Contains(out, "Failed in") {
				return errors.New("it goes on")
			}
			return nil
		})
	}
	table := shared.status(1, append([]string{"hello"}, names...)...)
	for _, name := range names {
		state := "ok"
		if name == "web2" {
			state = "FAILED"
		}
		wantRow(t, table, name+" "+state, "")
	}
	if n := strings.Fields(string(read(t, shared.path("counts")))); len(n) != 2*len(names) || slices.Max(n) != "2" {
		t.Errorf("so many ran at once: %q", n)
	}
	for _, watch := range watches {
		wantWatching(t, watch)
	}
}

// A rollout is stopped when the key of its manifest is deleted: hosts that wait do not
// deploy.
func TestFleetRollingStops(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	operator := newFleetHost(t, "operator", c.http)
	bad, good := operator.path("bad.yml"), operator.path("good.yml")
	write(t, bad, []byte(fmt.Sprintf(`commands:
  pre:
    - "until [ -e '%s' ]; do sleep 0.05; done; exit 5"
  failure:
    - consul kv delete stretcher/hello/manifest
`, operator.path("go on"))))
	write(t, good, []byte("commands: {pre: [echo good]}\n"))

	var watches []*server
	all := func(text string) (n int) {
		for _, watch := range watches {
			n += strings.Count(watch.output(), text)
		}
		return n
	}
	for _, name := range []string{"web1", "web2", "web3"} {
		watches = append(watches, newFleetHost(t, name, c.http).watchRolling("1"))
	}
	waitForAll := func(text string, n int) {
		t.Helper()
		waitFor(t, text, func() error {
			if got := all(text); got < n {
				return fmt.Errorf("found %d times, want %d", got, n)
			}
			return nil
		})
	}
	const skipped = "rolling.sh: not deploying: stretcher/hello/manifest has been changed or deleted"
	waitForAll("rolling.sh: not deploying: stretcher/hello/manifest does not exist", 3)
	deploy := fleetScript(t, "deploy.sh")
	output(t, operator.command(deploy, "hello", fileURL(bad)))
	waitForAll("rolling.sh: waiting", 3)
	waitForAll("Loading manifest", 1)
	write(t, operator.path("go on"), nil)
	waitForAll("failed: until", 1)
	waitForAll(skipped, 2)
	output(t, operator.command(deploy, "hello", fileURL(good)))
	waitForAll("Done in", 3)
	if n := all("Loading manifest: " + fileURL(bad)); n != 1 {
		t.Errorf("%d hosts deployed the bad manifest", n)
	}
	for _, watch := range watches {
		wantWatching(t, watch)
	}
}

// watchRolling starts consul watch with rolling.sh as its handler, on this host.
func (h *host) watchRolling(hosts string) *server {
	h.t.Helper()
	return launch(h.t, "watch", h.command(tool(h.t, "consul"), "watch", "-type", "event", "-name", "deploy", "-shell=false",
		fleetScript(h.t, "rolling.sh"), "hello", hosts))
}

// A host that goes down during its deployment makes way for the others when its
// session has expired.
func TestFleetRollingHostDies(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	one, two := newFleetHost(t, "web1", c.http), newFleetHost(t, "web2", c.http)
	manifest := two.path("app.yml")
	output(t, two.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)))
	write(t, manifest, []byte("commands: {pre: ['touch started; test $FLEET_HOST != web1 || sleep 600']}\n"))
	down := one.roll(manifest)
	waitForFile(t, one.path("work", "started"))
	next := two.roll(manifest)
	killTree(t, down.cmd.Process.Pid)
	next.waitForOutput("Done in", 1)
	if err := os.RemoveAll(one.path("tmp")); err != nil { // a host that is down may leave anything
		t.Fatal(err)
	}
	if err := os.Mkdir(one.path("tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// roll runs rolling.sh with the URL of a file on stdin.
func (h *host) roll(manifest string) *server {
	h.t.Helper()
	cmd := h.command(fleetScript(h.t, "rolling.sh"), "hello", "1")
	cmd.Stdin = strings.NewReader(fileURL(manifest) + "\n")
	return launch(h.t, "rolling", cmd)
}

// A host that loses its connection to Consul cancels its deployment, as another one may
// have its place.
func TestFleetRollingLosesConsul(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newFleetHost(t, "web1", c.http)
	manifest := h.path("app.yml")
	output(t, h.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)))
	write(t, manifest, []byte("commands: {pre: ['touch started; sleep 600']}\n"))
	rolling := h.roll(manifest)
	waitForFile(t, h.path("work", "started"))
	c.stop()
	rolling.waitForOutput(": interrupted by SIGTERM", 1)
	<-rolling.done
	if code := rolling.cmd.ProcessState.ExitCode(); code == 0 {
		t.Error("rolling.sh succeeds")
	}
}

// killTree kills a process and its descendants.
func killTree(t *testing.T, pid int) {
	t.Helper()
	syscall.Kill(pid, syscall.SIGSTOP) // so that it starts no others
	// The children of each thread are listed apart.
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		for child := range strings.FieldsSeq(string(read(t, list))) {
			if n, err := strconv.Atoi(child); err == nil {
				killTree(t, n)
			}
		}
	}
	syscall.Kill(pid, syscall.SIGKILL)
}
