package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The program compiles for macOS, with all that packs a release and checks a manifest,
// and without what deploys.
func TestDarwin(t *testing.T) {
	t.Parallel()
	const internal = "github.com/fujiwara/stretcher/internal/"
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-export", "-deps", "./")
		cmd.Env = append(os.Environ(), "GOOS=darwin", "GOARCH="+arch, "CGO_ENABLED=0")
		cmd.Stderr = new(strings.Builder)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", arch, err, cmd.Stderr)
		}
		packages := strings.Fields(string(out))
		for _, name := range []string{"pack", "seekable", "upload", "signature", "destcheck", "fetch"} {
			if !slices.Contains(packages, internal+name) {
				t.Errorf("%s: the package %s is missing", arch, name)
			}
		}
		for _, name := range []string{"treesync", "releases", "destlock", "incremental", "rsync", "metrics"} {
			if slices.Contains(packages, internal+name) {
				t.Errorf("%s: the package %s, which deploys, is part of it", arch, name)
			}
		}
	}
}
