package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// securityBlock returns the first block of code in docs/security.md that begins so.
func securityBlock(t *testing.T, begin string) string {
	t.Helper()
	text := read(t, filepath.Join("..", "docs", "security.md"))
	_, block, found := strings.Cut(string(text), "```"+begin)
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatalf("docs/security.md has no block %s", begin)
	}
	return block
}

// secureConsul is a Consul server with the configuration of docs/security.md, and the
// operator's host, which has the management token and all files.
type secureConsul struct {
	*consul
	operator  *host
	gossipKey string
}

const managementToken = "0d6f0a5e-6c1a-4b60-9d6c-7a1f2b0e4c11"

func startSecureConsul(t *testing.T) *secureConsul {
	t.Helper()
	operator := newHost(t, "CONSUL_HTTP_TOKEN="+managementToken)
	program := tool(t, "consul")
	output(t, operator.command(program, "tls", "ca", "create"))
	output(t, operator.command(program, "tls", "cert", "create", "-server"))
	key := strings.TrimSpace(output(t, operator.command(program, "keygen")))
	config := strings.NewReplacer(
		"GOSSIP-KEY", key,
		"/etc/consul.d/consul-agent-ca.pem", operator.path("work", "consul-agent-ca.pem"),
		"/etc/consul.d/agent.pem", operator.path("work", "dc1-server-consul-0.pem"),
		"/etc/consul.d/agent-key.pem", operator.path("work", "dc1-server-consul-0-key.pem"),
	).Replace(securityBlock(t, "hcl\n# consul.hcl\n"))
	if strings.Contains(config, "/etc/") || strings.Count(config, operator.dir) != 3 {
		t.Fatalf("the configuration in docs/security.md is\n%s", config)
	}
	write(t, operator.path("consul.hcl"), []byte(config))
	c := &secureConsul{startConsul(t, nil, "-config-file", operator.path("consul.hcl"),
		"-hcl", `acl { tokens { initial_management = "`+managementToken+`" } }`), operator, key}
	operator.env = append(operator.env, "CONSUL_HTTP_ADDR="+c.http)
	for _, policy := range []string{"deploy-fire", "deploy-watch"} {
		write(t, operator.path(policy+".hcl"), []byte(securityBlock(t, "hcl\n# "+policy+".hcl\n")))
		waitFor(t, "the policy", func() error {
			return operator.command(program, "acl", "policy", "create", "-name", policy, "-rules", "@"+operator.path(policy+".hcl")).Run()
		})
	}
	_, port, _ := strings.Cut(c.http, ":")
	output(t, operator.command(program, "acl", "set-agent-token", "agent", c.token("-node-identity", "node-"+port+":dc1")))
	return c
}

// token makes a token and returns its secret.
func (c *secureConsul) token(args ...string) string {
	c.t.Helper()
	text := output(c.t, c.operator.command(tool(c.t, "consul"), append([]string{"acl", "token", "create", "-description", "test"}, args...)...))
	for line := range strings.Lines(text) {
		if secret, ok := strings.CutPrefix(line, "SecretID:"); ok {
			return strings.TrimSpace(secret)
		}
	}
	c.t.Fatalf("no token in:\n%s", text)
	return ""
}

