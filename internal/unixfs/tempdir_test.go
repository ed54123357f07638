package unixfs

import (
	"bytes"
	"errors"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// SweepTempDirs removes the directories that killed runs of this user left, and
// nothing else.
func TestTempDir(t *testing.T) {
	parent := t.TempDir()
	live, err := NewTempDir(parent, "p-")
	if err != nil {
		t.Fatal(err)
	}
	for _, dead := range []string{"p-123/deep/dir", "p-0"} {
		if err := os.MkdirAll(filepath.Join(parent, dead), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	keep := []string{"p-", "p-12x", "p-x12", "q-123", "ap-123"}
	for _, name := range keep {
		if err := os.Mkdir(filepath.Join(parent, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(parent, "p-456"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("q-123", filepath.Join(parent, "p-789")); err != nil {
		t.Fatal(err)
	}
	SweepTempDirs(parent, "p-")
	d, err := NewTempDir(parent, "p-")
	if err != nil {
		t.Fatal(err)
	}
	want := append(keep, "p-456", "p-789", filepath.Base(live.Path), filepath.Base(d.Path))
	slices.Sort(want)
	if got := tartest.NamesIn(t, parent); !slices.Equal(got, want) {
		t.Errorf("there is %q, expected %q", got, want)
	}
	if info, err := os.Stat(d.Path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the new one has mode %v, %v", info.Mode(), err)
	}
	for _, d := range []*TempDir{live, d, d, nil} {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(live.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there after remove: %v", err)
	}
}

// The prefix contains the name of dest, which may have any characters. This test is
// not parallel: what another test starts has the locks, too, between fork and exec.
func TestTempDirOfOddNames(t *testing.T) {
	parent := t.TempDir()
	for _, prefix := range []string{".a*b-", ".*-", ".a b\n-", ".é-", "..-"} {
		for range 2 { // the second finds what the first left
			d, err := NewTempDir(parent, prefix)
			if err != nil {
				t.Fatal(err)
			}
			d.lock.Close() // as when the process is killed
		}
		SweepTempDirs(parent, prefix)
		if got := tartest.NamesIn(t, parent); len(got) > 0 {
			t.Errorf("prefix %q: there is %q", prefix, got)
		}
	}
}

// Runs that create, sweep and remove directories at the same time do not remove
// those of each other.
func TestTempDirConcurrently(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				d, err := NewTempDir(parent, "p-")
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.Mkdir(filepath.Join(d.Path, "mine"), 0o700); err != nil {
					t.Error(err)
				}
				SweepTempDirs(parent, "p-")
				if _, err := os.Stat(filepath.Join(d.Path, "mine")); err != nil {
					t.Errorf("another's sweep took it: %v", err)
				}
				if err := d.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := tartest.NamesIn(t, parent); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
}

// A parent that is missing, or is a file, is ignored; one that cannot be read for
// another reason is logged.
func TestSweepTempDirsErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for name, warns := range map[string]bool{"missing": false, "file": false, "file/below": false, "loop": true} {
		if got := logOf(t, func() { SweepTempDirs(filepath.Join(dir, name), "p-") }); (got != "") != warns {
			t.Errorf("%s: it logged %q", name, got)
		}
	}
}

func TestRemoveTree(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		withoutOverride(t)
	}
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/b/file"), nil, 0o000); err != nil {
		t.Fatal(err)
	}
	// Archives may contain such directories.
	for _, name := range []string{"a/b/c", "a/b", "a", "."} {
		if err := os.Chmod(filepath.Join(dir, name), 0o000); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveTree(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if err := RemoveTree(dir); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
}

// withoutOverride makes modes apply to the thread of this test, as to root in a
// container without CAP_DAC_OVERRIDE. The thread ends with the test.
func withoutOverride(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	if err == nil {
		data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
		err = unix.Capset(&header, &data[0])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What modes do not forbid is not tried by changing them.
func TestRemoveTreeByRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this is about root")
	}
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "sub", "immutable"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	setFlags := func(flags int) error { return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) }
	if err := setFlags(0x10); err != nil { // FS_IMMUTABLE_FL of linux/fs.h
		t.Skipf("chattr: %v", err)
	}
	defer setFlags(0)
	if err := RemoveTree(dir); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got error %v", err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "sub")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s has the mode %v, %v", path, info.Mode(), err)
		}
	}
}

// logOf returns what f logs.
func logOf(t *testing.T, f func()) string {
	t.Helper()
	var buf bytes.Buffer
	old := log.Writer()
	log.SetOutput(&buf)
	defer log.SetOutput(old)
	f()
	return buf.String()
}
