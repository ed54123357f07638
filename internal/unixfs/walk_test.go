package unixfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// WalkDir calls as filepath.WalkDir does, whatever the names are and what is skipped.
func TestWalkDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a/b/c", "a/x", "a\xff/\xfe/file", "ab/file", "new\nline/file"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(dir, name), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	stop := errors.New("stop")
	for at, result := range map[string]error{"": nil, ".": fs.SkipDir, "a": fs.SkipDir, "a/b": fs.SkipDir, "a/b/c": fs.SkipDir, "a\xff": fs.SkipAll, "ab": stop} {
		visit := func(visited *[]string) fs.WalkDirFunc {
			return func(name string, d fs.DirEntry, err error) error {
				if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsAbs(name) {
					name = rel
				}
				*visited = append(*visited, name)
				if err != nil {
					t.Errorf("%q: %v", name, err)
				}
				if info, err := d.Info(); err != nil || info.Name() != filepath.Base(name) && name != "." {
					t.Errorf("%q: %v", name, err)
				}
				if name == at {
					return result
				}
				return nil
			}
		}
		var want, got []string
		wantErr, gotErr := filepath.WalkDir(dir, visit(&want)), WalkDir(root, visit(&got))
		if !slices.Equal(got, want) || gotErr != wantErr {
			t.Errorf("%q: %q, %v, expected %q, %v", at, got, gotErr, want, wantErr)
		}
	}
}

// A directory that cannot be read, or is gone, is told to the function.
func TestWalkDirErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	failed := ""
	err = WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			failed += name
			return nil
		}
		if name == "a" {
			return os.RemoveAll(filepath.Join(dir, "a"))
		}
		return nil
	})
	if err != nil || failed != "a" {
		t.Errorf("%v, %q", err, failed)
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	if err := WalkDir(root, func(_ string, _ fs.DirEntry, err error) error { return err }); err == nil {
		t.Error("no error of a closed root")
	}
}
