package treesync

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Whoever may write to a directory of dest can put a hard link to a file outside of
// dest, or something of another type, in the place of a file that has been compared.
// Its owner and mode stay.
func TestRepairOfWhatWasReplaced(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	outside := filepath.Join(filepath.Dir(dest), "outside")
	for name, replace := range map[string]func(path string) error{
		"hard link":     func(path string) error { return os.Link(outside, path) },
		"symbolic link": func(path string) error { return os.Symlink(outside, path) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		makeFiles(t, filepath.Dir(dest), file{path: "outside", mode: 0o600}, file{path: "dest/file", body: "x"})
		a := mustIndex(t, tartest.Make(t, tartest.Member{Name: "file", Body: "x", Mode: 0o755}))
		fd, c := newCommitter(t, a, dest)
		path := filepath.Join(dest, "file")
		if err := errors.Join(os.Remove(path), replace(path)); err != nil {
			t.Fatal(err)
		}
		if err := c.commit(fd); !errors.Is(err, unixfs.ErrReplaced) {
			t.Errorf("%s: got error %v", name, err)
		}
		for _, path := range []string{outside, path} {
			if info, err := os.Stat(path); err != nil || info.Mode()&0o077 != 0 {
				t.Errorf("%s: %s has the mode %v, %v", name, path, info.Mode(), err)
			}
		}
		if err := os.RemoveAll(dest); err != nil {
			t.Fatal(err)
		}
	}
}
