package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/fujiwara/stretcher"
)

// TestCheckScripts checks the manifests that the scripts in testdata deploy with
// success. Nothing is wrong with them but what -strict refuses.
func TestCheckScripts(t *testing.T) {
	t.Setenv("WORK", "/srv/work")
	deployed := regexp.MustCompile(`(?m)^deploy (\S+)`)
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, script := range scripts {
		archive, err := txtar.ParseFile(script)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, f := range archive.Files {
			files[f.Name] = f.Data
		}
		for _, match := range deployed.FindAllSubmatch(archive.Comment, -1) {
			data, ok := files[string(match[1])]
			if !ok {
				continue
			}
			checked++
			name := filepath.Join(t.TempDir(), "manifest.yml")
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
			problems, err := stretcher.Check(t.Context(), name, stretcher.Config{})
			if err != nil {
				t.Error(err)
			}
			for _, p := range problems {
				if !p.Warning && !strings.HasPrefix(p.Text, "unknown key ") && !strings.HasPrefix(p.Text, "duplicate key ") {
					t.Errorf("%s: %s:%d: %s", script, match[1], p.Line, p.Text)
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("found %d manifests", checked)
	}
}
