package archive

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

const (
	maxNumber  = 1 << 10  // bytes of a number
	maxRecords = 32 << 20 // bytes of memory for what is kept of a PAX header
)

// keptBytes returns how many bytes of the value of a PAX record are kept at most: 0
// for a record that does not matter for extracting a file (pax in POSIX.1, "pax
// Extended Header"; "Storing Sparse Files" in the GNU tar manual). Like tar(1), this
// package ignores uname and gname: the owner's names are those in the header block.
func keptBytes(key string) int {
	switch key {
	case "path", "linkpath", "GNU.sparse.name":
		return unix.PathMax // a longer name cannot be created
	case "size", "uid", "gid", "mtime", "atime", "ctime",
		"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.size", "GNU.sparse.realsize",
		"GNU.sparse.numblocks", "GNU.sparse.offset", "GNU.sparse.numbytes":
		return maxNumber
	case "GNU.sparse.map":
		return maxSparseMap
	}
	return 0
}

// records are the records of a PAX header that matter, in the order of the
// header.
type records struct {
	list []record
	data []byte // the values
}

type record struct {
	key        string
	start, end int // of the value in data
}

// malformedError says what is wrong with a PAX header, which tar(1) refuses, too.
type malformedError string

func (e malformedError) Error() string { return "malformed PAX header: " + string(e) }

// read replaces the records by those of the PAX header of size bytes that
// follows in the stream. Records that do not matter are skipped, however long they
// are. Like tar(1), read takes a NUL in the place of a record for the end of the
// header.
func (r *records) read(s *tarStream, size int64) error {
	r.list, r.data = r.list[:0], r.data[:0]
	end := s.pos + size
	for s.pos < end {
		start := s.pos
		c, err := s.skipBlanks(end)
		if err != nil {
			return err
		}
		if c == 0 {
			break
		}
		length, err := s.recordLength(end)
		if err != nil {
			return err
		}
		if length > end-start {
			return malformedError("the length of a record is out of range")
		}
		if err := r.readRecord(s, start+length); err != nil {
			return err
		}
	}
	return s.discard(end - s.pos + padding(size))
}

// readRecord reads a record from its key on. next is the position of the next one.
func (r *records) readRecord(s *tarStream, next int64) error {
	const longest = 32 // of the keys that matter
	var buf [longest]byte
	key := buf[:0]
	for {
		c, err := s.readByte(next)
		if err == errEnd || c == 0 && err == nil {
			return malformedError("a record has no equal sign")
		}
		if err != nil {
			return err
		}
		if c == '=' {
			break
		}
		if len(key) < longest {
			key = append(key, c)
		}
	}
	length := next - 1 - s.pos
	if length < 0 {
		return malformedError("a record has no newline")
	}
	if limit := keptBytes(string(key)); limit > 0 {
		if err := r.keep(s, string(key), length, limit); err != nil {
			return err
		}
	}
	if err := s.discard(next - 1 - s.pos); err != nil {
		return err
	}
	if c, err := s.readByte(next); err != nil {
		return err
	} else if c != '\n' {
		return malformedError("a record has no newline")
	}
	return nil
}

// keep adds a record whose value of length bytes follows in the stream. At most limit
// bytes of it are kept.
func (r *records) keep(s *tarStream, key string, length int64, limit int) error {
	kept := int(min(length, int64(limit)))
	const memory = 64 // of an element of the list
	if len(r.data)+kept+memory*len(r.list) > maxRecords {
		return limitError("its PAX header has more than 32 MiB of records that matter: pack the file without -S (--sparse)")
	}
	start := len(r.data)
	var err error
	if r.data, err = s.appendBytes(r.data, kept); err != nil {
		return err
	}
	// Like tar(1), let a NUL end a value. git archive writes what follows a NUL in
	// the target of a symbolic link.
	value := untilNUL(r.data[start:])
	if length > int64(limit) && len(value) == limit && limit != unix.PathMax {
		return limitError(fmt.Sprintf("its PAX record %s has more than %s, the limit: pack the file without -S (--sparse), or in another format", key, humanize.IBytes(uint64(limit))))
	}
	r.list = append(r.list, record{key, start, start + len(value)})
	return nil
}

