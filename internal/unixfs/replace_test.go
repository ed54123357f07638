package unixfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestReplaceFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	want := func(content string, mode fs.FileMode) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("it contains %q, %v, want %q", got, err, content)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("its mode is %v, %v, want %v", info.Mode(), err, mode)
		}
		if names := tartest.NamesIn(t, filepath.Dir(path)); len(names) != 1 {
			t.Errorf("there is %q", names)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o666} { // the umask would take bits of the second
		if err := ReplaceFile(path, []byte(mode.String()), mode); err != nil {
			t.Fatal(err)
		}
		want(mode.String(), mode)
	}
	// What a killed process left is longer, and in the way of O_EXCL.
	if err := os.WriteFile(path+".tmp", []byte(strings.Repeat("x", 100)), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(path, []byte("third"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("third", 0o600)
	// A symbolic link under the temporary name is not followed, and one under the
	// name itself is replaced.
	target := filepath.Join(t.TempDir(), "target")
	for _, name := range []string{path + ".tmp", path} {
		os.Remove(name)
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
		if err := ReplaceFile(path, []byte("fourth"), 0o600); err != nil {
			t.Fatal(err)
		}
		want("fourth", 0o600)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote through a link: %v", err)
	}
}

func TestReplaceFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := ReplaceFile(filepath.Join(dir, "missing", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	// What cannot be replaced stays, and the temporary file does not.
	path := filepath.Join(dir, "directory")
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(path, []byte("x"), 0o600); err == nil {
		t.Error("it replaced a directory")
	}
	if got := tartest.NamesIn(t, dir); len(got) != 1 {
		t.Errorf("there is %q", got)
	}
}

// Processes that increase a number in a file, one after another, lose none.
func TestLockFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "number")
	const workers, times = 8, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range times {
				unlock, err := LockFile(filepath.Join(dir, "lock"))
				if err != nil {
					t.Error(err)
					return
				}
				data, _ := os.ReadFile(path)
				n, _ := strconv.Atoi(string(data))
				if err := ReplaceFile(path, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
					t.Error(err)
				}
				if n%20 == 0 {
					os.Remove(filepath.Join(dir, "lock")) // by somebody who tidies up
				}
				unlock()
			}
		})
	}
	wg.Wait()
	if got, err := os.ReadFile(path); string(got) != strconv.Itoa(workers*times) {
		t.Errorf("the number is %q, %v, want %d", got, err, workers*times)
	}
}

func TestLockFileHeld(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFile(path, 30*time.Millisecond); !errors.Is(err, unix.EWOULDBLOCK) || !strings.Contains(err.Error(), "another process has held it for 30ms") {
		t.Errorf("held: got %v", err)
	}
	time.AfterFunc(30*time.Millisecond, unlock)
	again, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if err := os.Symlink("elsewhere", path+"2"); err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(path + "2"); err == nil {
		t.Error("it followed a symbolic link")
	}
}

// A file is written completely or not at all, and nothing is left beside it.
func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 255))
	write := func(text string, err error) func(*os.File) error {
		return func(f *os.File) error {
			f.WriteString(text)
			return err
		}
	}
	failed := errors.New("failed")
	for _, test := range []struct {
		rename func(from, to string) error
		write  func(*os.File) error
		err    error
		want   string
	}{
		{os.Rename, write("1", nil), nil, "1"},
		{os.Rename, write("2", nil), nil, "2"},
		{os.Rename, write("3", failed), failed, "2"},
		{RenameNew, write("4", nil), unix.EEXIST, "2"},
	} {
		err := WriteFile(path, 0o604, test.rename, test.write)
		text, problem := os.ReadFile(path)
		if !errors.Is(err, test.err) || string(text) != test.want || problem != nil {
			t.Errorf("%v, %q, %v, want %v, %q", err, text, problem, test.err, test.want)
		}
	}
	info, err := os.Stat(path)
	if list, _ := os.ReadDir(dir); err != nil || info.Mode() != 0o604 || len(list) != 1 {
		t.Errorf("%v, %v, %v", info, list, err)
	}
	err = WriteFile(filepath.Join(dir, "missing", "x"), 0o644, os.Rename, write("", nil))
	if want := "create " + dir + "/missing/x: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
