package treesync

import (
	"errors"
	"fmt"
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
// that can do it, what the base has at the same places of a file is cloned; there is
// never a hard link to it.
func TestFreshReusesBase(t *testing.T) {
	t.Parallel()
	const block = 4096
	big := strings.Repeat("0123456789abcdef", 10_000)
	huge := strings.Repeat(big, 20)
	differsAt := func(body string, places ...int) string {
		b := []byte(body)
		for _, i := range places {
			b[i]++
		}
		return string(b)
	}
	tail := len(big) % block
	files := []struct {
		name, old, new string
		cloned         int
	}{
		{"same", big, big, len(big)},
		{"first byte", big, differsAt(big, 0), len(big) - block},
		{"last byte", big, differsAt(big, len(big)-1), len(big) - tail},
		{"edges of blocks", big, differsAt(big, 2*block-1, 2*block, 16*block, 17*block-1), len(big) - 3*block},
		{"all", big, strings.ToUpper(big), 0},
		{"most", huge, strings.Repeat("x", len(huge)/2) + huge[len(huge)/2:], 0},
		{"end of many", huge, differsAt(huge, len(huge)-1), len(huge) - len(huge)%block},
		{"longer", big, big + "x", len(big) - tail},
		{"much longer", big, big + big, len(big) - tail},
		{"longer by zeros", big, big + strings.Repeat("\x00", len(big)), len(big) - tail},
		{"shorter", big, big[:5*block+1], 5*block + 1},
		{"shorter than a block", big, big[:block-1], 0},
		{"longer than a block", big[:block-1], big, 0},
		{"small", "x", "y", 0},
		{"emptied", big, "", 0},
		{"filled", "", big, 0},
	}
	old := []tartest.Member{
		{Name: "dir/same", Body: big},
		{Name: "gone", Body: big},
		{Name: "file", Type: '5', Mode: 0o755},
		{Name: "linked/same", Body: big},
	}
	members := []tartest.Member{
		{Name: "./", Type: '5', Mode: 0o2711},
		{Name: "dir/", Type: '5', Mode: 0o555},
		{Name: "dir/same", Body: big, Mode: 0o4755},
		{Name: "dir/same.link", Type: '1', Body: "dir/same"},
		{Name: "file", Body: big},
		{Name: "linked/same", Body: big},
	}
	cloned := len(big)
	for _, f := range files {
		old = append(old, tartest.Member{Name: f.name, Body: f.old})
		members = append(members, tartest.Member{Name: f.name, Body: f.new})
		cloned += f.cloned
	}
	data := tartest.Make(t, members...)
	for name, mount := range map[string]func(t *testing.T) (string, int){
		"xfs":   func(t *testing.T) (string, int) { return tartest.MountXFS(t), cloned },
		"tmpfs": func(t *testing.T) (string, int) { return tartest.MountTmpfs(t, "size=64m"), 0 },
	} {
		t.Run(name, func(t *testing.T) {
			parent, cloned := mount(t)
			base, dir, want := filepath.Join(parent, "base"), filepath.Join(parent, "dir"), t.TempDir()
			if _, err := createFresh(t, tartest.Make(t, old...), Options{Mode: 0o755}, base, ""); err != nil {
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
			if got := f.Cloned(); got != int64(cloned) {
				t.Errorf("cloned %d bytes, expected %d", got, cloned)
			}
			// Zeros that the archive stores are no holes.
			var st unix.Stat_t
			if err := unix.Stat(dir+"/longer by zeros", &st); err != nil || st.Blocks*512 < st.Size {
				t.Errorf("%d blocks for %d bytes, %v", st.Blocks, st.Size, err)
			}
			// Who writes to the base does not write to what was created.
			for _, name := range []string{"/same", "/last byte", "/shorter"} {
				if err := os.WriteFile(base+name, []byte("other"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tartest.CompareTrees(t, want, dir)
		})
	}
}

// Sparse files get the holes of the archive, and no other ones.
func TestFreshReusesSparseBase(t *testing.T) {
	t.Parallel()
	parent, want := tartest.MountXFS(t), t.TempDir()
	archives := sparseArchives(t)
	data := archives[0].data
	if err := tartest.Extract(t, data, want); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(file string, size int64) error{
		func(string, int64) error { return nil },
		func(file string, size int64) error { return os.Truncate(file, size/2) },
		func(file string, size int64) error { return os.Truncate(file, size+1) },
		func(file string, size int64) error { // one byte in what may be a hole
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("y"), size/2)
				err = errors.Join(err, f.Close())
			}
			return err
		},
	} {
		base, dir := filepath.Join(parent, fmt.Sprint("base", i)), filepath.Join(parent, fmt.Sprint("dir", i))
		if _, err := createFresh(t, data, Options{}, base, ""); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"end", "some", "many", "plain"} {
			info, err := os.Stat(filepath.Join(want, name))
			if err == nil {
				err = change(filepath.Join(base, name), info.Size())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := createFresh(t, data, Options{}, dir, base); err != nil {
			t.Fatal(err)
		}
		tartest.CompareTrees(t, want, dir)
		var made, base0 unix.Stat_t
		if err := errors.Join(unix.Stat(dir+"/some", &made), unix.Stat(parent+"/dir0/some", &base0)); err != nil || made.Blocks != base0.Blocks {
			t.Errorf("change %d: %d blocks, expected %d, %v", i, made.Blocks, base0.Blocks, err)
		}
	}
}

// A program may write to files of the base, lengthen and shorten them at any time.
func TestFreshBaseChangesMeanwhile(t *testing.T) {
	t.Parallel()
	parent, want := tartest.MountXFS(t), t.TempDir()
	body := strings.Repeat("0123456789abcdef", 20_000)
	var members []tartest.Member
	for i := range 8 {
		members = append(members, tartest.Member{Name: fmt.Sprint("file", i), Body: body})
	}
	data := tartest.Make(t, members...)
	if err := tartest.Extract(t, data, want); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(parent, "base")
	if _, err := createFresh(t, data, Options{Mode: 0o755}, base, ""); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			var f *os.File
			if f, err = os.OpenFile(filepath.Join(base, members[i%len(members)].Name), os.O_WRONLY, 0); err != nil {
				break
			}
			_, err = f.WriteAt([]byte(strings.Repeat(string(rune('a'+i%26)), 5000)), int64(i*7919%len(body)))
			err = errors.Join(err, f.Truncate(int64(len(body)+(i%3-1)*10_000)), f.Close())
		}
		stopped <- err
	}()
	for i := range 20 {
		dir := filepath.Join(parent, fmt.Sprint("dir", i))
		if _, err := createFresh(t, data, Options{Mode: 0o755}, dir, base); err != nil {
			t.Error(err)
		}
		tartest.CompareTrees(t, want, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
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
