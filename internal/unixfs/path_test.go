package unixfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// linksIn makes directories and symbolic links and returns the real path of the
// directory that has them.
func linksIn(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"real/inner", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": "real", "absolute": dir + "/real", "deep": "real/inner", "loop": "loop", "dangling": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRealPathOfRelative(t *testing.T) {
	dir := linksIn(t)
	t.Chdir(dir + "/link") // which sets PWD too
	for path, want := range map[string]string{"": "real", ".": "real", "inner": "real/inner", "..": "", "../deep/..": "real", "missing/too": "real/missing/too"} {
		if got, err := RealPath(path); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%q: got %s, %v, expected %s", path, got, err, want)
		}
	}
}

func TestRealPath(t *testing.T) {
	t.Parallel()
	dir := linksIn(t)
	for path, want := range map[string]string{
		"real":                   "real",
		"real/":                  "real",
		"./link//inner/.":        "real/inner",
		"absolute/inner":         "real/inner",
		"link/missing":           "real/missing",
		"link/missing/too/deep/": "real/missing/too/deep",
		"missing/../link":        "real",
		"deep/../missing":        "real/missing",
		"dangling":               "dangling",
	} {
		if got, err := RealPath(dir + "/" + path); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: got %s, %v, expected %s", path, got, err, want)
		}
	}
	if _, err := RealPath(dir + "/loop/dest"); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("a loop of symbolic links: got error %v", err)
	}
	if got, err := RealPath("/no/such/path"); err != nil || got != "/no/such/path" {
		t.Errorf("a path of which nothing exists: got %s, %v", got, err)
	}
}

func TestCleanPath(t *testing.T) {
	t.Parallel()
	dir := linksIn(t)
	for path, want := range map[string]string{
		"real":               "real",
		"./real//inner/.":    "real/inner",
		"link":               "link", // without "..", links stay
		"link/inner":         "link/inner",
		"real/..":            "",
		"real/../link":       "link",
		"deep/..":            "real", // filepath.Clean would remove deep
		"deep/../inner/":     "real/inner",
		"deep/../../other":   "other",
		"deep/../../link/..": "",
		"missing/../other":   "other",
		"real/..x":           "real/..x",
	} {
		got := CleanPath(dir + "/" + path)
		if got != filepath.Join(dir, want) {
			t.Errorf("%s: got %s, expected %s", path, got, want)
		}
		// The kernel says whether both paths lead to the same file.
		if strings.HasPrefix(path, "missing") || strings.HasSuffix(path, "..x") {
			continue
		}
		before, err := os.Stat(dir + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(got); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: %s is another file: %v", path, got, err)
		}
	}
	for path, want := range map[string]string{"/": "/", "/..": "/", "/../..//": "/", "": "."} {
		if got := CleanPath(path); got != want {
			t.Errorf("%q: got %s, expected %s", path, got, want)
		}
	}
}
