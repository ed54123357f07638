package unixfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWalker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := []string{"a", "d/a", "d/e/a", "d/e/f/a", "d/e/f/b", "d/e2/a", "de/a", "z"}
	for i, name := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(strconv.Itoa(i)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Symlink("a", filepath.Join(dir, "link")),
		os.Symlink("d", filepath.Join(dir, "linked")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	root, err := OpenDir(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	w := NewWalker(root)
	defer w.Close()
	// In two orders, of which one often goes from a directory to the one above.
	order := append([]string(nil), files...)
	for _, name := range files {
		order = append([]string{name}, order...)
	}
	for _, name := range order {
		var st unix.Stat_t
		fd, err := w.OpenRegular(name, &st)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if full, err := ReadAt(fd, b[:], 0); err != nil || !full || files[b[0]-'0'] != name || st.Size != 1 {
			t.Errorf("%s: got that of %s: %v", name, files[b[0]-'0'], err)
		}
		unix.Close(fd)
		// What cannot be opened does not disturb what follows.
		for _, wrong := range []string{"link", "linked/a", "linked/e/a", "fifo", "fifo/a", "d", "d/e", "missing", "d/missing/a", "../" + filepath.Base(dir) + "/a", "d/../../" + filepath.Base(dir) + "/a", "/a", ""} {
			if fd, err := w.OpenRegular(wrong, &st); err == nil {
				t.Errorf("%s was opened", wrong)
				unix.Close(fd)
			}
		}
	}
}
