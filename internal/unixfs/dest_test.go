package unixfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDestError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, closed := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "closed")
	err := errors.Join(os.WriteFile(file, nil, 0o644), os.Symlink("nowhere", link), os.Mkdir(closed, 0o555))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dest string
		err  error
		want string
	}{
		{file, unix.ENOTDIR, "dest " + file + " is a file, expected a directory or nothing"},
		{dir, unix.EACCES, "dest " + dir + " is not writable by "},
		{dir, unix.EROFS, "dest " + dir + ": read-only file system"},
		{link, unix.ENOENT, "dest " + link + " is a symbolic link to nowhere: no such file or directory"},
		{dir + "/no/such", unix.ENOENT, "dest " + dir + "/no/such: its parent directory " + dir + "/no does not exist: create it, by a pre command for instance"},
		{file + "/x", unix.ENOTDIR, "dest " + file + "/x: its parent " + file + " is not a directory"},
		{closed + "/x", unix.EACCES, "dest " + closed + "/x cannot be created: its parent directory " + closed + " is not writable by "},
		{closed + "/x", unix.ENOSPC, "dest " + closed + "/x: no space left on device"},
	} {
		if got := DestError(test.dest, test.err).Error(); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s, %v: %q, want %q", test.dest, test.err, got, test.want)
		}
	}
	if err := DestError(dir+"/no/such", unix.ENOENT); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}
