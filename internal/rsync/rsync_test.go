package rsync

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExcludeFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, name := range []string{"root/a/list", "root/list", "list"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"up": "../list", "absolute": filepath.Join(root, "list"), "in": "a/list", "a/out": "../../list", "dir": "a", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"list": "list", "./list": "list", "/list": "list", "//a/list": "a/list", "a/../list": "list", "in": "in", "dir/list": "dir/list",
	} {
		if got, err := ExcludeFile(root, name); err != nil || got != filepath.Join(root, want) {
			t.Errorf("%s: got %q, %v, expected %q in %s", name, got, err, want, root)
		}
	}
	for _, name := range []string{"missing", "a", ".", "/", "../list", "a/../../list", "up", "absolute", "a/out", "loop", "list/x"} {
		if got, err := ExcludeFile(root, name); err == nil {
			t.Errorf("%s: got %q and no error", name, got)
		}
	}
}
