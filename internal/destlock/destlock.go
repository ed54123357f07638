package stretcher

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// destLock keeps other deployments from a dest. The kernel drops it with the
// process that holds it, however that ends.
//
// It is held on files in a directory that only this user can write to:
// /run/stretcher for root, one in /dev/shm for others. Different users do not
// see each other's locks.
type destLock struct{ files []*os.File }

// lockDest waits until no other deployment to dest runs. Several names stand
// for a dest, so that symlinks and bind mounts lead to the same lock: its path
// as it is written, its path without symlinks, and its inode if it exists. A
// deployment's commands may set a symlink to another directory meanwhile.
func lockDest(ctx context.Context, dest string) (*destLock, error) {
	dir, err := openLockDir()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dest, err)
	}
	defer dir.Close()
	sweepLocks(dir)
	l := &destLock{}
	for {
		names, err := lockNames(dest)
		for i := 0; i < len(names) && err == nil; i++ {
			file := fmt.Sprintf("%x.lock", sha256.Sum256([]byte(names[i])))
			err = l.acquire(ctx, dir, file, dest)
		}
		var now []string
		if err == nil {
			now, err = lockNames(dest)
		}
		if err != nil {
			l.release()
			return nil, fmt.Errorf("lock %s: %w", dest, err)
		}
		if slices.Equal(now, names) {
			return l, nil
		}
		l.release() // who was waited for has changed what the path leads to
	}
}

// lockNames are what stands for a dest, in an order that is the same for all,
// so that two never wait for each other.
func lockNames(dest string) ([]string, error) {
	parent, err := realPath(filepath.Dir(dest))
	if err != nil {
		return nil, err
	}
	path, err := realPath(dest)
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

func (l *destLock) acquire(ctx context.Context, dir *os.File, name, dest string) error {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
		}
		f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
		if err := flock(ctx, f, dest); err != nil {
			return err
		}
		if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Nlink == 0 {
			f.Close() // the holder removed it before it let go: lock its successor
			if err != nil {
				return err
			}
			continue
		}
		l.files = append(l.files, f)
		if err := f.Truncate(0); err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "%d %s\n", os.Getpid(), time.Now().Format(time.RFC3339))
		return err
	}
}

// sweepLocks removes the locks that nobody holds: those that killed holders
// left. Nobody may ask for theirs again, where dest has been replaced since.
func sweepLocks(dir *os.File) {
	names, err := dir.Readdirnames(-1)
	logError("look for locks that nobody holds", err)
	for _, name := range names {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // gone
		}
		f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			// Only who holds a lock removes it. Without a link it has been,
			// and the name may be another's.
			if info, err := f.Stat(); err == nil && info.Sys().(*syscall.Stat_t).Nlink > 0 {
				logError("remove a lock that nobody holds", os.Remove(f.Name()))
			}
		}
		f.Close()
	}
}

// release lets the next one in. A nil lock is none.
func (l *destLock) release() {
	if l == nil {
		return
	}
	// The last one first: who waits, waits for the first one, once.
	for _, f := range slices.Backward(l.files) {
		logError("remove lock", os.Remove(f.Name()))
		f.Close()
	}
	l.files = nil
}

// flock locks f, waiting for who holds it. It closes f where it fails.
func flock(ctx context.Context, f *os.File, dest string) error {
	var pid, since string
	for deadline := time.Now().Add(time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return err
		}
		// A holder that has just begun has not written yet who it is.
		var alive bool
		if pid, since, alive = holder(f); alive || time.Now().After(deadline) {
			break
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			f.Close()
			return err
		}
	}
	if n, err := strconv.Atoi(pid); err == nil && isAncestor(n) {
		f.Close()
		return fmt.Errorf("pid %s is deploying there and waits for a command that runs this deployment: neither could go on", pid)
	}
	log.Printf("waiting for another deployment to %s: pid %s, since %s", dest, pid, since)
	got := make(chan error, 1)
	go func() {
		err := unix.EINTR
		for err == unix.EINTR {
			err, _ = unix.Flock(int(f.Fd()), unix.LOCK_EX).(unix.Errno)
		}
		if err != 0 {
			got <- err
			return
		}
		got <- nil
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		// The call cannot be interrupted; it lets go of the lock once it has it.
		go func() {
			<-got
			f.Close()
		}()
		return fmt.Errorf("waiting for pid %s: %w", pid, context.Cause(ctx))
	}
}

// holder reads who holds the lock f and since when. Nobody who is alive is in
// it for a moment after it changed hands.
func holder(f *os.File) (pid, since string, alive bool) {
	buf := make([]byte, 128)
	n, _ := f.ReadAt(buf, 0) // io.EOF, as the file is shorter
	line, _, complete := strings.Cut(string(buf[:n]), "\n")
	pid, since, _ = strings.Cut(line, " ")
	number, err := strconv.Atoi(pid)
	return pid, since, complete && err == nil && unix.Kill(number, 0) != unix.ESRCH
}

// isAncestor tells whether this process descends from pid. It does not from
// itself: another goroutine's deployment ends without it.
func isAncestor(pid int) bool {
	for p := os.Getppid(); p > 1; {
		if p == pid {
			return true
		}
		stat, err := readStat(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			return false
		}
		p = stat.parent
	}
	return false
}

// openLockDir opens this user's directory for locks, which it makes if need be.
// Where another user was first to make it, it takes the next place.
func openLockDir() (*os.File, error) {
	uid := os.Geteuid()
	candidates := []string{fmt.Sprintf("/dev/shm/stretcher-%d", uid), fmt.Sprintf("/tmp/stretcher-%d", uid), fmt.Sprintf("/run/user/%d/stretcher", uid)}
	if uid == 0 {
		candidates = append([]string{"/run/stretcher"}, candidates...)
	}
	var errs []error
	for _, path := range candidates {
		f, err := openOwnDir(path, uid)
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

// openOwnDir opens a directory that only this user can write to.
func openOwnDir(path string, uid int) (*os.File, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s %w (%w)", path, errNotOwn, err)
	}
	info, err := f.Stat()
	if err == nil && (ownerOf(info) != uid || info.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("%s %w", path, errNotOwn)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// realPath returns path without symlinks, also where its end does not exist.
func realPath(path string) (string, error) {
	path = plainPath(path)
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	parent, err := realPath(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// plainPath returns path without what is superfluous in it, and without "..".
// That leads to the parent of what a symlink before it points to, for the
// kernel and so for us; filepath.Clean would not look.
func plainPath(path string) string {
	i := strings.LastIndex(path+"/", "/../")
	if i < 0 {
		return filepath.Clean(path)
	}
	up, rest := path[:i+len("/..")], path[min(i+len("/../"), len(path)):]
	real, err := filepath.EvalSymlinks(up)
	if err != nil {
		real = filepath.Clean(up) // where it does not exist, it has no symlinks
	}
	return filepath.Join(real, rest)
}
