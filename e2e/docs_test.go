package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docsElsewhere are the blocks of code in the documentation that TestDocs does not run,
// by the beginning of their page and text, and why not.
var docsElsewhere = map[string]string{
	"docs/flags.md\n  -max-bandwidth SIZE":               "TestDocsOptions in cmd/stretcher compares it with the usage",
	"docs/packing.md\n  -o FILE":                         "TestDocsOptions in cmd/stretcher compares it with the usage",
	"docs/performance.md\n":                              "the measurements take half an hour",
	"docs/scale.md\n":                                    "they are for thousands of hosts; TestFleetRolling, TestCanaries and the other pages run commands like these",
	"docs/operations.md\n[ERROR] Deploy manifest failed": "TestTortureFullDisk fills disks",
	"docs/running.md\n$ stretcher -dry-run":              "the scripts dry_run*.txt in cmd/stretcher have such output",
	"docs/security.md\n# consul.hcl":                     "TestSecurityConsul runs Consul with it",
	"docs/security.md\n# deploy-fire.hcl":                "TestSecurityConsul uses the policy",
	"docs/security.md\n# deploy-watch.hcl":               "TestSecurityConsul uses the policy",
	"docs/security.md\nconsul acl policy create":         "TestSecurityConsul makes these tokens; they need Consul with ACLs",
	"docs/strategies.md\napp -> app.releases/":           "names of files; TestReleasesReader has such ones",
}

// docsLines are the lines that are not run as they are, or not here, and why not.
var docsLines = map[string]string{
	"dpkg -i stretcher_":           "TestPackages installs and upgrades it below a directory",
	"rpm -U stretcher_":            "TestPackages installs and upgrades it below a directory",
	"apk add ":                     "TestPackages unpacks it; this is no Alpine",
	"sha256sum --ignore-missing":   "TestPackages verifies the checksums",
	"systemctl enable":             "it would change this machine; TestUnitsUnderSystemd starts the units",
	"apt remove stretcher":         "TestPackages removes it by dpkg",
	"apt purge stretcher":          "TestPackages purges it by dpkg",
	"go build ./cmd/stretcher":     "the tests build it",
	".ci/run":                      "it runs this test",
	"examples/fleet/status.sh app": "TestFleetStatus runs it; it needs hosts that report",
}

// docsBlock is a block of code of the documentation.
type docsBlock struct{ page, language, text string }

func (b docsBlock) String() string {
	first, _, _ := strings.Cut(b.text, "\n")
	return b.page + ": " + first
}

func docsBlocks(t *testing.T) []docsBlock {
	t.Helper()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []docsBlock
	for _, path := range append(pages, "../README.md", "../CONTRIBUTING.md") {
		for _, match := range regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$").FindAllStringSubmatch(string(read(t, path)), -1) {
			blocks = append(blocks, docsBlock{strings.TrimPrefix(path, "../"), match[1], match[2]})
		}
	}
	return blocks
}

// Each block of code in the documentation runs, is compared with what the program
// prints, or is listed above. Manifests are checked by TestDocsManifests.
func TestDocs(t *testing.T) {
	t.Parallel()
	h := newDocsHost(t)
	elsewhere, lines := map[string]bool{}, map[string]bool{}
	for _, block := range docsBlocks(t) {
		known := false
		for begin := range docsElsewhere {
			if strings.HasPrefix(block.page+"\n"+block.text, begin) {
				known, elsewhere[begin] = true, true
			}
		}
		switch {
		case known:
		case block.language == "yaml":
		case block.language == "json":
			for d := json.NewDecoder(strings.NewReader(block.text)); ; {
				var value any
				if err := d.Decode(&value); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Errorf("%s: %v", block, err)
					break
				}
			}
		case block.language == "go":
			write(t, h.path("go", "main.go"), []byte(block.text))
			build := h.command("go", "build", "-o", h.path("go", "main"), h.path("go", "main.go"))
			build.Dir, build.Env = "..", os.Environ()
			output(t, build)
		case block.language == "sh":
			h.runBlock(block, lines)
		case strings.HasPrefix(block.text, "$ "):
			command, want, _ := strings.Cut(strings.TrimPrefix(block.text, "$ "), "\n")
			out, err := h.shell(command).Output()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if string(out) != want {
				t.Errorf("%s: it prints\n%s", block, out)
			}
		default:
			t.Errorf("%s: nothing tests this block: run it, or say in docsElsewhere why not", block)
		}
	}
	tests := testNames(t)
	for _, reason := range slices.Concat(slices.Collect(maps.Values(docsElsewhere)), slices.Collect(maps.Values(docsLines))) {
		for _, name := range regexp.MustCompile(`\bTest[A-Z]\w*`).FindAllString(reason, -1) {
			if !tests[name] {
				t.Errorf("there is no test %s: %s", name, reason)
			}
		}
	}
	for begin := range docsElsewhere {
		page, _, _ := strings.Cut(begin, "\n")
		if _, err := os.Stat(filepath.Join("..", page)); err == nil && !elsewhere[begin] {
			t.Errorf("docsElsewhere: no block begins with %q", begin)
		}
	}
	for begin := range docsLines {
		if !lines[begin] {
			t.Errorf("docsLines: no line begins with %q", begin)
		}
	}
}

