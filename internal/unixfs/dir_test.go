package unixfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTestDir opens a directory for the time of the test.
func openTestDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestOpenBelow(t *testing.T) {
	t.Parallel()
	dir := linksIn(t)
	if err := os.WriteFile(dir+"/real/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root := openTestDir(t, dir)
	for path, want := range map[string]error{
		"real":          nil,
		"real/inner":    nil,
		".":             nil,
		"missing":       unix.ENOENT,
		"real/missing":  unix.ENOENT,
		"real/file":     unix.ENOTDIR,
		"link":          unix.ENOTDIR, // symbolic links are not followed
		"link/inner":    unix.ENOTDIR,
		"absolute":      unix.ENOTDIR,
		"deep":          unix.ENOTDIR,
		"loop":          unix.ENOTDIR,
		"real/file/..":  unix.ENOTDIR,
		"real//inner":   unix.ENOENT, // no component is empty
		"missing/inner": unix.ENOENT,
	} {
		fd, err := OpenBelow(root, path)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: got error %v, expected %v", path, err, want)
		}
		if err != nil {
			if fd != -1 {
				t.Errorf("%s: got the descriptor %d with the error", path, fd)
			}
			continue
		}
		if got, err := os.Readlink(DescriptorPath(fd)); err != nil || got != filepath.Join(dir, path) {
			t.Errorf("%s: opened %s, %v", path, got, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: a command would inherit the descriptor: %v", path, err)
		}
		unix.Close(fd)
	}
}

// The same names and types as os.ReadDir, for more than one buffer of them.
func TestReadDir(t *testing.T) {
	t.Parallel()
	dir := linksIn(t)
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("x", 250-i%200))
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{" ", "\n", "...", "-", "\xff\xfe", "é"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, dir + "/other", "/dev", "/proc/self"} {
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, e := range entries {
			want = append(want, fmt.Sprintf("%q %s", e.Name(), e.Type().String()[:1]))
		}
		list, err := ReadDir(openTestDir(t, path), 3)
		if err != nil {
			t.Fatal(err)
		}
		letters := map[uint32]string{unix.S_IFREG: "-", unix.S_IFDIR: "d", unix.S_IFLNK: "L", unix.S_IFIFO: "p", unix.S_IFSOCK: "S", unix.S_IFCHR: "D", unix.S_IFBLK: "D"}
		var got []string
		for _, d := range list {
			got = append(got, fmt.Sprintf("%q %s", d.Name, letters[d.Kind]))
			if d.IsDir() != (d.Kind == unix.S_IFDIR) {
				t.Errorf("%s: IsDir is %v", d.Name, d.IsDir())
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d names, expected %d:\n%.300q\n%.300q", path, len(got), len(want), got, want)
		}
	}
	f, err := os.Open(dir + "/...")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ReadDir(int(f.Fd()), 0); err != unix.ENOTDIR {
		t.Errorf("of a file: got error %v", err)
	}
}

func TestReadLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd := openTestDir(t, dir)
	for name, target := range map[string]string{"short": "x", "long": strings.Repeat("y/", 2000), "missing": "/no/such"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadLink(fd, name); err != nil || got != target {
			t.Errorf("%s: got %.40q, %v", name, got, err)
		}
	}
	if _, err := ReadLink(fd, "none"); err != unix.ENOENT {
		t.Errorf("of nothing: got error %v", err)
	}
}
