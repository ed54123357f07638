package unixfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// TempBeside returns where a temporary directory that is to be renamed to path has to
// be made, and the prefix of its name: beside it, because a directory can only be
// renamed within its file system. Of a long name of path it has the first bytes only,
// so that the number at the end is within the limit of the file system, which is 255
// bytes on most and 143 on eCryptfs. If two long names share one prefix, that does no
// harm, since a temporary directory in use is locked.
func TempBeside(path string) (parent, prefix string) {
	const limit = 100
	name := filepath.Base(path)
	if len(name) > limit {
		name = strings.ToValidUTF8(name[:limit], "") // some file systems take nothing else
	}
	return filepath.Dir(path), "." + name + TempPrefix
}

// IsTempName reports whether NewTempDir may have made a directory of that name
// with the prefix TempPrefix.
func IsTempName(name string) bool { return isTempName(name, TempPrefix) }

func isTempName(name, prefix string) bool {
	number, ok := strings.CutPrefix(name, prefix)
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// TempDir is a directory of one run's own, with mode 0700. The run holds a lock
// on it (flock(2)), by which a later run can tell a directory that is in use
// from one that a killed run left.
type TempDir struct {
	Path string   // absolute
	lock *os.File // the open directory
}

// NewTempDir makes a directory in parent, whose name is prefix and a number.
func NewTempDir(parent, prefix string) (*TempDir, error) {
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	for {
		path, err := os.MkdirTemp(parent, prefix+"*") // replaces the last *, so that one in prefix stays
		if err != nil {
			return nil, fmt.Errorf("create a temporary directory: %w", err)
		}
		lock, err := lockTempDir(path)
		if err == nil {
			return &TempDir{Path: path, lock: lock}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			_ = os.Remove(path) // err says more
			return nil, fmt.Errorf("create a temporary directory: %w", err)
		}
		// Between its creation and the lock, another run's sweep took the
		// directory for one that a killed run left, and removed it.
	}
}

// Fd returns the descriptor of the open directory, valid until Remove.
func (d *TempDir) Fd() int { return int(d.lock.Fd()) }

// Remove deletes the directory with all that is in it. On a nil TempDir, and
// when called again, it does nothing.
func (d *TempDir) Remove() error {
	if d == nil || d.lock == nil {
		return nil
	}
	err := RemoveTree(d.Path)
	d.Leave()
	return err
}

// Leave gives up the directory, so that a later run removes it. On a nil TempDir, and
// after Remove, it does nothing.
func (d *TempDir) Leave() {
	if d != nil && d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

// lockTempDir locks the directory at path without waiting. The error is
// unix.EWOULDBLOCK where a live run holds the lock, and fs.ErrNotExist where the
// directory is gone.
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

// SweepTempDirs removes the directories in parent whose names are prefix and a
// number, which belong to this user, and which no live run has locked. What
// cannot be removed is logged, since it is no reason not to deploy.
func SweepTempDirs(parent, prefix string) {
	Warn("remove what an earlier run left", eachAbandoned(parent, prefix, func(name string, owner int) error {
		if owner != os.Geteuid() {
			return nil
		}
		return RemoveTree(filepath.Join(parent, name))
	}))
}

// RemoveAbandoned calls remove with the names of the directories in parent that
// SweepTempDirs would remove, and of those of other users, and returns its
// errors.
func RemoveAbandoned(parent, prefix string, remove func(name string) error) error {
	return eachAbandoned(parent, prefix, func(name string, _ int) error { return remove(name) })
}

// eachAbandoned calls do with the names and the owners of the directories in
// parent whose names are prefix and a number, and which no live run has locked.
func eachAbandoned(parent, prefix string, do func(name string, owner int) error) error {
	names, err := tempNames(parent, prefix)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) {
		return nil // a run that cannot list parent cannot have made a directory there
	}
	errs := []error{err}
	for _, name := range names {
		path := filepath.Join(parent, name)
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() {
			continue // gone, or not one of ours
		}
		lock, err := lockTempDir(path)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // in use, or gone
		}
		errs = append(errs, do(name, OwnerOf(info)))
		lock.Close()
	}
	return errors.Join(errs...)
}

// tempNames returns the names in the directory parent that are prefix and a number.
// parent may be dest, which may have a million other names, so it keeps no list
// of these.
func tempNames(parent, prefix string) ([]string, error) {
	dir, err := os.OpenFile(parent, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var found []string
	for {
		const batch = 1024
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if isTempName(name, prefix) {
				found = append(found, name)
			}
		}
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return found, err
		}
	}
}

// RemoveTree is os.RemoveAll that also empties directories whose mode forbids that to
// their owner, as archives may contain them: an ordinary user, but also root without
// CAP_DAC_OVERRIDE, or on a file system of NFS.
func RemoveTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, unix.EACCES) { // EPERM has other reasons than modes
		return err
	}
	if err := openModes(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// openModes gives this user all permissions for a directory and those below it.
// Symbolic links that others put in the place of directories do not lead out of it.
func openModes(path string) error {
	if err := Chmod(unix.AT_FDCWD, path, unix.S_IFDIR, 0o700); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	return WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || name == "." {
			return err
		}
		return root.Chmod(name, 0o700) // WalkDir reads the directory after this call
	})
}