// testNames returns the names of all tests of the program and of this package.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{"", "../", "../cmd/stretcher/"} {
		files, err := filepath.Glob(dir + "*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			for _, match := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(read(t, path), -1) {
				names[string(match[1])] = true
			}
		}
	}
	return names
}

// docsHost is a machine on which the commands of the documentation work: with Consul,
// Serf, sshd and S3, and the releases that are deployed in the examples.
type docsHost struct {
	*host
	consul   *consul
	serf     *serfNode
	replaced *strings.Replacer // what the documentation names, and what stands for it here
}

func newDocsHost(t *testing.T) *docsHost {
	t.Helper()
	endpoint, buckets := startS3(t)
	h := &docsHost{host: s3Host(t, endpoint), consul: startConsul(t, nil), serf: startSerf(t, 1)[0]}
	sshd := startSSHD(t)
	for name, path := range map[string]string{"stretcher": stretcherPath, "consul": tool(t, "consul"), "serf": tool(t, "serf")} {
		if err := os.MkdirAll(h.path("bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, h.path("bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	h.env = append(h.env, "PATH="+h.path("bin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"CONSUL_HTTP_ADDR="+h.consul.http, "SERF_RPC_ADDR="+h.serf.rpc)
	// ssh reaches the host with the environment that its profile would have.
	ssh := sshd.client("", "")
	profile := "export"
	for _, variable := range h.env {
		profile += " '" + variable + "'"
	}
	write(t, h.path("bin", "ssh"), []byte(`#!/bin/sh
shift
exec '`+strings.Join(ssh.Args[:len(ssh.Args)-1], "' '")+`' "`+profile+`; $*"
`))
	if err := os.Chmod(h.path("bin", "ssh"), 0o755); err != nil {
		t.Fatal(err)
	}

	dest := h.path("srv", "app")
	for _, dir := range []string{"srv", "textfile", "log"} {
		if err := os.Mkdir(h.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"1.2.2", "1.2.3"} {
		r := newRelease(t, version)
		manifest := []byte(r.manifest("s3://example-releases/app-"+version+".tar.gz", dest, "sync_strategy: symlink"))
		for _, dir := range []string{filepath.Join(buckets, "example-releases"), h.path("work")} {
			write(t, filepath.Join(dir, "app-"+version+".tar.gz"), r.archive)
			write(t, filepath.Join(dir, "app-"+version+".yml"), manifest)
		}
		for name, content := range r.files {
			write(t, h.path("work", "build", name), []byte(content))
		}
		output(t, h.shell("stretcher pack -o app-"+version+".tar.zst build"))
	}
	write(t, filepath.Join(buckets, "releases", "other"), nil)
	write(t, h.path("work", "app.yml"), []byte("dest: "+dest+"\nsync_strategy: symlink\n"))
	output(t, h.shell("minisign -G -W -p release.pub -s release.key"))
	output(t, h.shell("minisign -S -s release.key -m "+filepath.Join(buckets, "example-releases", "app-1.2.3.yml")))
	write(t, h.path("work", "deploy.yml"), []byte(`src: s3://example-releases/app-1.2.3.tar.gz
checksum: 0c15e883
dest: /srv/app
keep_releases: 3
commands:
  post: []
  posts: []
`))
	h.replaced = strings.NewReplacer(
		"https://example.com", serve(t, filepath.Join(buckets, "example-releases")),
		"/usr/local/bin/stretcher", stretcherPath,
		"/srv/app", dest,
		"/var/lib/stretcher", h.path("state"),
		"/var/lib/node_exporter/textfile", h.path("textfile"),
		"/var/log/stretcher.log", h.path("log", "stretcher.log"),
		"/etc/stretcher/release.pub", h.path("work", "release.pub"),
		"https://releases.example.com/app", "s3://example-releases",
		"-random-delay 10", "-random-delay 0.1",
		"minisign -G", "minisign -G -f -W", // no password
	)
	return h
}

// shell returns a command line of the documentation as a command.
func (h *docsHost) shell(line string) *exec.Cmd {
	if h.replaced != nil {
		line = h.replaced.Replace(line)
	}
	cmd := h.command("sh", "-c", line)
	cmd.Stdin = strings.NewReader(fileURL(h.path("work", "app-1.2.3.yml")) + "\n")
	return cmd
}

// runBlock runs the command lines of a block. They find dest deployed twice.
func (h *docsHost) runBlock(block docsBlock, skipped map[string]bool) {
	t := h.t
	t.Helper()
	for _, version := range []string{"1.2.2", "1.2.3"} {
		output(t, h.shell("stretcher -state-dir /var/lib/stretcher s3://example-releases/app-"+version+".yml"))
	}
	for line := range strings.Lines(strings.ReplaceAll(block.text, "\\\n", "")) {
		line, known := strings.TrimSpace(line), false
		for begin := range docsLines {
			if strings.HasPrefix(line, begin) {
				known, skipped[begin] = true, true
			}
		}
		if known || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		switch {
		case words[0] == "make" && len(words) > 1, strings.HasPrefix(line, "go generate"):
			cmd := h.command(words[0], "-n", words[1])
			if words[0] == "go" {
				cmd = h.command("go", "generate", "-n")
			}
			cmd.Dir, cmd.Env = "..", os.Environ()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", block, line, err, out)
			}
		case strings.HasPrefix(line, "consul watch "):
			h.watch(line)
		case strings.HasPrefix(line, "serf agent "):
			h.serfAgent(line)
		case strings.Contains(line, "PID") || strings.Contains(line, "/run/stretcher/"):
			h.whileRunning(line)
		default:
			if out, err := h.shell(line).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", block, line, err, out)
			} else {
				wantNoRace(t, string(out))
			}
		}
	}
}

// watch runs a watch until it has deployed.
func (h *docsHost) watch(line string) {
	h.t.Helper()
	h.consul.fire("s3://example-releases/app-1.2.3.yml")
	watch := launch(h.t, "watch", h.shell("exec "+line))
	watch.waitForOutput("Deploy manifest succeeded.", 1)
	wantWatching(h.t, watch)
	watch.stop()
}

// serfAgent runs an agent until its handler has deployed.
func (h *docsHost) serfAgent(line string) {
	h.t.Helper()
	line, _, _ = strings.Cut(line, "#")
	if !strings.Contains(line, ">>") {
		line = strings.TrimSuffix(strings.TrimSpace(line), "'") + " >> /var/log/stretcher.log 2>&1'"
	}
	agent, _, rpc := startSerfAgent(h.t, func(bind, rpc string) *exec.Cmd {
		return h.shell(fmt.Sprintf("exec %s -node=n -bind=%s -rpc-addr=%s -profile=local", line, bind, rpc))
	})
	output(h.t, h.command(tool(h.t, "serf"), "event", "-rpc-addr", rpc, "deploy", "s3://example-releases/app-1.2.3.yml"))
	waitForText(h.t, h.path("log", "stretcher.log"), "Deploy manifest succeeded.", 1)
	agent.stop()
	if err := os.Remove(h.path("log", "stretcher.log")); err != nil {
		h.t.Fatal(err)
	}
}

// whileRunning runs a command line about a deployment that is running.
func (h *docsHost) whileRunning(line string) {
	h.t.Helper()
	manifest := h.path("work", "slow.yml")
	archive := read(h.t, h.path("work", "app-1.2.3.yml"))
	write(h.t, manifest, append(archive, "\ncommands: {post: [echo it waits; sleep 1000]}\n"...))
	r := h.start(fileURL(manifest))
	r.waitForLog("it waits")
	line = strings.NewReplacer("PID", fmt.Sprint(r.cmd.Process.Pid), "/run/stretcher", lockDir()).Replace(line)
	out, err := h.shell(line).CombinedOutput()
	if err != nil {
		h.t.Errorf("%s: %v\n%s", line, err, out)
	}
	switch {
	case strings.HasPrefix(line, "kill"):
		if o := r.wait(); o.code != 1 || !strings.Contains(o.log, "SIGTERM") && !strings.Contains(o.log, "terminated") {
			h.t.Errorf("%s: exit status %d, log\n%s", line, o.code, o.log)
		}
		return
	case strings.HasPrefix(line, "ps") && !strings.Contains(string(out), "sleep 1000"):
		h.t.Errorf("%s does not show the command that is running:\n%s", line, out)
	case strings.HasPrefix(line, "cat") && !strings.Contains(string(out), fmt.Sprint(r.cmd.Process.Pid)):
		h.t.Errorf("%s does not show the pid of the deployment:\n%s", line, out)
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		h.t.Error(err)
	}
	r.wait()
}
