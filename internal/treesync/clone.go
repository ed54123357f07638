package treesync

import (
	"context"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// cloner lets new files share their blocks on disk with files that have the same
// contents already, until one of them is written to (ioctl_ficlone(2)). On file
// systems that cannot do that, nothing is cloned.
type cloner struct {
	cannot atomic.Bool  // the file system has said so
	bytes  atomic.Int64 // how many have been cloned
}

// clone gives the empty file fd, which is open for reading and writing, the
// contents of name in the directory base, and reports whether these are the
// entry's; if not, fd is empty again. A program may write to the file in base at
// any time, so the clone is compared, which nobody else writes to. On a nil cloner,
// and if base is -1, it clones nothing.
func (c *cloner) clone(ctx context.Context, fd, base int, name string, from contents, e *archive.Entry, done *progress.Step) (bool, error) {
	if c == nil || base < 0 || e.Size == 0 || c.cannot.Load() {
		return false, nil
	}
	old, err := unixfs.Openat(base, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil // there is no such file, or this user may not read it
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if unix.Fstat(old, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != e.Size {
		return false, nil
	}
	switch err := unix.IoctlFileClone(fd, old); err {
	case nil:
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV, unix.EPERM:
		c.cannot.Store(true)
		return false, nil
	default: // this file cannot be cloned; if the disk is full, writing it says so
		return false, unix.Ftruncate(fd, 0)
	}
	same, err := sameContents(ctx, fd, from, e, done)
	if err != nil || !same {
		if truncated := unix.Ftruncate(fd, 0); err == nil {
			err = truncated
		}
		return false, err
	}
	c.bytes.Add(e.StoredSize())
	return true, nil
}
