package incremental

import (
	"context"
	"errors"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// ErrChanged is in the error of reading an archive if the older tree does not have
// contents any more that it had. Nothing else is wrong with the archive.
var ErrChanged = errors.New("has changed while it was deployed")

// scattered is the tar that an index describes. The contents of files that the older
// tree has at the same paths stay there until they are read. All others are in a file of
// the size of the tar, at their offsets. What is between the contents is nowhere: it has
// been read already, and reads as zeros.
type scattered struct {
	index *seekable.Index
	files []file // in the order of the tar
	older *older
	tar   *os.File

	toWrite    int64       // bytes that are to be written to tar in all
	unchanging *unchanging // nil if the older tree may change between search and use
	buffers    sync.Pool   // of *pieceBuffer
}

// tempContents is what tar contains, as errors of a full disk call it.
const tempContents = "what is fetched or copied from dest"

// write writes contents to the temporary file, at an offset of the tar.
func (s *scattered) write(b []byte, offset int64) error {
	_, err := s.tar.WriteAt(b, offset)
	return unixfs.TempSpaceError(tempContents, err, s.toWrite)
}

// pieceBuffer has a piece that has been verified.
type pieceBuffer struct {
	piece int32 // its number, or -1 if there is none
	buf   [seekable.MaxChunk]byte
}

// pieces returns the pieces of a file.
func (s *scattered) pieces(f *file) []seekable.Piece { return s.index.Pieces[f.first : f.last+1] }

// start returns where a file begins in the tar.
func (s *scattered) start(f *file) int64 { return s.index.Pieces[f.first].Offset }

// end returns where a file ends in the tar.
func (s *scattered) end(f *file) int64 {
	last := &s.index.Pieces[f.last]
	return last.Offset + last.Size
}

// fileAt returns the number of the first file that ends after an offset.
func (s *scattered) fileAt(offset int64) int {
	return sort.Search(len(s.files), func(i int) bool { return s.end(&s.files[i]) > offset })
}

// ReadAt reads the tar. What comes from the older tree is verified each time; if it
// is not what it was, the error has ErrChanged in it.
func (s *scattered) ReadAt(p []byte, offset int64) (n int, err error) {
	for i := s.fileAt(offset); n < len(p) && err == nil; i++ {
		for i < len(s.files) && !s.files[i].kept && s.start(&s.files[i])-offset < int64(len(p)-n) {
			i++
		}
		plain := p[n:] // up to the next file that is in the older tree
		if i < len(s.files) {
			plain = plain[:min(int64(len(plain)), max(0, s.start(&s.files[i])-offset))]
		}
		var more int
		more, err = s.tar.ReadAt(plain, offset)
		n, offset = n+more, offset+int64(more)
		if err == nil && n < len(p) {
			more, err = s.readKept(p[n:], offset, &s.files[i])
			n, offset = n+more, offset+int64(more)
		}
	}
	return n, err
}

// readKept reads a part of a file that is in the older tree, from an offset in the
// tar up to its end.
func (s *scattered) readKept(p []byte, offset int64, f *file) (n int, err error) {
	r := s.older.reader()
	defer s.older.done(r)
	var st unix.Stat_t
	fd, err := r.OpenRegular(f.path, &st)
	if err != nil {
		return 0, readError(f.path, err)
	}
	defer unix.Close(fd)
	p = p[:min(int64(len(p)), s.end(f)-offset)]
	first := int(f.first) + sort.Search(int(f.last-f.first), func(i int) bool { return s.index.Pieces[int(f.first)+i+1].Offset > offset })
	for i := first; n < len(p); i++ {
		piece := &s.index.Pieces[i]
		within, at := offset-piece.Offset, piece.Offset-s.start(f)
		if within == 0 && int64(len(p)-n) >= piece.Size {
			err = readPiece(fd, at, piece, p[n:n+int(piece.Size)])
			n += int(piece.Size)
		} else {
			b := s.buffer()
			if b.piece != int32(i) {
				b.piece = -1
				if err = readPiece(fd, at, piece, b.buf[:piece.Size]); err == nil {
					b.piece = int32(i)
				}
			}
			n += copy(p[n:], b.buf[within:piece.Size])
			s.buffers.Put(b)
		}
		if err != nil {
			return 0, readError(f.path, err)
		}
		offset = piece.Offset + piece.Size
	}
	return n, nil
}

// buffer returns a buffer, which may have a piece from an earlier call.
func (s *scattered) buffer() *pieceBuffer {
	if b, ok := s.buffers.Get().(*pieceBuffer); ok {
		return b
	}
	return &pieceBuffer{piece: -1}
}

// Unchanged reports whether a file is the one of the older tree that was found to have
// the contents that begin at an offset of the tar, and has not changed since.
func (s *scattered) Unchanged(offset int64, st *unix.Stat_t) bool {
	if s.unchanging == nil {
		return false
	}
	i := s.fileAt(offset)
	if i == len(s.files) {
		return false
	}
	f := &s.files[i]
	return f.kept && f.mark != 0 && s.start(f) == offset && f.mark == s.unchanging.mark(st)
}

// Same reports whether an open file begins with size bytes of the tar from offset on,
// the contents of a file, by their digests.
func (s *scattered) Same(ctx context.Context, fd int, offset, size int64) (bool, error) {
	i := s.fileAt(offset)
	if i == len(s.files) || s.start(&s.files[i]) != offset || s.end(&s.files[i]) != offset+size {
		return false, errors.New("no file of the archive has these contents")
	}
	r := s.older.reader()
	defer s.older.done(r)
	return haveSums(ctx, fd, 0, s.pieces(&s.files[i]), r.buf)
}

// Close closes the older tree, and frees the contents that it did not have.
func (s *scattered) Close() error {
	if s.older != nil {
		s.older.close()
	}
	if s.tar == nil {
		return nil
	}
	return s.tar.Close()
}
