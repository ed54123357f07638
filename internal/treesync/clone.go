package treesync

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// cloner lets new files share their blocks on disk with older versions of them,
// until one of the files is written to (ioctl_ficlone(2)). On file systems that
// cannot do that, nothing is cloned.
type cloner struct {
	cannot atomic.Bool  // the file system has said so
	bytes  atomic.Int64 // how many have been cloned
}

// blockSize is how many bytes files share at least: a block of most file systems.
const blockSize = 4 << 10

// clone gives the empty file fd, which is open for reading and writing, the
// entry's contents, of which it shares with name in the directory base what that
// has at the same places. It reports false if that is not possible or not worth
// it; then fd is empty again. On a nil cloner, and if base is -1, it clones nothing.
func (c *cloner) clone(ctx context.Context, fd, base int, name string, from contents, e *archive.Entry, counted *progress.Step) (bool, error) {
	if c == nil || base < 0 || e.Size == 0 || c.cannot.Load() {
		return false, nil
	}
	old, err := unixfs.Openat(base, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil // there is no such file, or this user may not read it
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if unix.Fstat(old, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != e.Size && min(st.Size, e.Size) < blockSize {
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
	done, err := c.update(ctx, fd, from, e, counted)
	if err == nil && !done {
		err = unix.Ftruncate(fd, 0)
	}
	return done, err
}

// update writes to a clone the blocks in which the entry's contents differ. It
// compares the clone, which nobody else writes to, and not the file that was
// cloned, which a program may be writing to. It reports false, and leaves the clone
// with some of the contents, if most of a large file differs, so that it is faster
// to write it without reading the clone, and if a sparse file differs at all, since
// holes cannot be written. It adds to counted what it has updated.
func (c *cloner) update(ctx context.Context, fd int, from contents, e *archive.Entry, counted *progress.Step) (done bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if d := digestsOf(from); d != nil && e.Segments() == nil && st.Size == e.Size {
		if same, err := d.Same(ctx, fd, e.Offset, e.Size); err != nil {
			return false, err
		} else if same {
			c.bytes.Add(e.Size)
			counted.AddBytes(e.Size)
			return true, nil
		}
	}
	if e.Segments() != nil {
		same := st.Size == e.Size
		if same {
			same, err = sameContents(ctx, fd, from, e, counted)
		}
		if same {
			c.bytes.Add(e.StoredSize())
		}
		return same, err
	}
	if st.Size > e.Size {
		if err := unix.Ftruncate(fd, e.Size); err != nil {
			return false, err
		}
	}
	data, err := from.open(e)
	if err != nil {
		return false, err
	}
	defer data.Close()
	buf := compareBuffers.Get().(*[64 << 10]byte)
	defer compareBuffers.Put(buf)
	var written int64
	for at := int64(0); at < e.Size; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		want, err := data.bytes(e.Offset+at, int(min(int64(len(buf)), e.Size-at)))
		if err != nil {
			return false, fmt.Errorf("read what is to be written: %w", err)
		}
		have := buf[:max(0, min(int64(len(want)), st.Size-at))]
		if full, err := unixfs.ReadAt(fd, have, at); err != nil || !full {
			return false, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		n, err := writeDiffering(fd, want, have, at)
		if err != nil {
			return false, err
		}
		written += n
		at += int64(len(want))
		counted.AddBytes(int64(len(want)))
		if at >= 1<<20 && written > at/2 {
			counted.AddBytes(-at) // it will be copied
			return false, nil
		}
	}
	c.bytes.Add(e.Size - written)
	return true, nil
}

// writeDiffering writes the blocks of want that differ from have to the file fd at
// offset, a multiple of blockSize, and returns how many bytes these are.
func writeDiffering(fd int, want, have []byte, offset int64) (written int64, err error) {
	block := func(b []byte, i int) []byte { return b[min(i, len(b)):min(i+blockSize, len(b))] }
	for start := 0; start < len(want); {
		end := start
		for end < len(want) && !bytes.Equal(block(want, end), block(have, end)) {
			end += blockSize
		}
		if end == start {
			start += blockSize
			continue
		}
		b := want[start:min(end, len(want))]
		if err := unixfs.WriteAt(fd, b, offset+int64(start)); err != nil {
			return written, err
		}
		written += int64(len(b))
		start = end
	}
	return written, nil
}
