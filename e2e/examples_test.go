package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// project is a copy of the examples on a host, used as a user would who starts
// a project from them. All of its paths require quoting.
type project struct {
	*host
	app files // the application as it is in the project, and as dest should have it
}

func newProject(t *testing.T, env ...string) *project {
	t.Helper()
	h := newHost(t)
	p := &project{host: h, app: files{}}
	h.env = append(h.env,
		"PATH="+filepath.Dir(tool(t, "consul"))+":"+os.Getenv("PATH"),
		"STRETCHER="+h.path("the agent's", "stretcher"),
		"STORE="+h.path("the store"),
		"DEST="+p.dest(),
		"LOG="+p.log())
	h.env = append(h.env, env...)
	if err := os.CopyFS(p.file(), os.DirFS(filepath.Join("..", "examples"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin/hello", "public/greeting.txt", "public/index.html"} {
		p.app[name] = string(read(t, p.file("app", name)))
	}
	if err := os.Mkdir(h.path("the agent's"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(stretcherPath, h.path("the agent's", "stretcher")); err != nil {
		t.Fatal(err)
	}
	return p
}

// file returns the path of a file of the project.
func (p *project) file(elem ...string) string {
	return p.path(append([]string{"my project's %20 files"}, elem...)...)
}

func (p *project) dest() string { return p.path("where it's deployed: #1") }

func (p *project) log() string { return p.path("it's a log") }

func (p *project) script(name string, args ...string) *exec.Cmd {
	return p.command(p.file(name), args...)
}

// releaseAndFollow releases the project three times: as it is, changed, and
// with a failing post command. waitForLog must wait until the agent's log
// contains text n times.
func (p *project) releaseAndFollow(with string, waitForLog func(text string, n int)) {
	p.t.Helper()
	const ran = "hello release\n" // the line that the application logs when post runs it
	output(p.t, p.script("release.sh", with))
	waitForLog("Done", 1)
	p.app["log/hello.log"] = ran
	p.wantDeployed()

	// A file that is removed from the release is deleted from dest; the files
	// that the application wrote there are kept.
	p.change("public/greeting.txt", "Hello again.\n")
	if err := os.Remove(p.file("app", "public", "index.html")); err != nil {
		p.t.Fatal(err)
	}
	delete(p.app, "public/index.html")
	output(p.t, p.script("release.sh", with))
	waitForLog("Done", 2)
	waitForLog("Hello again.", 1)
	p.app["log/hello.log"] = ran + ran
	p.wantDeployed()

	// If the post command of a release fails, the log and the failure command
	// both report it.
	p.change("bin/hello", "#!/bin/sh\nexit 3\n")
	output(p.t, p.script("release.sh", with))
	waitForLog(`post command: failed: "$STRETCHER_DEST/bin/hello" release exit status 3`, 2)
	p.wantDeployed()

	store, err := os.ReadDir(p.path("the store"))
	if err != nil {
		p.t.Fatal(err)
	}
	if len(store) != 6 {
		p.t.Errorf("the store contains %v, want the two files of each of three releases", store)
	}
}

func (p *project) change(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(p.file("app", name), []byte(content), 0o644); err != nil { // keeps the file's mode
		p.t.Fatal(err)
	}
	p.app[name] = content
}

func (p *project) wantDeployed() {
	p.t.Helper()
	if err := p.app.differs(p.dest()); err != nil {
		p.t.Errorf("dest is not the release: %v", err)
	}
}

func TestExamplesWithConsul(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	p := newProject(t, "CONSUL_HTTP_ADDR="+c.http)
	watch := launch(t, "receive", p.script("receive.sh", "consul", "-log-level", "DEBUG"))
	watch.waitForOutput(noEvent, 1)
	p.releaseAndFollow("consul", watch.waitForOutput)
	wantWatching(t, watch)
}

func TestExamplesWithSerf(t *testing.T) {
	t.Parallel()
	var p *project
	startSerfAgent(t, func(bind, rpc string) *exec.Cmd {
		p = newProject(t, "SERF_RPC_ADDR="+rpc)
		agent, err := p.script("receive.sh", "serf", "-log-level", "DEBUG").Output()
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSpace(string(agent))
		return p.command("sh", "-c", fmt.Sprintf("exec %s -node=n -bind=%s -rpc-addr=%s -profile=local", line, bind, rpc))
	})
	p.releaseAndFollow("serf", func(text string, n int) {
		t.Helper()
		waitForText(t, p.log(), text, n)
	})
	wantNoRace(t, string(read(t, p.log())))
}

// TestExamplesByHand uses the scripts without Consul or Serf: release.sh prints
// the URL, which the test passes to stretcher.
func TestExamplesByHand(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	url, err := p.script("release.sh", "print").Output()
	if err != nil {
		t.Fatal(err)
	}
	p.stretcher(string(url)).wantSuccess()
	p.app["log/hello.log"] = "hello release\n"
	p.wantDeployed()

	for _, script := range []string{"release.sh", "receive.sh"} {
		for _, args := range [][]string{nil, {"carrier-pigeon"}} {
			out, err := p.script(script, args...).CombinedOutput()
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), "usage:") {
				t.Errorf("%s %q: %v\n%s", script, args, err, out)
			}
		}
	}
}

// TestExamplesSigned releases with a key for agents that ask for a signature.
func TestExamplesSigned(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "it's a")
	p := newProject(t, "SIGN_KEY="+s.path("it's a.key"))
	url, err := p.script("release.sh", "print").Output()
	if err != nil {
		t.Fatal(err)
	}
	p.stretcher(string(url), "-public-key", s.public("it's a")).wantSuccess().wantLog("Signature ok: by key " + s.id("it's a"))
	p.app["log/hello.log"] = "hello release\n"
	p.wantDeployed()

	// What cannot be signed is not published.
	p.env = append(p.env, "SIGN_KEY="+s.path("missing.key"))
	if out, err := p.script("release.sh", "print").CombinedOutput(); err == nil {
		t.Errorf("release.sh succeeded without the key: %s", out)
	}
	if store, err := os.ReadDir(p.path("the store")); err != nil || len(store) != 3 {
		t.Errorf("the store contains %v, %v, want an archive, a manifest and a signature", store, err)
	}
}

// The agent accepts the options in the example units, and none of its steps can
// hold up later deployments for ever.
func TestExampleUnits(t *testing.T) {
	t.Parallel()
	for unit, program := range map[string]string{
		"systemd/stretcher-consul.service": "/usr/local/bin/stretcher ",
		"systemd/stretcher-serf.service":   "/usr/local/bin/stretcher ",
		"fleet/stretcher-catchup@.service": "/usr/local/lib/stretcher/catchup.sh %i ",
	} {
		start := strings.Join(unitSettings(t, unit)["ExecStart"], "\n")
		_, command, found := strings.Cut(start, program)
		if !found {
			t.Errorf("%s does not start stretcher: %s", unit, start)
			continue
		}
		options := strings.Fields(strings.Trim(command, `"`))
		for _, limit := range []string{"-timeout", "-command-timeout", "-max-size"} {
			if !slices.Contains(options, limit) {
				t.Errorf("%s: the options %q lack %s", unit, options, limit)
			}
		}
		h := newHost(t)
		out, err := h.command(stretcherPath, append(options, "-version")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: stretcher %q: %v\n%s", unit, options, err, out)
		}
	}
}
