package stretcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempFile creates a file in the directory for temporary files that has no
// name: the kernel frees it with its last descriptor, however the run ends.
func tempFile() (*os.File, error) {
	dir := os.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "(unnamed)")), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("create a temporary file in %s: %w", dir, err)
	}
	// This filesystem wants a name, be it for a moment.
	f, err := os.CreateTemp(dir, ".stretcher-*")
	if err != nil {
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	return f, nil
}

// halves is a temporary file in two, of which the kernel frees each on a
// processor of its own: that takes longer than one expects. Pieces of it go by
// turns to the one and the other.
type halves [2]*os.File

const halvesPiece = 16 << 20

func newHalves() (*halves, error) {
	h := &halves{}
	for i := range h {
		var err error
		if h[i], err = tempFile(); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

func (h *halves) ReadAt(p []byte, offset int64) (int, error) {
	return h.pieces(p, offset, (*os.File).ReadAt)
}

func (h *halves) WriteAt(p []byte, offset int64) (int, error) {
	return h.pieces(p, offset, (*os.File).WriteAt)
}

// pieces does with each piece of p what at does with all of it.
func (h *halves) pieces(p []byte, offset int64, at func(*os.File, []byte, int64) (int, error)) (done int, err error) {
	for done < len(p) && err == nil {
		piece, in := offset/halvesPiece, offset%halvesPiece
		n := min(int64(len(p)-done), halvesPiece-in)
		var more int
		more, err = at(h[piece%2], p[done:done+int(n)], piece/2*halvesPiece+in)
		done += more
		offset += int64(more)
	}
	return done, err
}

// Close frees both.
func (h *halves) Close() error {
	var errs [2]error
	var closing sync.WaitGroup
	for i, f := range h {
		if f != nil {
			closing.Go(func() { errs[i] = f.Close() })
		}
	}
	closing.Wait()
	return errors.Join(errs[:]...)
}

// tempPrefix begins the names of temporary directories.
const tempPrefix = ".stretcher-"

// tempDir is a directory of one run's own, mode 0700. The run holds a lock on
// it, so that a later run can tell what a killed one left from what is in use.
type tempDir struct {
	path string
	lock *os.File
}

// newTempDir first removes what dead runs left in parent under such names,
// then makes a directory whose name is prefix and a number.
func newTempDir(parent, prefix string) (*tempDir, error) {
	sweepTempDirs(parent, prefix)
	for {
		path, err := os.MkdirTemp(parent, prefix+"*") // a * in prefix is no place for the number
		if err != nil {
			return nil, fmt.Errorf("create a temporary directory: %w", err)
		}
		lock, err := lockTempDir(path)
		if err == nil {
			return &tempDir{path: path, lock: lock}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			os.Remove(path)
			return nil, fmt.Errorf("create a temporary directory: %w", err)
		}
		// Another run's sweep found it between its creation and the lock,
		// took it for a dead run's and removed it.
	}
}

// remove deletes the directory with all it holds. A nil tempDir and a second
// call are no-ops.
func (d *tempDir) remove() error {
	if d == nil || d.lock == nil {
		return nil
	}
	err := removeTree(d.path)
	d.lock.Close()
	d.lock = nil
	return err
}

// lockTempDir takes the lock on the directory at path without waiting. The
// error is unix.EWOULDBLOCK where a live run holds it, fs.ErrNotExist where
// the directory is gone.
func lockTempDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	held, err := f.Stat()
	if err == nil {
		var named fs.FileInfo
		if named, err = os.Lstat(path); err == nil && !os.SameFile(held, named) {
			err = &fs.PathError{Op: "flock", Path: path, Err: fs.ErrNotExist}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweepTempDirs removes the directories in parent that are named by prefix and
// a number, belong to this user, and are locked by nobody. What it cannot
// remove is no reason not to deploy.
func sweepTempDirs(parent, prefix string) {
	list, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return // beside dest, only mv makes any, which needs more than to read
	}
	logError("look for what an earlier run left", err)
	for _, e := range list {
		number, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || number == "" || !e.IsDir() || strings.Trim(number, "0123456789") != "" {
			continue
		}
		path := filepath.Join(parent, e.Name())
		if info, err := os.Lstat(path); err != nil || ownerOf(info) != os.Geteuid() {
			continue
		}
		lock, err := lockTempDir(path)
		if err != nil {
			continue // in use, or gone
		}
		logError("remove what an earlier run left", removeTree(path))
		lock.Close()
	}
}

// removeTree is os.RemoveAll that also enters directories whose mode forbids
// it to an ordinary user, as an archive may have made them.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(p, 0o700) // before WalkDir reads it
	})
	if removed := os.RemoveAll(path); removed != nil {
		return errors.Join(err, removed)
	}
	return nil
}

func ownerOf(info fs.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
