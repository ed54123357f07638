package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs the demo as make demo does, and also without rsync.
func TestDemo(t *testing.T) {
	t.Parallel()
	demo, err := filepath.Abs("../examples/demo.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, with := range []string{"with rsync", "without rsync"} {
		t.Run(with, func(t *testing.T) {
			h := newHost(t)
			if with == "without rsync" {
				bin := h.path("bin")
				if err := os.Mkdir(bin, 0o755); err != nil {
					t.Fatal(err)
				}
				for _, name := range strings.Fields("cat cut dd find gzip mkdir mktemp realpath rm sh sha256sum sort tar wc") {
					if err := os.Symlink(program(t, name), filepath.Join(bin, name)); err != nil {
						t.Fatal(err)
					}
				}
				h.env = append(h.env, "PATH="+bin)
			}
			out := output(t, h.command(demo, stretcherPath))
			wantNoRace(t, out)
			if n := strings.Count(out, "Deploy manifest succeeded."); n != 2 {
				t.Errorf("%d deployments, want 2", n)
			}
			for _, words := range []string{
				"live/old.txt     only in version 1\n", "live/app.pid     4711\n", "live/new.txt     new in version 2\n",
				"Checksum mismatch", "the failure command received the error Get src failed", "\nhello from version 2, the next one\n",
			} {
				if !strings.Contains(out, words) {
					t.Errorf("the output lacks %q", words)
				}
			}
			if strings.Contains(out, "\nhello from version 3") {
				t.Error("the refused version was run")
			}
			if without := strings.Contains(out, "no rsync in PATH"); without != (with == "without rsync") {
				t.Errorf("%s: it says that rsync is missing: %t", with, without)
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}
