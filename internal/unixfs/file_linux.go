package unixfs

import (
	"errors"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrReplaced reports that another process replaced a file between stat and
// chmod.
var ErrReplaced = errors.New("was replaced by something else meanwhile")

// Chmod changes the mode of name in the directory dir, provided that it is of
// the type kind (unix.S_IFREG and so on); else it fails with ErrReplaced.
// fchmodat(2) would follow a symbolic link that was put there in the meantime,
// and the flag against that exists since Linux 6.6 only.
func Chmod(dir int, name string, kind, mode uint32) error {
	fd, err := Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind {
		return ErrReplaced
	}
	return unix.Chmod(DescriptorPath(fd), mode)
}

// DescriptorPath returns a path that leads to what the descriptor fd is open
// on, also after it has been renamed (proc(5), "/proc/pid/fd").
func DescriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// SetModTime sets the modification time of name in the directory dir, without
// following a symbolic link, and leaves its access time alone.
func SetModTime(dir int, name string, mtime unix.Timespec) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// threadUmask returns the umask where /proc does not tell it. It sets that of a
// thread which has one of its own (unshare(2), CLONE_FS), and ends the thread.
// Where a sandbox forbids that, the umask of the process is stricter for an
// instant, but never more permissive.
func threadUmask() uint32 {
	mask := make(chan int)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, as it stays locked
		unshared := unix.Unshare(unix.CLONE_FS) == nil
		old := unix.Umask(0o077)
		if !unshared {
			unix.Umask(old)
		}
		mask <- old
	}()
	return uint32(<-mask)
}

// fragmentSize returns the unit in which statfs(2) counts blocks.
func fragmentSize(st *unix.Statfs_t) int64 { return st.Frsize }
