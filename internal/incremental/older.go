package incremental

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// older is the directory of an older version of the tree, which may not exist.
type older struct {
	path string

	mu   sync.Mutex
	fd   int // -1 if it is not open
	free []*reader
}

// reader reads files of the older tree. Each is used by one goroutine at a time.
type reader struct {
	walker *unixfs.Walker
	err    error  // of opening the directory
	buf    []byte // of MaxChunk bytes
}

// OpenRegular is that of the Walker.
func (r *reader) OpenRegular(path string, st *unix.Stat_t) (fd int, err error) {
	if r.err != nil {
		return -1, r.err
	}
	return r.walker.OpenRegular(path, st)
}

func openOlder(path string) (*older, error) {
	o := &older{path: path, fd: -1}
	if err := o.open(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return o, nil
}

// open opens the directory.
func (o *older) open() (err error) {
	// Without O_NOFOLLOW: a dest may be a symbolic link.
	if o.fd, err = unixfs.Openat(unix.AT_FDCWD, o.path, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		o.fd = -1
		return &os.PathError{Op: "open", Path: o.path, Err: err}
	}
	return nil
}

// reader returns a reader, which the caller gives back by done. It opens the directory
// if that is closed.
func (o *older) reader() *reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := len(o.free) - 1; last >= 0 {
		r := o.free[last]
		o.free = o.free[:last]
		return r
	}
	r := &reader{buf: make([]byte, seekable.MaxChunk)}
	if o.fd < 0 {
		r.err = o.open()
	}
	r.walker = unixfs.NewWalker(o.fd)
	return r
}

func (o *older) done(r *reader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.free = append(o.free, r)
}

// close closes the directory until the next call of reader. No reader may be in use.
func (o *older) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.free {
		r.walker.Close()
	}
	o.free = nil
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
	o.fd = -1
}

// eachWith calls work for the numbers from 0 to n-1, on all processors, until ctx has
// ended or work returns an error, which eachWith returns. Neighbouring numbers mostly
// go to the same reader, because their files are mostly in the same directory.
func (o *older) eachWith(ctx context.Context, n int, work func(i int, r *reader) error) error {
	const batch = 32
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var working sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+batch-1)/batch) {
		working.Go(func() {
			r := o.reader()
			defer o.done(r)
			for {
				end := int(next.Add(batch))
				for i := end - batch; i < min(end, n); i++ {
					if ctx.Err() != nil {
						return
					}
					if err := work(i, r); err != nil {
						cancel(err) // the first one counts
						return
					}
				}
				if end >= n {
					return
				}
			}
		})
	}
	working.Wait()
	return context.Cause(ctx)
}

// haveSums reports whether an open file has pieces, the first of which is at offset
// in the file. They are read by buf, of at least MaxChunk bytes.
func haveSums(ctx context.Context, fd int, offset int64, pieces []seekable.Piece, buf []byte) (bool, error) {
	for i := range pieces {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		p := &pieces[i]
		b := buf[:p.Size]
		if full, err := unixfs.ReadAt(fd, b, offset); err != nil || !full || seekable.SumOf(b) != p.Sum {
			return false, err
		}
		offset += p.Size
	}
	return true, nil
}

// readPiece fills b with a piece from an open file, and verifies it.
func readPiece(fd int, offset int64, p *seekable.Piece, b []byte) error {
	full, err := unixfs.ReadAt(fd, b, offset)
	if err != nil {
		return err
	}
	if !full {
		return io.ErrUnexpectedEOF
	}
	if seekable.SumOf(b) != p.Sum {
		return errPiece
	}
	return nil
}

var errPiece = errors.New("contents do not have the digest that the archive's index says")

// unchanging recognizes files that have not changed since they were read. nil
// recognizes none.
type unchanging struct {
	seed  maphash.Seed
	start time.Time // of reading
}

func newUnchanging() *unchanging { return &unchanging{maphash.MakeSeed(), time.Now()} }

// settled is how old the last change of a file must be when it is read, so that a
// change after that gets another time. The times of some file systems are multiples
// of 2 seconds.
const settled = 3 * time.Second

// mark returns a number that stands for the file and its last change (st_ctime of
// stat(2), which cannot be set), or 0 if the last change is too recent. st must be
// from before the file is read.
func (u *unchanging) mark(st *unix.Stat_t) uint64 {
	if u == nil || u.start.Sub(time.Unix(st.Ctim.Unix())) < settled {
		return 0
	}
	return maphash.Comparable(u.seed, [...]int64{int64(st.Dev), int64(st.Ino), st.Size, st.Ctim.Nano(), st.Mtim.Nano()}) | 1
}

// readError is the error of a file of the older tree that was there and cannot be read
// any more because of err. It has ErrChanged in it if the file has changed. Against
// other errors, such as too many open files or a broken disk, it would not help to
// download the whole archive.
func readError(path string, err error) error {
	if hasChanged(err) {
		return fmt.Errorf("%s %w: %w", path, ErrChanged, err)
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// hasChanged reports whether reading a file failed because the file is not what it was.
func hasChanged(err error) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return true // its type, its size or its contents are other ones
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, // something else is in its place, or in that of its directory
		unix.ENXIO,              // a socket is in its place
		unix.EACCES, unix.EPERM, // its mode is another one
		unix.ESTALE: // it was removed from a network file system
		return true
	}
	return false
}
