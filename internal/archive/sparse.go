package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The PAX records of a sparse file ("Storing Sparse Files" in the GNU tar
// manual). archive/tar converts the records of format 0.0 to those of 0.1.
const (
	paxSparseMajor = "GNU.sparse.major"
	paxSparseMinor = "GNU.sparse.minor"
	paxSparseMap   = "GNU.sparse.map"
)

// sparseMap returns the segments of the file that hdr describes, and whether it
// is sparse at all. headers is what hdr was parsed from, with the map that
// format 1.0 puts before the data.
//
// archive/tar parses the map as well, but does not export it. It only returns
// the file with its holes as zeros, and there may be exabytes of them.
func sparseMap(hdr *tar.Header, headers []byte) (segments []Segment, sparse bool, err error) {
	var numbers []int64
	version := hdr.PAXRecords[paxSparseMajor] + "." + hdr.PAXRecords[paxSparseMinor]
	_, hasMap := hdr.PAXRecords[paxSparseMap]
	switch {
	case hdr.Typeflag == tar.TypeGNUSparse:
		numbers, err = sparseMapGNU(headers)
	case version == "0.0", version == "0.1", version == "." && hasMap:
		numbers, err = sparseMapPAX0(hdr.PAXRecords[paxSparseMap])
	case version == "1.0":
		numbers, err = sparseMapPAX1(headers)
	case version == ".":
		return nil, false, nil
	default:
		err = fmt.Errorf("format %q is unknown", version)
	}
	if err == nil {
		segments, err = newSegments(numbers, hdr.Size)
	}
	if err != nil {
		return nil, false, fmt.Errorf("sparse file: %w", err)
	}
	return segments, true, nil
}

// newSegments makes segments of a map, which is a sequence of offsets and
// lengths by turns. They must be in order and within a file of size bytes. The
// result is not nil, even if the file is one hole.
func newSegments(numbers []int64, size int64) ([]Segment, error) {
	if len(numbers)%2 != 0 {
		return nil, errors.New("the map ends with an offset")
	}
	segments := []Segment{}
	var end int64
	for ; len(numbers) > 0; numbers = numbers[2:] {
		offset, length := numbers[0], numbers[1]
		if offset < end || length < 0 || length > size-offset {
			return nil, fmt.Errorf("the map has %d bytes at %d, after %d and of %d", length, offset, end, size)
		}
		end = offset + length
		if length > 0 { // a file that ends with a hole has a last segment of no bytes
			segments = append(segments, Segment{offset, length})
		}
	}
	return segments, nil
}

// sparseMapGNU reads the map of the old GNU format, which begins in the entry's
// header block and continues in the blocks after it.
func sparseMapGNU(headers []byte) ([]int64, error) {
	block, err := entryHeader(headers)
	if err != nil {
		return nil, err
	}
	const width = 12 // of a number
	var numbers []int64
	fields, continues := block[386:482], block[482]
	for {
		for ; len(fields) >= 2*width; fields = fields[2*width:] {
			if fields[0] == 0 { // unused; tar(1) stops here, too
				break
			}
			for _, field := range [][]byte{fields[:width], fields[width : 2*width]} {
				n, err := parseHeaderNumber(field)
				if err != nil {
					return nil, err
				}
				numbers = append(numbers, n)
			}
		}
		if continues == 0 {
			return numbers, nil
		}
		if block = block[blockSize:]; len(block) < blockSize {
			return nil, errors.New("the map is cut off")
		}
		fields, continues = block[:504], block[504]
	}
}

// sparseMapPAX0 reads the map of the formats 0.0 and 0.1, which is a PAX record
// of decimal numbers separated by commas.
func sparseMapPAX0(record string) ([]int64, error) {
	if record == "" {
		return nil, nil
	}
	var numbers []int64
	for field := range strings.SplitSeq(record, ",") {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// sparseMapPAX1 reads the map of format 1.0, which is in the blocks after the
// entry's header block: lines with decimal numbers, of which the first is the
// number of segments.
func sparseMapPAX1(headers []byte) ([]int64, error) {
	block, err := entryHeader(headers)
	if err != nil {
		return nil, err
	}
	lines := block[blockSize:]
	number := func() (int64, error) {
		line, rest, ok := bytes.Cut(lines, []byte{'\n'})
		if !ok {
			return 0, errors.New("the map is cut off")
		}
		lines = rest
		return strconv.ParseInt(string(line), 10, 64)
	}
	count, err := number()
	if err != nil {
		return nil, err
	}
	if count < 0 || count > int64(len(lines)) {
		return nil, fmt.Errorf("the map claims to have %d entries", count)
	}
	numbers := make([]int64, 2*count)
	for i := range numbers {
		if numbers[i], err = number(); err != nil {
			return nil, err
		}
	}
	return numbers, nil
}

// entryHeader returns the headers of an entry from its own header block on,
// without the ones before it that extend it: PAX records, a long name and a long
// link target.
func entryHeader(headers []byte) ([]byte, error) {
	errCutOff := errors.New("its header is cut off")
	for len(headers) >= blockSize {
		switch headers[156] { // the type
		case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
		default:
			return headers, nil
		}
		size, err := parseHeaderNumber(headers[124:136])
		if err != nil {
			return nil, err
		}
		if size > int64(len(headers)) {
			return nil, errCutOff
		}
		size += -size & (blockSize - 1)
		headers = headers[min(blockSize+size, int64(len(headers))):]
	}
	return nil, errCutOff
}

// parseHeaderNumber parses a number in a tar header: octal digits or, for
// numbers that need more digits than the field has, GNU's base-256 encoding.
func parseHeaderNumber(field []byte) (int64, error) {
	if field[0]&0x80 == 0 {
		digits := bytes.Trim(field, " \x00")
		if len(digits) == 0 {
			return 0, nil
		}
		n, err := strconv.ParseUint(string(digits), 8, 63)
		return int64(n), err
	}
	n := int64(field[0] & 0x7f)
	for _, c := range field[1:] {
		if n > 1<<55-1 {
			return 0, fmt.Errorf("number %x is too large", field)
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}
