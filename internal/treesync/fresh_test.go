package treesync

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// createFresh creates an archive in dir, which it makes, and reuses what is in base
// unless that is "".
func createFresh(t testing.TB, data []byte, o Options, dir, base string) (*Fresh, error) {
	t.Helper()
	f, err := FreshArchive(t.Context(), mustIndex(t, data), o)
	if err != nil {
		t.Fatal(err)
	}
	return f, createIn(t, f, dir, base)
}

func createIn(t testing.TB, f *Fresh, dir, base string) error {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	from := -1
	if base != "" {
		from = openFD(t, base)
	}
	return f.Create(t.Context(), openFD(t, dir), from)
}

func openFD(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// What is created is what tar(1) extracts, whatever the base has. On a file system
// that can do it, what the base has too is cloned; there is never a hard link to it.
func TestFreshReusesBase(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", 10_000)
	old := tartest.Make(t,
		tartest.Member{Name: "same", Body: big},
		tartest.Member{Name: "dir/same", Body: big},
		tartest.Member{Name: "changed", Body: big},
		tartest.Member{Name: "longer", Body: big},
		tartest.Member{Name: "gone", Body: big},
		tartest.Member{Name: "file", Type: '5', Mode: 0o755},
		tartest.Member{Name: "linked/same", Body: big})
	data := tartest.Make(t,
		tartest.Member{Name: "./", Type: '5', Mode: 0o2711},
		tartest.Member{Name: "same", Body: big, Mode: 0o4755},
		tartest.Member{Name: "same.link", Type: '1', Body: "same"},
		tartest.Member{Name: "dir/", Type: '5', Mode: 0o555},
		tartest.Member{Name: "dir/same", Body: big},
		tartest.Member{Name: "changed", Body: strings.ToUpper(big)},
		tartest.Member{Name: "longer", Body: big + "x"},
		tartest.Member{Name: "file", Body: big},
		tartest.Member{Name: "empty"},
		tartest.Member{Name: "linked/same", Body: big})
	for name, mount := range map[string]func(t *testing.T) (string, int){
		"xfs":   func(t *testing.T) (string, int) { return tartest.MountXFS(t), 2 },
		"tmpfs": func(t *testing.T) (string, int) { return tartest.MountTmpfs(t, "size=16m"), 0 },
	} {
		t.Run(name, func(t *testing.T) {
			parent, clones := mount(t)
			base, dir, want := filepath.Join(parent, "base"), filepath.Join(parent, "dir"), t.TempDir()
			if _, err := createFresh(t, old, Options{Mode: 0o755}, base, ""); err != nil {
				t.Fatal(err)
			}
			// A link in the base is not followed.
			if err := errors.Join(os.Rename(base+"/linked", parent+"/elsewhere"), os.Symlink("../elsewhere", base+"/linked")); err != nil {
				t.Fatal(err)
			}
			f, err := createFresh(t, data, Options{}, dir, base)
			if err != nil {
				t.Fatal(err)
			}
			if err := tartest.Extract(t, data, want); err != nil {
				t.Fatal(err)
			}
			tartest.CompareTrees(t, want, dir)
			if got := f.Cloned(); got != int64(clones*len(big)) {
				t.Errorf("cloned %d bytes, expected %d files of %d", got, clones, len(big))
			}
			// Who writes to the base does not write to what was created.
			if err := os.WriteFile(base+"/same", []byte("other"), 0o644); err != nil {
				t.Fatal(err)
			}
			tartest.CompareTrees(t, want, dir)
		})
	}
}

func TestFreshExcludesAndMode(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "list", Body: "- *.o\n"}, tartest.Member{Name: "a.o"}, tartest.Member{Name: "d/b"}, tartest.Member{Name: "c"})
	dir := filepath.Join(t.TempDir(), "dir")
	if _, err := createFresh(t, data, Options{Mode: 0o1711, Excludes: []string{"/d"}, ExcludeFrom: "list"}, dir, ""); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 2 || list[0].Name() != "c" || list[1].Name() != "list" {
		t.Errorf("created %v, %v", list, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o711 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A directory is copied with its modes as they are.
func TestFreshDir(t *testing.T) {
	t.Parallel()
	from, dir := t.TempDir(), filepath.Join(t.TempDir(), "dir")
	if err := errors.Join(os.Mkdir(from+"/sub", 0o700), os.WriteFile(from+"/sub/file", []byte("x"), 0o600), os.Chmod(from+"/sub/file", 0o666), os.Symlink("sub", from+"/link"), os.WriteFile(from+"/skip", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := FreshDir(t.Context(), from, Options{Excludes: []string{"skip"}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := createIn(t, f, dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(from + "/skip"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil || os.Chtimes(dir, info.ModTime(), info.ModTime()) != nil || os.Chtimes(from, info.ModTime(), info.ModTime()) != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, from, dir)
}