// fire fires an event with a token, by consul event.
func (c *secureConsul) fire(token, name, payload string) error {
	cmd := c.operator.command(tool(c.t, "consul"), "event", "-name", name, payload)
	cmd.Env = append(cmd.Env, "CONSUL_HTTP_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// fireByAPI fires an event with a token, by the HTTP API, and returns the status.
func (c *secureConsul) fireByAPI(token, payload string) int {
	c.t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+c.http+"/v1/event/fire/deploy", strings.NewReader(payload))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// With the configuration and the policies of docs/security.md, only the deployer's token
// can fire the event, and the hosts deploy it if its manifest is allowed and signed.
func TestSecurityConsul(t *testing.T) {
	t.Parallel()
	c := startSecureConsul(t)
	fire, read := c.token("-policy-name", "deploy-fire"), c.token("-policy-name", "deploy-watch")

	n, outside := startNginx(t, ""), startNginx(t, "")
	h := newHost(t)
	keys := newSigner(t, "release")
	r := newRelease(t, "one")
	ran := "commands: {pre: [touch " + h.path("ran") + "], failure: [touch " + h.path("ran") + "]}"
	put := func(n *nginx, name, src string, sign bool, more ...string) string {
		t.Helper()
		path := n.path("www", name)
		write(t, path, []byte(r.manifest(src, h.path("dest"), more...)))
		if sign {
			keys.sign("release", path, "")
		}
		return n.url + "/" + name
	}
	write(t, n.path("www", "app", "app.tar.gz"), r.archive)
	src := n.url + "/app/app.tar.gz"
	good := put(n, "app/good.yml", src, true)
	unsigned := put(n, "app/unsigned.yml", src, false, ran)
	expired := put(n, "app/expired.yml", src, true, ran, "expires: 2020-01-01T00:00:00Z")
	tampered := put(n, "app/tampered.yml", src, true)
	write(t, n.path("www", "app", "tampered.yml"), []byte(r.manifest(src, h.path("dest"), ran)))
	foreignSrc := put(n, "app/foreign-src.yml", outside.url+"/app.tar.gz", true)
	foreign := put(outside, "app.yml", src, true, ran)

	// A watch without a token is given an empty list.
	c.watchWith(h, "").waitForOutput(noEvent, 1)
	// The options are those of the example.
	_, options, _ := strings.Cut(securityBlock(t, "sh\nconsul watch"), "/usr/local/bin/stretcher")
	options = strings.NewReplacer("\\\n", " ", "https://releases.example.com/app", n.url+"/app",
		"/etc/stretcher/release.pub", keys.public("release"), "/var/lib/stretcher", h.path("state")).Replace(options)
	for _, option := range []string{"-allow " + n.url, "-public-key " + keys.public("release"), "-strict", "-state-dir " + h.path("state")} {
		if !strings.Contains(options, option) {
			t.Fatalf("the options in docs/security.md are %s", options)
		}
	}
	watch := c.watchWith(h, read, strings.Fields(options)...)
	watch.waitForOutput(noEvent, 1)

	for name, token := range map[string]string{"anonymous": "", "of the watch": read} {
		if err := c.fire(token, "deploy", good); err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("the token %s fires an event by consul event: %v", name, err)
		}
		if status := c.fireByAPI(token, good); status != http.StatusForbidden {
			t.Errorf("the token %s fires an event by the API: %d", name, status)
		}
	}
	if err := c.fire(fire, "other", good); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("the deployer's token fires another event: %v", err)
	}
	if out, err := c.operator.command(tool(t, "consul"), "exec", "-token", fire, "-wait", "1s", "touch "+h.path("ran")).CombinedOutput(); err == nil {
		t.Errorf("consul exec works: %s", out)
	}

	// What is not trusted does nothing, though the event is genuine.
	for _, bad := range []struct{ url, words string }{
		{foreign, "Load manifest failed: " + foreign + ": refused by -allow"},
		{unsigned, "unsigned.yml.minisig"},
		{tampered, "tampered.yml: "},
		{expired, "expired"},
		{foreignSrc, "Deploy manifest failed: " + foreignSrc + ": manifest: src: " + outside.url + "/app.tar.gz: refused by -allow"},
	} {
		failures := strings.Count(watch.output(), "failed: ")
		if err := c.fire(fire, "deploy", bad.url); err != nil {
			t.Fatal(err)
		}
		watch.waitForOutput("failed: ", failures+1)
		watch.waitForOutput(bad.words, 1)
	}
	wantMissing(t, h.path("ran"))
	wantMissing(t, h.path("dest"))
	if log := outside.requests(); log != "" {
		t.Errorf("requests arrived outside:\n%s", log)
	}

	// What is trusted is deployed.
	if status := c.fireByAPI(fire, good); status != http.StatusOK {
		t.Fatalf("the deployer's token does not fire an event: %d", status)
	}
	watch.waitForOutput("Done", 1)
	r.wantDeployed(t, h.path("dest"))
	wantWatching(t, watch)
}

// Whoever has the gossip key can send an event past Consul's ACLs, as docs/security.md
// says: here, by a Serf agent that joins the agents of Consul. It is refused because
// of -allow and -public-key.
func TestSecurityGossip(t *testing.T) {
	t.Parallel()
	c := startSecureConsul(t)
	h := newHost(t)
	token, keys := c.token("-policy-name", "deploy-watch"), newSigner(t, "release")
	manifest := h.path("files", "app.yml")
	write(t, manifest, []byte("commands: {pre: [echo ran >> "+h.path("ran")+"]}"))
	var watches []*server
	for _, args := range [][]string{{}, {"-allow", "https://example.com"}, {"-public-key", keys.public("release")}} {
		watch := c.watchWith(h, token, args...)
		watch.waitForOutput(noEvent, 1)
		watches = append(watches, watch)
	}

	serf, attacker := tool(t, "serf"), newHost(t)
	_, _, rpc := startSerfAgent(t, func(bind, rpc string) *exec.Cmd {
		return attacker.command(serf, "agent", "-node", "attacker", "-bind", bind, "-rpc-addr", rpc,
			"-profile", "local", "-encrypt", c.gossipKey, "-join", c.lan)
	})
	// The event in MessagePack: a map of four texts and a number.
	text := func(s string) string { return "\xd9" + string([]byte{byte(len(s))}) + s }
	event := "\x84" + text("ID") + text("1c1c54a0-5f0e-4d3a-8f0f-3f4c6a4f6a01") + text("n") + text("deploy") + text("p") + text(fileURL(manifest)) + text("v") + "\x01"
	output(t, attacker.command(serf, "event", "-rpc-addr", rpc, "consul:event:deploy", event))

	watches[0].waitForOutput("Done", 1)
	watches[1].waitForOutput("refused by -allow: it is not under https://example.com", 1)
	watches[2].waitForOutput("app.yml.minisig", 1)
	watches[2].waitForOutput("Load manifest failed: ", 1)
	wantFile(t, h.path("ran"), "ran\n")
}

// watchWith starts consul watch with a token, "" for none.
func (c *secureConsul) watchWith(h *host, token string, args ...string) *server {
	c.t.Helper()
	cmd := h.command(tool(c.t, "consul"), append([]string{"watch", "-http-addr", c.http, "-type", "event", "-name", "deploy", "-shell=false", stretcherPath}, args...)...)
	if token != "" {
		write(c.t, h.path("etc", "watch.token"), []byte(token+"\n"))
		cmd.Env = append(cmd.Env, "CONSUL_HTTP_TOKEN_FILE="+h.path("etc", "watch.token"))
	}
	return launch(c.t, "consul-watch", cmd)
}
