package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// fleetScript returns the path of a script in examples/fleet.
func fleetScript(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "examples", "fleet", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newFleetHost returns a host of this name, whose Consul agent has this address.
func newFleetHost(t *testing.T, name, consulAddr string, env ...string) *host {
	t.Helper()
	return newHost(t, append([]string{
		"PATH=" + filepath.Dir(tool(t, "consul")) + ":" + os.Getenv("PATH"),
		"CONSUL_HTTP_ADDR=" + consulAddr,
		"FLEET_HOST=" + name,
		"STRETCHER=" + stretcherPath,
	}, env...)...)
}

// reporting returns a manifest of commands that reports its result.
func reporting(t *testing.T, pre string) []byte {
	t.Helper()
	report := "'" + fleetScript(t, "report.sh") + " hello'"
	return []byte("commands:\n  pre:\n    - |\n      " + strings.ReplaceAll(pre, "\n", "\n      ") + "\n  success: [" + report + ", touch after]\n  failure: [" + report + "]\n")
}

// status runs status.sh and checks its exit status. It returns what it prints, with
// single spaces.
func (h *host) status(code int, args ...string) string {
	h.t.Helper()
	cmd := h.command(fleetScript(h.t, "status.sh"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		h.t.Errorf("status.sh %q: exit status %d, want %d\n%s%s", args, got, code, out, stderr.String())
	}
	lines := strings.Split(string(out), "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(lines, "\n")
}

// wantRow checks that the table has a row that begins with the host and its state, and
// ends with end.
func wantRow(t *testing.T, table, begin, end string) {
	t.Helper()
	for row := range strings.Lines(table) {
		if row = strings.TrimSpace(row); strings.HasPrefix(row+" ", begin+" ") && strings.HasSuffix(row, end) {
			return
		}
	}
	t.Errorf("there is no row %q ... %q in\n%s", begin, end, table)
}

func (c *consul) key(path string) (string, error) {
	return get("http://" + c.http + "/v1/kv/" + path + "?raw")
}

// The hosts report what became of a deployment, and the table shows who did not
// succeed with the current manifest.
func TestFleetStatus(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	one, two, three := newFleetHost(t, "web1", c.http), newFleetHost(t, "web2", c.http), newFleetHost(t, "web10", c.http)
	first, second := one.path("it's #1.yml"), one.path("second.yml")
	write(t, first, reporting(t, ":"))
	write(t, second, reporting(t, `test "$FLEET_HOST" != web2 # it's "über": \ $HOME`))

	if table := one.status(1, "hello"); !strings.Contains(table, "0 of 0 hosts ok") {
		t.Errorf("without any report the table is\n%s", table)
	}
	for _, h := range []*host{one, two, three} {
		h.stretcher(fileURL(first)).wantSuccess()
	}
	// Without a manifest to compare with, only failures stand out.
	wantRow(t, one.status(0, "hello"), "web1 ok", fileURL(first))

	output(t, one.command(fleetScript(t, "deploy.sh"), "hello", fileURL(second)))
	if c.events() != 1 {
		t.Errorf("deploy.sh fired %d events", c.events())
	}
	table := one.status(1, "hello")
	wantRow(t, table, "web1 OTHER", fileURL(first))
	wantRow(t, table, "0 of 3 hosts ok:", fileURL(second))
	one.stretcher(fileURL(second)).wantSuccess()
	two.stretcher(fileURL(second)).wantFailure("exit status 1")
	table = one.status(1, "hello", "web1", "db1")
	wantRow(t, table, "web1 ok", fileURL(second))
	wantRow(t, table, "web2 FAILED", fileURL(second)+` pre command: failed: test "$FLEET_HOST" != web2 # it's "über": \ $HOME exit status 1`)
	wantRow(t, table, "web10 OTHER", fileURL(first))
	wantRow(t, table, "db1 NONE", "")
	wantRow(t, table, "1 of 4 hosts ok:", fileURL(second))
	wantRow(t, one.status(1, "-m", fileURL(first), "hello"), "web1 OTHER", fileURL(second))

	// A report is one line, whatever the error is, and cannot control the terminal.
	odd := "line 1\nline \"2\"\r\n\ttab 'x' \x1b[31m\u009b31m" + strings.Repeat("ü", 200)
	cmd := three.command(fleetScript(t, "report.sh"), "hello")
	cmd.Env = append(cmd.Env, "STRETCHER_RESULT=failure", "STRETCHER_DURATION=1.5", "STRETCHER_CHECKSUM=0123456789abcdef", "STRETCHER_DEST=/srv/a b",
		"STRETCHER_MANIFEST_URL="+fileURL(second), "STRETCHER_EVENT_ID=", "STRETCHER_ERROR="+odd)
	if out := output(t, cmd); out != "" {
		t.Errorf("report.sh prints %q", out)
	}
	value, err := c.key("stretcher/hello/hosts/web10")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Split(value, "\t")
	oneLine := "line 1 line \"2\"   tab 'x'  [31m\u009b31m" + strings.Repeat("ü", 200)
	if want := []string{"failure", "1.5", "0123456789abcdef", "/srv/a b", fileURL(second), "", oneLine}; len(fields) != 8 || !slices.Equal(fields[1:], want) {
		t.Errorf("the report is %q, want a time and %q", fields, want)
	}
	table = one.status(1, "hello")
	wantRow(t, table, "web10 FAILED", "ü...")
	if want := "0123456789ab " + fileURL(second) + " line 1 line \"2\" tab 'x' [31m 31mü"; !strings.Contains(table, want) || !utf8.ValidString(table) {
		t.Errorf("the table lacks %q, or has half a character:\n%s", want, table)
	}

	// The exit status tells that from Consul not answering.
	broken := newFleetHost(t, "web1", closedAddr(t))
	broken.status(2, "hello")
	broken.status(2)
	broken.status(2, "-x", "hello")
	if err := broken.command(fleetScript(t, "report.sh"), "hello").Run(); err == nil {
		t.Error("report.sh succeeds although it is not a command of a manifest")
	}
}

// closedAddr returns an address that refuses connections.
func closedAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freePort(t))
}

// If Consul cannot be reached, or does not answer, the deployment succeeds, and the
// commands after the report are run.
func TestFleetReportUnreachable(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, addr := range []string{closedAddr(t), silent.Addr().String()} {
		h := newFleetHost(t, "web1", addr, "FLEET_TIMEOUT=1")
		manifest := h.path("app.yml")
		write(t, manifest, reporting(t, ":"))
		h.stretcher(fileURL(manifest)).wantSuccess().wantLog("report.sh: could not report to Consul: stretcher/hello/hosts/web1")
		wantFile(t, h.path("work", "after"), "")
	}
}

// The secrets of a URL are neither in the KV store nor in the table, and do not keep
// status.sh from recognizing the manifest.
func TestFleetSecrets(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	h := newFleetHost(t, "web1", c.http)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(reporting(t, `echo "https://u:s3cret@h/?token=s3cret"; exit 3`))
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	manifest := "http://user:s3cret@" + host + "/app.yml?token=s3cret"
	o := h.stretcher(manifest).wantFailure("exit status 3")
	o.wantNotPrinted("s3cret")
	value, err := c.key("stretcher/hello/hosts/web1")
	if err != nil {
		t.Fatal(err)
	}
	output(t, h.command(fleetScript(t, "deploy.sh"), "hello", manifest))
	table := h.status(1, "hello") + h.status(1, "-m", manifest, "hello")
	wantRow(t, table, "web1 FAILED", "exit status 3")
	wantRow(t, table, "0 of 1 hosts ok:", "http://"+host+"/app.yml")
	if strings.Contains(value+table, "s3cret") {
		t.Errorf("the secret is in %s\n%s", value, table)
	}
}

// A host that was down when the event was fired deploys when it is up again, as soon
// as Consul can be reached.
func TestFleetCatchup(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	up, late := newFleetHost(t, "web1", c.http), newFleetHost(t, "web2", addr)
	release := newRelease(t, "one")
	write(t, up.path("app.tar.gz"), release.archive)
	manifest := up.path("it's 100%.yml")
	report := "'" + fleetScript(t, "report.sh") + " hello'"
	write(t, manifest, []byte(release.manifest(fileURL(up.path("app.tar.gz")), `{{ must_env "HOME" }}/app`, "commands: {success: ["+report+"], failure: ["+report+"]}")))

	catchup := func(h *host, env ...string) *running {
		cmd := h.command(fleetScript(t, "catchup.sh"), "hello", "-retry", "1")
		cmd.Env = append(cmd.Env, env...)
		return h.run(cmd)
	}
	if o := catchup(up).wait(); o.code != 0 {
		t.Errorf("exit status %d although there is nothing to deploy:\n%s", o.code, o.log)
	} else {
		o.wantLog("catchup.sh: nothing to deploy: stretcher/hello/manifest does not exist")
	}
	catchup(late, "FLEET_WAIT=1").wait().wantFailure("catchup.sh: could not read stretcher/hello/manifest: ", "connection refused")

	watch := launch(t, "watch", up.command(tool(t, "consul"), "watch", "-type", "event", "-name", "deploy", stretcherPath))
	watch.waitForOutput(noEvent, 1)
	output(t, up.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)))
	watch.waitForOutput("Done", 1)
	table := up.status(1, "hello", "web1", "web2")
	wantRow(t, table, "web1 ok", fileURL(manifest))
	wantRow(t, table, "web2 NONE", "")

	booting := catchup(late)
	target, err := url.Parse("http://" + c.http)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	agent := &http.Server{Handler: proxy}
	go agent.Serve(l)
	defer agent.Close()
	booting.wait().wantSuccess()
	release.wantDeployed(t, late.path("home", "app"))
	wantRow(t, up.status(0, "hello", "web1", "web2"), "web2 ok", fileURL(manifest))

	// The unit fails with the deployment.
	output(t, up.command(fleetScript(t, "deploy.sh"), "hello", fileURL(up.path("missing.yml"))))
	catchup(late, "STRETCHER_RETRY_WAIT=0").wait().wantFailure("Load manifest failed:")
	wantRow(t, up.status(1, "hello"), "web2 OTHER", fileURL(manifest))
}

