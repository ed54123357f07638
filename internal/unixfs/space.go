package unixfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// FreeSpace returns how many bytes this user can still write to the file
// system of dir. Where the file system does not say, it is math.MaxInt64.
func FreeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Blocks == 0 {
		return math.MaxInt64, nil
	}
	blocks := st.Bavail
	if os.Geteuid() == 0 {
		blocks = st.Bfree // includes the blocks that are reserved for root
	}
	return int64(blocks) * fragmentSize(&st), nil
}

// IsFull reports whether an error is that of a full disk or quota.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// CheckTempSpace fails with unix.ENOSPC where what needs more than the free
// space of the directory for temporary files, size being in bytes.
func CheckTempSpace(what string, size int64) error {
	free, err := FreeSpace(os.TempDir())
	if err != nil {
		return err
	}
	if size > free {
		return TempSpaceError(what, unix.ENOSPC, size)
	}
	return nil
}

// TempSpaceError explains a full disk or quota: it adds to err which directory
// is full and how many bytes are needed there for what. Other errors are
// returned as they are.
func TempSpaceError(what string, err error, size int64) error {
	if !IsFull(err) {
		return err
	}
	left := "an unknown amount of space"
	if free, err := FreeSpace(os.TempDir()); err == nil {
		left = humanize.IBytes(uint64(free))
	}
	return fmt.Errorf("%s needs at least %s in %s, which has %s left (free some, or set TMPDIR to another directory): %w",
		what, humanize.IBytes(uint64(size)), os.TempDir(), left, err)
}
