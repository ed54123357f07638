package archive

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

// maxSparseMap limits the map of a sparse file: its bytes in a PAX header, or
// 16 times the number of its segments.
const maxSparseMap = 16 << 20

const errMapTooLarge limitError = "the map of its segments has more than 1 million of them: pack it without -S (--sparse)"

// sparseRecords are the PAX records of a sparse file ("Storing Sparse Files" in
// the GNU tar manual).
type sparseRecords struct {
	named        bool // its name is not in the record "path"
	major, minor int64
	hasSize      bool
	blocks       int64   // how many segments the map may have
	numbers      []int64 // the map: offsets and lengths by turns
}

// apply applies a PAX record.
func (r *sparseRecords) apply(key string, value []byte) error {
	n, err := int64(0), error(nil)
	if key != "GNU.sparse.map" {
		if n, err = parseDecimal(value, math.MaxInt64); err != nil {
			return err
		}
	}
	switch key {
	case "GNU.sparse.major":
		r.major = n
	case "GNU.sparse.minor":
		r.minor = n
	case "GNU.sparse.size", "GNU.sparse.realsize":
		r.hasSize = true // the map tells the size
	case "GNU.sparse.numblocks":
		r.blocks, r.numbers = n, r.numbers[:0]
	case "GNU.sparse.offset", "GNU.sparse.numbytes":
		isOffset := len(r.numbers)%2 == 0
		if isOffset != (key == "GNU.sparse.offset") {
			return errors.New("is not in the order of the map")
		}
		return r.add(n)
	case "GNU.sparse.map":
		r.numbers = r.numbers[:0]
		for field := range bytes.SplitSeq(value, []byte{','}) {
			if n, err = parseDecimal(field, math.MaxInt64); err == nil {
				err = r.add(n)
			}
			if err != nil {
				return err
			}
		}
		if len(r.numbers)%2 != 0 {
			return errors.New("ends with an offset")
		}
	}
	return nil
}

func (r *sparseRecords) add(n int64) error {
	if int64(len(r.numbers)/2) >= r.blocks {
		return errors.New("is more than GNU.sparse.numblocks says")
	}
	r.numbers = append(r.numbers, n)
	return nil
}

// readSparseMap completes the map of a sparse file, and sets the segments of the
// header. Where the map is between the header and the data, it reads it.
func (s *tarStream) readSparseMap(h *header) (err error) {
	r := &h.sparse
	h.segments, h.fileSize = nil, h.size
	size := int64(math.MaxInt64) // with PAX records, tar(1) does not compare the map with the size
	switch {
	case r.major == 1 && r.minor == 0:
		err = s.readMapPAX1(h)
	case r.major > 0:
		return fmt.Errorf("the format %d.%d is unknown", r.major, r.minor)
	case len(r.numbers) > 0: // formats 0.0 and 0.1: it was in the PAX header
	case h.typ == typeSparse && h.gnu:
		size, err = s.readMapGNU(h)
	case r.hasSize:
		return errors.New("it has no map")
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if h.typ != typeSparse && h.typ != typeRegular && h.typ != typeOldRegular && h.typ != typeContiguous {
		return fmt.Errorf("it has the type %q", h.typ)
	}
	h.segments, h.fileSize, err = newSegments(r.numbers, size, h.size)
	return err
}

// newSegments makes segments of a map. They must be in order and within the first
// size bytes of the file. The tar has stored bytes for all of them together. The
// slice is not nil, even if the file is a single hole. As with tar(1), the file ends
// where the last segment does: one of no bytes stands for a hole at the end.
func newSegments(numbers []int64, size, stored int64) (_ []Segment, end int64, _ error) {
	if len(numbers)%2 != 0 {
		return nil, 0, errors.New("the map ends with an offset")
	}
	segments := []Segment{}
	var sum int64
	for ; len(numbers) > 0; numbers = numbers[2:] {
		offset, length := numbers[0], numbers[1]
		if offset < 0 || length < 0 || length > size-offset {
			return nil, 0, fmt.Errorf("the map has %d bytes at %d, which is impossible", length, offset)
		}
		if offset < end {
			return nil, 0, limitError("its segments are not in the order of the file: pack it without -S (--sparse)")
		}
		if sum%blockSize != 0 && length > 0 {
			// tar(1) continues with the next block, others with the next byte.
			return nil, 0, limitError("a segment before the last one does not consist of whole blocks, so it is not clear where the next one begins: pack it without -S (--sparse)")
		}
		end = offset + length
		if length > stored-sum {
			return nil, 0, fmt.Errorf("the map has more than the %d bytes that are stored", stored)
		}
		sum += length
		if length > 0 {
			segments = append(segments, Segment{offset, length})
		}
	}
	return segments, end, nil
}

// readMapGNU reads the map of the old GNU format, which begins in the header
// block and continues in the blocks after it, and returns the size of the file.
func (s *tarStream) readMapGNU(h *header) (size int64, err error) {
	const width = 12 // of a number
	r := &h.sparse
	if size, err = h.number("realsize", 483, width, math.MaxInt64); err != nil {
		return 0, err
	}
	fields, continues := h.block[386:482], h.block[482]
	for {
		for ; len(fields) >= 2*width && fields[width] != 0; fields = fields[2*width:] {
			for _, field := range [][]byte{fields[:width], fields[width : 2*width]} {
				n, err := parseNumber(field)
				if err != nil {
					return 0, err
				}
				if len(r.numbers) >= maxSparseMap/8 {
					return 0, errMapTooLarge
				}
				r.numbers = append(r.numbers, n)
			}
		}
		// Like tar(1), end with the first field that is not used.
		if continues == 0 || len(fields) >= 2*width {
			return size, nil
		}
		block, err := s.block()
		if err != nil {
			return 0, noEOF(err)
		}
		fields, continues = block[:504], block[504]
	}
}

// readMapPAX1 reads the map of format 1.0, which is in the blocks before the
// data: lines with decimal numbers, of which the first is the number of
// segments.
func (s *tarStream) readMapPAX1(h *header) error {
	r := &h.sparse
	const longest = 19 // digits of a number, as for tar(1): those of the largest int64
	start := s.pos
	var line []byte
	number := func() (int64, error) {
		line = line[:0]
		for {
			c, err := s.readByte(start + h.size)
			switch {
			case err == errEnd:
				return 0, errors.New("the map is cut off")
			case err != nil:
				return 0, err
			case c == '\n':
				n, err := parseDecimal(line, math.MaxInt64)
				if err != nil {
					return 0, fmt.Errorf("%q in the map %w", line, err)
				}
				return n, nil
			case len(line) == longest:
				return 0, errors.New("the map has something else than numbers")
			}
			line = append(line, c)
		}
	}
	count, err := number()
	if err != nil {
		return err
	}
	if count > maxSparseMap/16 {
		return errMapTooLarge
	}
	r.numbers = r.numbers[:0]
	for range 2 * count {
		n, err := number()
		if err != nil {
			return err
		}
		r.numbers = append(r.numbers, n)
	}
	if err := s.discard(padding(s.pos - start)); err != nil {
		return err
	}
	if h.size -= s.pos - start; h.size < 0 {
		return errors.New("the map is larger than what is stored")
	}
	return nil
}
