package unixfs

import (
	"bytes"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

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
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

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
