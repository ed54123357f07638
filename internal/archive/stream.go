package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"log"
	"strconv"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// blockSize is the unit of a tar in bytes: a header is a block, and data is
	// padded to whole blocks ("Basic Tar Format" in the GNU tar manual).
	blockSize = 512

	// maxHeaders limits the bytes of one entry's headers. archive/tar accepts
	// up to 1 MiB each of PAX records, a long name, a long link target and a
	// sparse map.
	maxHeaders = 5 << 20
)

// tarStream reads a tar once, from its start to its end. While it reads, it
// copies the tar to copyTo, unless that is nil.
type tarStream struct {
	input  *aheadReader
	copyTo *unixfs.StripedFile
	copied int64

	unread []byte // the part of the input's last buffer that is not consumed yet
	pos    int64  // in the tar, of the first byte of unread

	// The headers of the entry that next was last called for, as they are in
	// the tar: the blocks that extend its header, the header itself, and the
	// sparse map that may follow it. The first handed bytes of them have been
	// passed to archive/tar.
	headers []byte
	handed  int
	parser  tar.Reader
}

// next reads the headers of the next entry, up to its data. The error is io.EOF
// at the end of the archive.
//
// It reads the first block of the headers by itself. That block tells where the
// archive ends, and archive/tar does not report in which way it ended. Then
// archive/tar parses that block, and reads on through s.Read if the block
// announces more of them: PAX records, a long name or link target, the header
// that these extend, and sparse maps.
func (s *tarStream) next() (*tar.Header, error) {
	start := s.pos
	s.headers, s.handed = s.headers[:0], 0
	for len(s.headers) < blockSize {
		if err := s.readHeader(blockSize - len(s.headers)); err == io.EOF {
			return nil, s.missingHeader(start)
		} else if err != nil {
			return nil, err
		}
	}
	if isZeroBlock(s.headers) {
		return nil, s.endMark()
	}
	// A tar.Reader that is used for a second entry skips the data of the first
	// one through s.Read, which could not tell that data from headers. So every
	// entry has a new Reader, in the memory of the previous one.
	s.parser = *tar.NewReader(s)
	hdr, err := s.parser.Next()
	switch {
	case err == nil:
		return hdr, nil
	case s.input.err != nil && s.input.err != io.EOF:
		return nil, s.input.err // the input is damaged, hence what looks like a header
	case errors.Is(err, tar.ErrHeader) && start == 0:
		return nil, errNotTar
	case errors.Is(err, tar.ErrHeader):
		return nil, fmt.Errorf("archive is corrupt: at byte %d of the tar: %w", start, err)
	case err == io.EOF:
		return nil, io.ErrUnexpectedEOF // between an extending header and the header it extends
	}
	return nil, err
}

var errNotTar = errors.New("not a tar archive, nor one compressed by gzip, bzip2, xz or zstd")

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
	s.headers = s.headers[:0]
	for len(s.headers) < blockSize {
		err := s.readHeader(blockSize - len(s.headers))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(s.headers) > 0 && !isZeroBlock(s.headers) {
		log.Printf("[WARN] the archive ends with a lone zero block")
	}
	return io.EOF
}

// isZeroBlock reports whether b is a whole block of zeros.
func isZeroBlock(b []byte) bool {
	return len(b) == blockSize && [blockSize]byte(b) == [blockSize]byte{}
}

// Read passes header blocks to archive/tar: first the ones that are in
// s.headers, then more of the stream, which it adds to them.
func (s *tarStream) Read(p []byte) (int, error) {
	if s.handed == len(s.headers) {
		if err := s.readHeader(len(p)); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.headers[s.handed:])
	s.handed += n
	return n, nil
}

// readHeader moves at least one and at most n bytes from the stream to
// s.headers.
func (s *tarStream) readHeader(n int) error {
	if err := s.fill(); err != nil {
		return err
	}
	if len(s.headers)+n > maxHeaders {
		return errors.New("tar header is too large")
	}
	n = min(n, len(s.unread))
	s.headers = append(s.headers, s.unread[:n]...)
	s.consume(n)
	return nil
}

// storedData returns how many bytes of data follow the headers that next has
// read. For a sparse file, which may consist of fewer bytes than hdr.Size, it
// also returns where in the file they belong.
func (s *tarStream) storedData(hdr *tar.Header) (stored int64, segments []Segment, err error) {
	switch hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0, nil, nil // they have no data, whatever the size in their header is
	}
	segments, sparse, err := sparseMap(hdr, s.headers)
	if err != nil {
		return 0, nil, err
	}
	stored = hdr.Size
	if sparse {
		stored = 0
		for _, seg := range segments {
			stored += seg.Length
		}
	}
	if stored < 0 || s.pos+stored+blockSize < 0 {
		return 0, nil, fmt.Errorf("impossible size %d", stored)
	}
	return stored, segments, nil
}

// skip passes over size bytes of data and the padding after them.
func (s *tarStream) skip(size int64) error {
	end := (s.pos + size + blockSize - 1) &^ (blockSize - 1)
	for s.pos < end {
		if err := s.fill(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		s.consume(int(min(end-s.pos, int64(len(s.unread)))))
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
			return fmt.Errorf("unpack the archive: %w", unixfs.TempSpaceError("what it unpacks to", err, s.copied+int64(len(b))))
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

// applyGlobalHeader gives an entry the owner and the time from the last global
// PAX header before it, unless the entry's own PAX header overrides them
// (POSIX.1, pax, "pax Extended Header"). It ignores all other records, the names
// of users and groups among them, as tar(1) does.
func applyGlobalHeader(hdr *tar.Header, global map[string]string) error {
	for key, value := range global {
		if _, overridden := hdr.PAXRecords[key]; overridden || value == "" {
			continue
		}
		var err error
		switch key {
		case "uid":
			hdr.Uid, err = strconv.Atoi(value)
			hdr.Uname = ""
		case "gid":
			hdr.Gid, err = strconv.Atoi(value)
			hdr.Gname = ""
		case "mtime":
			hdr.ModTime, err = parsePAXTime(value)
		}
		if err != nil {
			return fmt.Errorf("global header: %s: %w", key, err)
		}
	}
	return nil
}

// parsePAXTime parses seconds since the epoch, with an optional fraction of
// which nanoseconds are kept.
func parsePAXTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var nsec int64
	if fraction != "" {
		if nsec, err = strconv.ParseInt((fraction + "000000000")[:9], 10, 64); err != nil {
			return time.Time{}, err
		}
	}
	if strings.HasPrefix(whole, "-") {
		nsec = -nsec
	}
	return time.Unix(sec, nsec), nil
}
