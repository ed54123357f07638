package unixfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

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

// WriteAt writes all of b to the open file fd at offset.
func WriteAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// ReadAt fills b from the open file fd at offset. It reports false where the
// file ends before that.
func ReadAt(fd int, b []byte, offset int64) (full bool, err error) {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false, err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return true, nil
}

// IsTerminal reports whether an open file is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// OwnerOf returns the ID of the user that a file belongs to.
func OwnerOf(info fs.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// Umask returns the file mode creation mask of this process as it was at the
// first call. It is read from /proc/self/status, since umask(2) can only read it
// by setting it, which would affect the files that other goroutines create at that
// moment.
var Umask = sync.OnceValue(func() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, rest, ok := bytes.Cut(status, []byte("\nUmask:")); ok { // since Linux 4.7
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			if mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 8, 32); err == nil {
				return uint32(mask)
			}
		}
	}
	return threadUmask()
})

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
