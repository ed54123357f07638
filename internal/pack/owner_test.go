package pack

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// All files have the owner that was requested, as tar(1) and bsdtar(1) read it.
func TestOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "sub/file", nil)
	for owner, want := range map[string]string{
		"root:root":                    "root/root",
		"app:4294967294":               "app/4294967294",
		"1000:2000":                    "1000/2000",
		strings.Repeat("n", 31) + ":0": strings.Repeat("n", 31) + "/0",
	} {
		o, err := ParseOwner(owner)
		if err != nil {
			t.Errorf("%s: %v", owner, err)
			continue
		}
		archive, _ := packDir(t, dir, Options{Format: "tar", Owner: o})
		cmd := exec.CommandContext(t.Context(), "tar", "-tv")
		cmd.Stdin = bytes.NewReader(archive)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), " "+want+" ") != 2 {
			t.Errorf("%s: %v:\n%s", owner, err, out)
		}
	}
	for _, owner := range []string{"", "root", ":", "root:", ":0", "a:b:c", "a b:c", "ü:c", "a/b:c", "4294967295:0", "0:-1x\n", "99999999999:0", strings.Repeat("n", 32) + ":0"} {
		if o, err := ParseOwner(owner); err == nil {
			t.Errorf("%q: %+v", owner, o)
		}
	}
}

// FuzzOwner looks for names and numbers that no header can have.
func FuzzOwner(f *testing.F) {
	f.Add("root:0")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOwner(s)
		if err != nil {
			return
		}
		for _, name := range []string{o.user, o.group} {
			if len(name) > maxName || strings.ContainsAny(name, ":\x00\n ") {
				t.Errorf("%q has the name %q", s, name)
			}
		}
		if o.user != "" && o.uid != 0 || o.group != "" && o.gid != 0 || o.uid < 0 || o.gid < 0 {
			t.Errorf("%q is %+v", s, o)
		}
	})
}
