// Package destlock keeps two deployments of one user from writing to the same
// directory at the same time.
//
// A lock is a set of lock files (flock(2)) in a directory that only this user
// can write to: /run/stretcher for root, /dev/shm/stretcher-UID for others. The
// kernel releases it with the process that holds it, however that ends. Users
// do not see each other's locks.
//
//	Acquire:
//		sweep: remove the lock files that killed holders left
//		repeat:
//			names: the path, the path without symbolic links, the inode
//			for each name, in sorted order: lock its file
//			names again: if they are the same, the lock is held
//			release: the holder that was waited for changed where dest leads
//
//	lock a file:
//		repeat: open or create it, and flock it, until it still has its name
//		write into it who holds it (best effort)
//
//	flock a file:
//		try, until it is locked or its holder is known, for at most a second
//		ask the kernel for the holder if it is still unknown
//		fail if the holder waits for this very process
//		log whom this deployment waits for
//		wait until it is locked or ctx is done
//
//	Release: in reverse order, remove each file and close it
//
// A dest has several names so that symbolic links and bind mounts lead to the
// same lock. Everybody locks them in the same order, so that no two deployments
// can wait for each other.
package destlock

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

// Lock is a lock on a dest. It is held until Release is called or the process
// ends.
type Lock struct{ files []*os.File }

// Acquire locks dest, an absolute path that need not exist, and waits until no
// other deployment to it runs. It logs when it has to wait. It fails with the
// cause of ctx when that is done first, and also where the holder waits for
// this process, since neither could go on. Errors begin with "lock DEST: ".
func Acquire(ctx context.Context, dest string) (*Lock, error) {
	l, err := acquire(ctx, dest, directories(os.Geteuid()))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dest, err)
	}
	return l, nil
}

// acquire is Acquire with the directories that may hold the lock files. Where a
// lock file cannot be created in one, nobody holds it there, so that the next one
// is used.
func acquire(ctx context.Context, dest string, directories []string) (*Lock, error) {
	dir, err := openDirectory(directories)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	sweep(dir)
	l, err := acquireIn(ctx, dir, dest)
	rest := directories[slices.Index(directories, dir.Name())+1:]
	full := unixfs.IsFull(err) || errors.Is(err, unix.EROFS)
	if full && len(rest) > 0 {
		log.Printf("[WARN] directory for locks: %v: using another one", err)
		return acquire(ctx, dest, rest)
	}
	return l, err
}

func acquireIn(ctx context.Context, dir *os.File, dest string) (*Lock, error) {
	for {
		names, err := namesOf(dest)
		if err != nil {
			return nil, err
		}
		l := &Lock{}
		for i := 0; i < len(names) && err == nil; i++ {
			err = l.add(ctx, dir, names[i], dest)
		}
		var now []string
		if err == nil {
			now, err = namesOf(dest)
		}
		if err == nil && slices.Equal(now, names) {
			return l, nil
		}
		l.Release()
		if err != nil {
			return nil, err
		}
		// The deployment that was waited for has changed where dest leads, for
		// example a symbolic link to the current release.
	}
}

// Release lets the next deployment in. On a nil Lock, and when called again, it
// does nothing.
func (l *Lock) Release() {
	if l == nil {
		return
	}
	// Release in reverse order, so that waiters, who queue on the first lock,
	// wake only once.
	for _, f := range slices.Backward(l.files) {
		unixfs.Warn("remove lock", os.Remove(f.Name()))
		f.Close()
	}
	l.files = nil
}

// add locks the file that stands for name.
func (l *Lock) add(ctx context.Context, dir *os.File, name, dest string) error {
	f, err := lockFile(ctx, dir, fileName(name), dest)
	if err != nil {
		return err
	}
	l.files = append(l.files, f)
	// The line only informs those who wait: a full /run does not prevent the
	// deployment.
	unixfs.Warn("record the holder in the lock file", writeHolder(f))
	return nil
}

// fileName returns the name of the lock file that stands for a name of dest.
func fileName(name string) string { return fmt.Sprintf("%x.lock", sha256.Sum256([]byte(name))) }

// namesOf returns the sorted names that stand for dest: its path without
// symbolic links in its parent, its path without any, and its inode if it
// exists.
func namesOf(dest string) ([]string, error) {
	parent, err := unixfs.RealPath(filepath.Dir(dest))
	if err != nil {
		return nil, err
	}
	path, err := unixfs.RealPath(dest)
	if err != nil {
		return nil, err
	}
	names := []string{"path " + filepath.Join(parent, filepath.Base(dest)), "path " + path}
	if info, err := os.Stat(path); err == nil {
		st := info.Sys().(*syscall.Stat_t)
		names = append(names, fmt.Sprintf("inode %d:%d", st.Dev, st.Ino))
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// lockFile locks the file name in dir, which it creates if it does not exist.
func lockFile(ctx context.Context, dir *os.File, name, dest string) (*os.File, error) {
	for {
		f, err := openFile(dir, name, unix.O_CREAT)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f, dest); err != nil {
			f.Close()
			return nil, err
		}
		named, err := isNamed(f)
		if err == nil && named {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		// The holder removed the file before it released it, and others lock
		// another file under this name now.
	}
}

// flock locks f, waiting for its holder if there is one. The caller closes f
// also when that fails.
func flock(ctx context.Context, f *os.File, dest string) error {
	locked, by, err := tryLock(ctx, f)
	if err != nil || locked {
		return err
	}
	if isAncestor(by.pid) && hasOpen(by.pid, f) {
		return fmt.Errorf("pid %d is deploying there and waits for a command that runs this deployment: neither could go on", by.pid)
	}
	log.Printf("waiting for another deployment to %s: pid %s, since %s", dest, by.name(), by.since)
	if err := waitLock(ctx, f); err != nil {
		return fmt.Errorf("waiting for pid %s: %w", by.name(), err)
	}
	return nil
}

// tryLock tries to lock f until it has the lock or knows who holds it. A holder
// that has just begun has not written its line yet, and just after a handover
// the file may still name the previous, dead holder: both pass in an instant. A
// holder that is not known after a second will not be, either because it could
// not write its line or because it runs in another PID namespace. Then the
// kernel is asked who it is.
func tryLock(ctx context.Context, f *os.File) (locked bool, by holder, err error) {
	for deadline := time.Now().Add(time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return true, holder{}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return false, holder{}, err
		}
		if by = readHolder(f); by.lives() {
			return false, by, nil
		}
		if time.Now().After(deadline) {
			return false, by.orLocker(f), nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return false, holder{}, context.Cause(ctx)
		}
	}
}

// waitLock waits until it has locked f. When ctx is done first, it returns the
// cause.
func waitLock(ctx context.Context, f *os.File) error {
	// flock(2) cannot be interrupted, so that it may still wait after this
	// function has returned. It therefore has a descriptor of its own, which
	// shares the lock with f (flock(2), "Locks created by flock()"). If it gets
	// the lock after f has been closed, closing its descriptor releases it.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	locked := make(chan error, 1)
	go func() {
		err := unix.Flock(fd, unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		unix.Close(fd)
		locked <- err
	}()
	select {
	case err := <-locked:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
