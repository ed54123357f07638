package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDemo runs the demo as make demo does, with nothing in PATH but the programs that
// every Linux has: neither tar nor rsync.
func TestDemo(t *testing.T) {
	t.Parallel()
	demo, err := filepath.Abs("../examples/demo.sh")
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	bin := h.path("bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq("cat head mkdir mktemp mv readlink realpath rm sed seq sh") {
		if err := os.Symlink(program(t, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.env = append(h.env, "PATH="+bin)
	out := output(t, h.command(demo, stretcherPath))
	wantNoRace(t, out)

	// What is live after each step: the second release that cannot be deployed was live
	// until its post command had failed.
	var live []string
	for _, line := range regexp.MustCompile(`(?m)^hello from version .*$`).FindAllString(out, -1) {
		live = append(live, strings.TrimPrefix(line, "hello from version "))
	}
	if got := strings.Join(live, " "); got != "1 2 2 2 1" {
		t.Errorf("live after the steps are the versions %s, want 1 2 2 2 1", got)
	}
	if n := strings.Count(out, "Deploy manifest succeeded."); n != 3 {
		t.Errorf("%d deployments succeeded, want 3", n)
	}
	for _, words := range []string{
		`Patches against app-1\.tar\.zst: 2, `,
		`Fetched \d(\.\d)? KiB of 2\.9 MiB: 2 requests, 2 files as they were, 2 patched, 0 new`,
		`Get src failed: Checksum mismatch`,
		`post command: failed: cd "\$STRETCHER_DEST" && sh check\.sh exit status 1`,
		`The failure command runs after post command: failed`,
		`Rolling back .*/live to the release`,
		`is there already: nothing to download`,
	} {
		if !regexp.MustCompile(words).MatchString(out) {
			t.Errorf("the output lacks %s", words)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
