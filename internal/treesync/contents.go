package treesync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// contents is where the bytes of a tree's regular files are.
type contents interface {
	// open returns a window on the file that holds the entry's bytes, which
	// begin at the entry's offset. The caller closes the window.
	open(e *archive.Entry) (*window, error)
}

// archiveContents are the contents of an archive: all in one file, its tar.
type archiveContents struct{ tar io.ReaderAt }

func (c archiveContents) open(e *archive.Entry) (*window, error) {
	w := windows.Get().(*window)
	if w.file != c.tar {
		w.file, w.size = c.tar, 0
	}
	w.end = math.MaxInt64
	if digestsOf(c) != nil {
		w.end = e.Offset + e.StoredSize() // the next file's contents may be anywhere
	}
	return w, nil
}

// digests is implemented by a tar of which the digests of all contents are known, so
// that files are compared with it without reading it.
type digests interface {
	// Unchanged reports whether a file is known to have the contents that begin at
	// an offset of the tar, without reading it.
	Unchanged(offset int64, st *unix.Stat_t) bool
	// Same reports whether an open file begins with size bytes of the tar from
	// offset on, which are the contents of a file that is not sparse.
	Same(ctx context.Context, fd int, offset, size int64) (bool, error)
}

// digestsOf returns the digests of contents, nil if they are not known.
func digestsOf(c contents) digests {
	if a, ok := c.(archiveContents); ok {
		if d, ok := a.tar.(digests); ok {
			return d
		}
	}
	return nil
}

// dirContents are the contents of a tree that readTree made: each file's are in
// a file of its own, whose path below the root is the entry's Target.
type dirContents struct{ root *os.Root }

func (c dirContents) open(e *archive.Entry) (*window, error) {
	file, err := c.root.Open(e.Target())
	if err != nil {
		return nil, err
	}
	w := windows.Get().(*window)
	w.file, w.closer, w.size, w.end = file, file, 0, math.MaxInt64
	return w, nil
}

// window is a part of a file in memory. It goes back to a pool with what it has
// read. Small files follow one another in a tar, so the next window on the same
// file often has the next file's bytes already, and one read serves many files.
type window struct {
	file   io.ReaderAt
	closer io.Closer // the file, if it is to be closed with the window
	buf    [128 << 10]byte
	offset int64 // of buf in the file
	size   int   // how many bytes of buf were read
	end    int64 // in the file, of what is read
}

var windows = sync.Pool{New: func() any { return new(window) }}

// bytes returns n bytes of the file from offset on, n being at most len(w.buf).
// They are valid until the next call.
func (w *window) bytes(offset int64, n int) ([]byte, error) {
	if offset < w.offset || offset+int64(n) > w.offset+int64(w.size) {
		var err error
		w.offset = offset
		if w.size, err = w.file.ReadAt(w.buf[:min(int64(len(w.buf)), w.end-offset)], offset); w.size < n {
			return nil, err
		}
	}
	return w.buf[offset-w.offset:][:n], nil
}

func (w *window) Close() error {
	var err error
	if w.closer != nil {
		err = w.closer.Close()
		w.file, w.closer = nil, nil
	}
	windows.Put(w)
	return err
}

// newReader returns a reader of a regular file's bytes, from the first to the
// last. It does not support sparse files.
func newReader(c contents, e *archive.Entry) (io.ReadCloser, error) {
	w, err := c.open(e)
	if err != nil {
		return nil, err
	}
	if e.Segments() != nil {
		w.Close()
		return nil, errors.New("is a sparse file")
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(w.file, e.Offset, e.Size), w}, nil
}

// copyContents writes the entry's bytes to a new file and leaves its holes. It adds
// them to counted.
func copyContents(ctx context.Context, fd int, c contents, e *archive.Entry, counted *progress.Step) error {
	segments := e.Segments()
	if segments == nil {
		segments = []archive.Segment{{Offset: 0, Length: e.Size}}
	} else if err := unix.Ftruncate(fd, e.Size); err != nil {
		return err
	}
	data, err := c.open(e)
	if err != nil {
		return err
	}
	defer data.Close()
	from := e.Offset
	for _, seg := range segments {
		for done := int64(0); done < seg.Length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, err := data.bytes(from, int(min(int64(len(data.buf)), seg.Length-done)))
			if err != nil {
				return fmt.Errorf("read what is to be written: %w", err)
			}
			if err := unixfs.WriteAt(fd, b, seg.Offset+done); err != nil {
				return err
			}
			counted.AddBytes(int64(len(b)))
			from += int64(len(b))
			done += int64(len(b))
		}
	}
	return nil
}

// compareBuffers hold what is read of files in dest.
var compareBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// sameContents reports whether an open file has the entry's bytes, and adds them to
// counted if so. It must have the entry's size.
func sameContents(ctx context.Context, fd int, c contents, e *archive.Entry, counted *progress.Step) (same bool, err error) {
	if e.Size == 0 {
		return true, nil
	}
	if d := digestsOf(c); d != nil && e.Segments() == nil {
		if same, err = d.Same(ctx, fd, e.Offset, e.Size); same {
			counted.AddBytes(e.Size)
		}
		return same, err
	}
	data, err := c.open(e)
	if err != nil {
		return false, err
	}
	defer data.Close()
	buf := compareBuffers.Get().(*[64 << 10]byte)
	defer compareBuffers.Put(buf)
	stored := e.Segments()
	if stored == nil {
		stored = []archive.Segment{{Offset: 0, Length: e.Size}}
	}
	// The empty segment at the end stands for the hole before it.
	segments := append(stored[:len(stored):len(stored)], archive.Segment{Offset: e.Size})
	var end int64 // of the segment before
	from := e.Offset
	defer func() {
		if !same {
			counted.AddBytes(e.Offset - from) // it will be copied, or linked
		}
	}()
	for _, seg := range segments {
		if empty, err := isHole(ctx, fd, end, seg.Offset, buf[:]); err != nil || !empty {
			return false, err
		}
		end = seg.Offset + seg.Length
		for at := seg.Offset; at < end; {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			have := buf[:min(int64(len(buf)), end-at)]
			want, err := data.bytes(from, len(have))
			if err != nil {
				return false, fmt.Errorf("read what is to be compared: %w", err)
			}
			if full, err := unixfs.ReadAt(fd, have, at); err != nil || !full || !bytes.Equal(have, want) {
				return false, err
			}
			counted.AddBytes(int64(len(have)))
			from += int64(len(have))
			at += int64(len(have))
		}
	}
	return true, nil
}

// isHole reports whether an open file has nothing but zeros from start to end.
// It asks the file system for holes, since reading a large one takes long.
func isHole(ctx context.Context, fd int, start, end int64, buf []byte) (bool, error) {
	for start < end {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		data, err := unix.Seek(fd, start, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && data >= end {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		b := buf[:min(int64(len(buf)), end-data)]
		if full, err := unixfs.ReadAt(fd, b, data); err != nil || !full || len(bytes.Trim(b, "\x00")) > 0 {
			return false, err
		}
		start = data + int64(len(b))
	}
	return true, nil
}
