package archive

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// tarStream reads a tar once, from its start to its end. While it reads, it
// copies the tar to copyTo, unless that is nil.
type tarStream struct {
	input  *aheadReader
	copyTo *unixfs.StripedFile
	copied int64

	unread []byte // the part of the input's last buffer that is not consumed yet
	pos    int64  // in the tar, of the first byte of unread
	buf    []byte // a block that extends over two buffers

	// checkHeaders returns an error if the headers of an entry must not extend to a
	// position. nil is no limit.
	checkHeaders func(pos int64) error

	// What extends or overrides the header of the next entry.
	local              records // of its PAX header
	global             records // of the last global PAX header, for all entries after it
	longName, longLink []byte  // nil if there is none
}

// next reads the headers of the next entry, up to its data. The error is io.EOF
// at the end of the archive.
func (s *tarStream) next(h *header) error {
	start := s.pos
	s.local.list, s.longName, s.longLink = s.local.list[:0], nil, nil
	for {
		at := s.pos
		block, err := s.block()
		if err == io.EOF {
			return s.missingHeader(at)
		}
		if err != nil {
			return err
		}
		if isZeroBlock(block) {
			return s.endMark()
		}
		copy(h.block[:], block)
		if !h.checkSum() {
			if at == 0 {
				return errNotTar
			}
			return fmt.Errorf("archive is corrupt: there is no header at byte %d of the tar", at)
		}
		extends, err := s.readExtension(h)
		if err != nil {
			return s.headerError(start, err)
		}
		if extends {
			continue
		}
		if err := s.decode(h); err != nil {
			return s.headerError(start, fmt.Errorf("entry %q: %w", h.name, err))
		}
		return nil
	}
}

