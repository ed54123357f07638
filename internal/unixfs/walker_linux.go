package unixfs

import (
	"errors"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Walker opens files by their paths below an open directory. It keeps the directory
// of the last one open, so that a sequence of files in the order of their paths
// takes few system calls. The Walker may be used by one goroutine at a time.
type Walker struct {
	root int
	dir  int // the directory at path, if that is not ""
	path string
}

// NewWalker returns a Walker below the open directory root.
func NewWalker(root int) *Walker { return &Walker{root: root} }

// OpenRegular opens the regular file at a slash-separated path for reading, and
// fills st. No component of the path may be a symbolic link or "..". A device is not
// opened, because that could have an effect. The error does not contain the path.
func (w *Walker) OpenRegular(name string, st *unix.Stat_t) (fd int, err error) {
	if !filepath.IsLocal(name) {
		return -1, errors.New("leads out of the directory")
	}
	dir, base := path.Split(name)
	parent, err := w.open(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return -1, err
	}
	if err = unix.Fstatat(parent, base, st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		err = regular(st)
	}
	if err != nil {
		return -1, err
	}
	// With O_NONBLOCK, since opening a fifo that has taken the file's place would
	// wait for a writer.
	fd, err = Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Fstat(fd, st); err == nil {
		err = regular(st)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// errNotRegular is an error of OpenRegular.
var errNotRegular = errors.New("not a regular file")

func regular(st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errNotRegular
	}
	return nil
}

// open opens the directory at a path, which the Walker keeps.
func (w *Walker) open(path string) (int, error) {
	if path == "" {
		return w.root, nil
	}
	if path == w.path {
		return w.dir, nil
	}
	from, rest := w.root, path
	if below, ok := strings.CutPrefix(path, w.path+"/"); ok && w.path != "" {
		from, rest = w.dir, below
	}
	fd, err := OpenBelow(from, rest)
	if err != nil {
		return -1, err
	}
	w.Close()
	w.dir, w.path = fd, path
	return fd, nil
}

// Close closes the directory that the Walker keeps open. The Walker can still be
// used.
func (w *Walker) Close() {
	if w.path != "" {
		unix.Close(w.dir)
		w.path = ""
	}
}