// recordLength reads the decimal length of a record, and the blanks after it.
func (s *tarStream) recordLength(end int64) (n int64, err error) {
	for digits := 0; ; digits++ {
		c, err := s.peekByte(end)
		if err != nil && err != errEnd {
			return 0, err
		}
		if err == errEnd || c < '0' || c > '9' {
			if digits == 0 {
				return 0, malformedError("a record has no length")
			}
			before := s.pos
			if _, err := s.skipBlanks(end); err != nil {
				return 0, err
			}
			if s.pos == before {
				return 0, malformedError("a record has no blank after its length")
			}
			return n, nil
		}
		s.consume(1)
		if n = 10*n + int64(c-'0'); n > math.MaxInt64/16 {
			return 0, malformedError("the length of a record is out of range")
		}
	}
}

// skipBlanks skips spaces and tabs, and returns the byte after them: a NUL at
// the end of the header.
func (s *tarStream) skipBlanks(end int64) (byte, error) {
	for {
		c, err := s.peekByte(end)
		if err == errEnd {
			return 0, nil
		}
		if err != nil || c != ' ' && c != '\t' {
			return c, err
		}
		s.consume(1)
	}
}

// errEnd is the end of what readByte and peekByte may read.
var errEnd = errors.New("end")

// peekByte returns the next byte of the stream, or errEnd at the position end.
func (s *tarStream) peekByte(end int64) (byte, error) {
	if s.pos >= end {
		return 0, errEnd
	}
	if err := s.fill(); err != nil {
		return 0, noEOF(err)
	}
	return s.unread[0], nil
}

func (s *tarStream) readByte(end int64) (byte, error) {
	c, err := s.peekByte(end)
	if err == nil {
		s.consume(1)
	}
	return c, err
}

// apply applies the records to a header.
func (r *records) apply(h *header) error {
	for _, rec := range r.list {
		if err := h.applyRecord(rec.key, r.data[rec.start:rec.end:rec.end]); err != nil {
			return fmt.Errorf("PAX record %s=%.40q: %w", rec.key, r.data[rec.start:rec.end], err)
		}
	}
	return nil
}

func (h *header) applyRecord(key string, value []byte) (err error) {
	var n int64
	switch key {
	case "path":
		if !h.sparse.named {
			h.name = value
		}
	case "linkpath":
		h.target = value
	case "size":
		h.size, err = parseDecimal(value, math.MaxInt64)
	case "uid": // an id overrides the name in the header block
		n, err = parseDecimal(value, maxID)
		h.uid, h.user = int(n), nil
	case "gid":
		n, err = parseDecimal(value, maxID)
		h.gid, h.group = int(n), nil
	case "mtime":
		h.sec, h.nsec, err = parsePAXTime(value)
	case "atime", "ctime":
		_, _, err = parsePAXTime(value)
	case "GNU.sparse.name":
		h.name, h.sparse.named = value, true
	default:
		err = h.sparse.apply(key, value)
	}
	return err
}

// parseDecimal parses a number from 0 to limit.
func parseDecimal(value []byte, limit int64) (int64, error) {
	if len(value) == 0 || value[0] < '0' || value[0] > '9' {
		return 0, errors.New("is not a number")
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, errors.New("is not a number")
	case err != nil, n > limit:
		return 0, errors.New("is out of range")
	}
	return n, nil
}

// parsePAXTime parses seconds since the epoch, with an optional fraction of
// which nanoseconds are kept, rounded down. Like tar(1), it ignores whatever
// follows, such as an exponent.
func parsePAXTime(value []byte) (sec int64, nsec int32, err error) {
	negative := len(value) > 0 && value[0] == '-'
	digits := 0
	if negative {
		digits = 1
	}
	start := digits
	for digits < len(value) && '0' <= value[digits] && value[digits] <= '9' {
		digits++
	}
	if digits == start {
		return 0, 0, errors.New("is not a time")
	}
	if sec, err = strconv.ParseInt(string(value[:digits]), 10, 64); err != nil {
		return 0, 0, errors.New("is out of range")
	}
	fraction, ok := bytes.CutPrefix(value[digits:], []byte("."))
	if !ok {
		return sec, 0, nil
	}
	rest := false // whether digits after the nanoseconds are not zero
	scale := int32(1e8)
	for _, c := range fraction {
		if c < '0' || c > '9' {
			break
		}
		nsec += int32(c-'0') * scale
		rest = rest || scale == 0 && c != '0'
		scale /= 10
	}
	if !negative {
		return sec, nsec, nil
	}
	if rest {
		nsec++
	}
	if nsec == 0 {
		return sec, 0, nil
	}
	if sec == math.MinInt64 {
		return 0, 0, errors.New("is out of range")
	}
	return sec - 1, 1e9 - nsec, nil
}