// headerError returns the error for headers that begin at start and cannot be read
// because of err.
func (s *tarStream) headerError(start int64, err error) error {
	switch {
	case Hopeless(err): // a limit that is exceeded, or a full disk
		return err
	case errors.As(err, new(limitError)):
		return hopelessError{fmt.Errorf("archive: at byte %d of the tar: %w", start, err)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("archive: at byte %d of the tar: %w", start, err)
	}
	return fmt.Errorf("archive is corrupt: at byte %d of the tar: %w", start, err)
}

// readExtension reads what follows a block that extends the next header. It
// reports false for a block that is an entry's own. If there are several of one
// type, the last one counts, as with tar(1).
func (s *tarStream) readExtension(h *header) (extends bool, err error) {
	var size int64
	switch h.blockType() {
	case typePAX, typeSolarisPAX, typeGlobalPAX, typeLongName, typeLongLink:
		if size, err = h.dataSize(); err == nil && size > math.MaxInt64/2-s.pos {
			err = impossibleSize(size)
		}
		if err == nil && s.checkHeaders != nil {
			err = s.checkHeaders(s.pos + size) // it may be a bomb of terabytes
		}
		if err != nil {
			return true, err
		}
	}
	switch h.blockType() {
	case typePAX, typeSolarisPAX:
		return true, s.local.read(s, size)
	case typeGlobalPAX: // git archive stores the commit id in one
		return true, s.global.read(s, size)
	case typeLongName:
		s.longName, err = s.longText(size)
		return true, err
	case typeLongLink:
		s.longLink, err = s.longText(size)
		return true, err
	}
	return false, nil
}

// impossibleSize is the error for data that would end beyond the largest offset that
// fits into an int64.
func impossibleSize(size int64) error { return fmt.Errorf("its size %d is impossible", size) }

// longText reads a name of size bytes. It cuts off what is longer than a path can
// be, because such a file cannot be created anyway.
func (s *tarStream) longText(size int64) ([]byte, error) {
	b, err := s.appendBytes([]byte{}, int(min(size, unix.PathMax)))
	if err != nil {
		return nil, err
	}
	return untilNUL(b), s.discard(size - int64(len(b)) + padding(size))
}

// decode decodes an entry's own header, applies what extends it, and reads the
// map of a sparse file that follows.
func (s *tarStream) decode(h *header) error {
	err := h.decode()
	if s.longName != nil {
		h.name = s.longName
	}
	if s.longLink != nil {
		h.target = s.longLink
	}
	if err != nil {
		return err
	}
	if err := s.global.apply(h); err != nil {
		return fmt.Errorf("global header: %w", err)
	}
	if err := s.local.apply(h); err != nil {
		return err
	}
	if err := s.readSparseMap(h); err != nil {
		return fmt.Errorf("sparse file: %w", err)
	}
	if h.size > math.MaxInt64/2-s.pos {
		return impossibleSize(h.size)
	}
	return nil
}

var errNotTar = hopelessError{errors.New("not a tar archive, nor one compressed by gzip, bzip2, xz or zstd")}

// limitError is the reason why headers are refused that tar(1) would accept.
type limitError string

func (e limitError) Error() string { return string(e) }

// missingHeader returns the error for an input that ends before or amid the
// header block that begins at start.
func (s *tarStream) missingHeader(start int64) error {
	switch {
	case s.pos == 0:
		return io.EOF // an archive without entries
	case start == 0:
		return errNotTar // less than a block
	}
	// tar(1) accepts a tar without an end mark. But most likely such a tar has
	// been cut off between two files, and a deployment would delete the missing
	// ones from dest.
	return fmt.Errorf("its end is not marked by blocks of zeros: %w", io.ErrUnexpectedEOF)
}

// endMark reads the second of the two blocks of zeros that mark the end of a
// tar, and returns io.EOF. Like tar(1), it accepts a tar with one such block,
// and warns if something else follows it.
func (s *tarStream) endMark() error {
	block, err := s.block()
	if err != nil && err != io.EOF {
		return err
	}
	if len(block) > 0 && !isZeroBlock(block) {
		log.Printf("[WARN] the archive ends with a lone zero block")
	}
	return io.EOF
}

// isZeroBlock reports whether b is a whole block of zeros.
func isZeroBlock(b []byte) bool {
	return len(b) == blockSize && [blockSize]byte(b) == [blockSize]byte{}
}

// block reads the next block. It is valid until more is read. The error is io.EOF
// at the end of the input, also amid a block.
func (s *tarStream) block() ([]byte, error) {
	if len(s.unread) < blockSize {
		var err error
		s.buf, err = s.appendBytes(s.buf[:0], blockSize)
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return s.buf, err
	}
	b := s.unread[:blockSize]
	s.consume(blockSize)
	return b, nil
}

// appendBytes appends the next n bytes to b.
func (s *tarStream) appendBytes(b []byte, n int) ([]byte, error) {
	for n > 0 {
		if err := s.fill(); err != nil {
			return b, noEOF(err)
		}
		part := min(n, len(s.unread))
		b = append(b, s.unread[:part]...)
		s.consume(part)
		n -= part
	}
	return b, nil
}

// padding returns how many bytes fill up the last block of size bytes.
func padding(size int64) int64 { return -size & (blockSize - 1) }

// discard passes over n bytes.
func (s *tarStream) discard(n int64) error {
	for n > 0 {
		if err := s.fill(); err != nil {
			return noEOF(err)
		}
		part := min(n, int64(len(s.unread)))
		s.consume(int(part))
		n -= part
	}
	return nil
}

// readToEnd reads the rest of the input, at whose end a decompressor verifies
// its checksum. Like tar(1), it ignores whatever follows the end of the tar.
func (s *tarStream) readToEnd() error {
	for {
		if _, err := s.input.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// fill makes sure that unread is not empty. The error is io.EOF at the end of
// the input.
func (s *tarStream) fill() error {
	if len(s.unread) > 0 {
		return nil
	}
	b, err := s.input.next()
	if err != nil {
		return err
	}
	if s.copyTo != nil {
		if _, err := s.copyTo.WriteAt(b, s.copied); err != nil {
			err = unixfs.TempSpaceError("what it unpacks to", err, s.copied+int64(len(b)))
			return hopelessError{fmt.Errorf("unpack the archive: %w", err)}
		}
		s.copied += int64(len(b))
	}
	s.unread = b
	return nil
}

func (s *tarStream) consume(n int) {
	s.unread = s.unread[n:]
	s.pos += int64(n)
}

// noEOF returns err, or io.ErrUnexpectedEOF for io.EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
