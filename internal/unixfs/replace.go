package unixfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long LockFile waits. Its locks are held for milliseconds, so
// only a process that was stopped holds one for longer.
const lockPatience = 10 * time.Second

// LockFile locks the file at path (flock(2)), which it makes with mode 0600 if it is
// missing, until unlock is called or the process ends. The lock is for a moment:
// LockFile fails if another process holds it for more than 10 seconds.
func LockFile(path string) (unlock func(), err error) {
	return lockFile(path, lockPatience)
}

func lockFile(path string, patience time.Duration) (unlock func(), err error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		f, err := tryLockFile(path)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: another process has held it for %s: fuser %s shows which", err, patience, path)
		}
	}
}

// tryLockFile fails with unix.EWOULDBLOCK if another process holds the lock, or has
// removed the file meanwhile, so that others may lock a new one.
func tryLockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.Sys().(*syscall.Stat_t).Nlink == 0 {
			err = unix.EWOULDBLOCK
		}
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// ReplaceFile makes data the contents of the file at path, which has the mode then
// whatever the umask is. After a kill or a power cut, the file is the old or the new
// one, complete. After an error, it is the old one.
//
// It writes path + ".tmp" first, and removes what a killed process left there. The
// caller has to see to it, by LockFile for example, that no two write the same file
// at a time.
func ReplaceFile(path string, data []byte, mode fs.FileMode) error {
	temporary := path + ".tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	for _, step := range []func() error{
		func() error { return f.Chmod(mode) },
		f.Sync, // before the rename, or a power cut may leave an empty file
		f.Close,
		func() error { return os.Rename(temporary, path) },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		f.Close() // a second call does nothing
		return errors.Join(err, os.Remove(temporary))
	}
	flushNames(filepath.Dir(path), path)
	return nil
}

// WriteFile calls write with a new file of the mode, and then rename with its path and
// the path that it is to have: os.Rename, or RenameNew where no file may be replaced.
// So the file at path is complete or not there, also after a power cut, and any number
// of processes may write it at a time. After an error, it is what it was.
func WriteFile(path string, mode fs.FileMode, rename func(from, to string) error, write func(*os.File) error) error {
	dir := filepath.Dir(path)
	base := filepath.Base(path)
	f, err := os.CreateTemp(dir, "."+base[:min(len(base), 200)]+".") // the kernel takes names of up to 255 bytes
	if err != nil {
		if failed, ok := errors.AsType[*fs.PathError](err); ok {
			err = failed.Err
		}
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	for _, step := range []func() error{
		func() error { return write(f) },
		func() error { return f.Chmod(mode) },
		f.Sync,
		f.Close,
		func() error { return rename(f.Name(), path) },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		f.Close() // a second call does nothing
		return errors.Join(err, os.Remove(f.Name()))
	}
	flushNames(dir, path)
	return nil
}

// flushNames makes the rename of the file at path durable. The file is in place, so
// an error is no failure.
func flushNames(dir, path string) {
	d, err := os.Open(dir)
	if err == nil {
		err = FlushDir(int(d.Fd()))
		d.Close()
	}
	Warn(path+" may be the old one after a power cut", err)
}

// FlushDir waits until the names in an open directory are on disk. A file system
// that cannot do that for a directory fails with EINVAL (fsync(2)), which is ignored.
func FlushDir(dir int) error {
	if err := unix.Fsync(dir); err != nil && err != unix.EINVAL {
		return fmt.Errorf("flush to disk: %w", err)
	}
	return nil
}