// The scripts explain how to use them.
func TestFleetUsage(t *testing.T) {
	t.Parallel()
	h := newFleetHost(t, "web1", closedAddr(t))
	for _, script := range []string{"report.sh", "status.sh", "deploy.sh", "rolling.sh", "catchup.sh"} {
		out, err := h.command(fleetScript(t, script)).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 || !strings.HasPrefix(string(out), "usage: "+script) {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	// Without Consul, a watch with rolling.sh as its handler ends, and is started again.
	cmd := h.command(fleetScript(t, "rolling.sh"), "hello", "2")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "connection refused") {
		t.Errorf("rolling.sh without Consul: %v\n%s", err, out)
	}
}

// The token with the policy in the README is enough for a host, and no more than that.
func TestFleetACL(t *testing.T) {
	t.Parallel()
	const management = "5a1bfa48-0a7d-4a2b-9f5d-0c8f3c3d9a01"
	c := startConsul(t, nil, "-hcl", `acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+management+`", agent = "`+management+`" } }`)
	operator := newFleetHost(t, "operator", c.http, "CONSUL_HTTP_TOKEN="+management)
	readme := read(t, fleetScript(t, "README.md"))
	_, policy, found := strings.Cut(string(readme), "```hcl\n")
	policy, _, _ = strings.Cut(policy, "```")
	_, port, _ := strings.Cut(c.http, ":")
	policy = strings.NewReplacer(`session "web1"`, `session "node-`+port+`"`, `agent "web1"`, `agent "node-`+port+`"`).Replace(policy)
	if !found || strings.Count(policy, port) != 2 {
		t.Fatalf("the policy in the README is %q", policy)
	}
	write(t, operator.path("policy.hcl"), []byte(policy))
	waitFor(t, "the policy", func() error {
		return operator.command(tool(t, "consul"), "acl", "policy", "create", "-name", "host", "-rules", "@"+operator.path("policy.hcl")).Run()
	})
	const token = "7c1e3c52-6c55-4d0c-8a1b-1d5b7a0f9b02"
	output(t, operator.command(tool(t, "consul"), "acl", "token", "create", "-policy-name", "host", "-secret", token))
	write(t, operator.path("token"), []byte(token))

	web1 := newFleetHost(t, "web1", c.http, "CONSUL_HTTP_TOKEN_FILE="+operator.path("token"))
	watch := web1.watchRolling("2")
	watch.waitForOutput("rolling.sh: not deploying", 1)
	manifest := operator.path("app.yml")
	write(t, manifest, reporting(t, ":"))
	output(t, operator.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)))
	watch.waitForOutput("Done in", 1)
	wantRow(t, operator.status(0, "hello"), "web1 ok", fileURL(manifest))
	web1.run(web1.command(fleetScript(t, "catchup.sh"), "hello")).wait().wantSuccess()

	other := newFleetHost(t, "web2", c.http, "CONSUL_HTTP_TOKEN_FILE="+operator.path("token"))
	other.stretcher(fileURL(manifest)).wantSuccess().wantLog("report.sh: could not report to Consul", "Permission denied")
	if err := web1.command(fleetScript(t, "deploy.sh"), "hello", fileURL(manifest)).Run(); err == nil {
		t.Error("a host may start a rollout")
	}
	wantWatching(t, watch)
}
