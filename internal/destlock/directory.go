package destlock

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

// directories returns where the lock files of a user may be, best first. All
// but /run/stretcher are in directories that every user can write to.
func directories(uid int) []string {
	list := []string{
		fmt.Sprintf("/dev/shm/stretcher-%d", uid),
		fmt.Sprintf("/tmp/stretcher-%d", uid),
		fmt.Sprintf("/run/user/%d/stretcher", uid),
	}
	if uid == 0 {
		list = append([]string{"/run/stretcher"}, list...)
	}
	return list
}

// openDirectory opens the first of the directories that exists or can be made,
// and that only this user can write to. Another user may have been there first.
func openDirectory(directories []string) (*os.File, error) {
	var errs []error
	for _, path := range directories {
		f, err := openOwn(path)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, errNotOwn) {
			log.Printf("[WARN] directory for locks: %v", err)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

var errNotOwn = errors.New("is not a directory of this user alone: remove it")

// openOwn opens the directory at path, which it makes if it does not exist. It
// fails with errNotOwn where another user can write to it.
func openOwn(path string) (*os.File, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return openExisting(path)
}

// openExisting is openOwn for a directory that exists.
func openExisting(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s %w (%w)", path, errNotOwn, err)
	}
	info, err := f.Stat()
	if err == nil && (unixfs.OwnerOf(info) != os.Geteuid() || info.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("%s %w", path, errNotOwn)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFile opens the lock file name in dir. The flags are added to those that
// every lock file is opened with.
func openFile(dir *os.File, name string, flags int) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	fd, err := unixfs.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// isNamed reports whether a lock file still has its name. It has lost it if its
// holder removed it while this process waited for it.
func isNamed(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Sys().(*syscall.Stat_t).Nlink > 0, nil
}

// sweep removes the lock files that killed holders left. Their names may never
// be asked for again, since a dest that has been replaced has another inode.
func sweep(dir *os.File) {
	names, err := dir.Readdirnames(-1)
	unixfs.Warn("look for locks that nobody holds", err)
	for _, name := range names {
		f, err := openFile(dir, name, 0)
		if err != nil {
			continue // it has been removed since
		}
		// Only the holder of a lock removes its file. A file that has lost its
		// name has been removed already, and the name may be another file's.
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if named, err := isNamed(f); err == nil && named {
				unixfs.Warn("remove a lock that nobody holds", os.Remove(f.Name()))
			}
		}
		f.Close()
	}
}
