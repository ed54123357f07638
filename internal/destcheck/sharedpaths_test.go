package destcheck

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckSharedPaths(t *testing.T) {
	t.Parallel()
	for _, paths := range [][]string{nil, {"a"}, {"a/b", "a/c", "a-b", "..a", "a..", "a/b./"}, {"./a//b/"}, {" "}, {"\xff"}} {
		if err := cmp.Or(CheckSharedPaths(paths)...); err != nil {
			t.Errorf("%q: %v", paths, err)
		}
	}
	for _, paths := range [][]string{{""}, {"."}, {"./"}, {"/"}, {"/a"}, {"//a"}, {".."}, {"../a"}, {"a/.."}, {"a/../b"}, {"a", "a"}, {"a", "./a/"}, {"a", "a/b"}, {"a/b", "a"}, {"a", "b", "a/b/c"}, {"a\x00"}} {
		if err := cmp.Or(CheckSharedPaths(paths)...); err == nil {
			t.Errorf("%q are no error", paths)
		}
	}
}

func FuzzCheckSharedPaths(f *testing.F) {
	for _, p := range []string{"a", "a/../b", "//", "./a"} {
		f.Add(p, "b/c")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if cmp.Or(CheckSharedPaths([]string{a, b})...) != nil {
			return
		}
		top := t.TempDir()
		for _, p := range []string{a, b} {
			// Every path can be made without the other one, and is in top.
			err := os.MkdirAll(filepath.Join(top, p), 0o755)
			if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) && strings.Contains(pathErr.Err.Error(), "name too long") {
				return
			}
			if err != nil || !strings.HasPrefix(filepath.Join(top, p), top+"/") {
				t.Errorf("%q: %v", p, err)
			}
		}
		if err := os.Remove(filepath.Join(top, a)); err != nil {
			t.Errorf("%q is not separate from %q: %v", a, b, err)
		}
	})
}
