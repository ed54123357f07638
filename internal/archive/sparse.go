package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// blockSize is tar's.
const blockSize = 512

// Segment is a part of a sparse file that is stored; the rest are holes. The
// archive has the segments of a file one after another.
type Segment struct {
	Offset, Length int64
}

// The records of a PAX header that make a file sparse, as in "Storing Sparse
// Files" of the GNU tar manual. archive/tar brings format 0.0 into the form of
// 0.1.
const (
	paxSparseMajor = "GNU.sparse.major"
	paxSparseMinor = "GNU.sparse.minor"
	paxSparseMap   = "GNU.sparse.map"
)

// sparseMap finds the segments of the file that hdr describes. header holds
// the blocks it was read from, and also the map where that is at the head of
// the data. archive/tar reads the map as well, but keeps it to itself, and
// hands out holes as zeros, of which there may be exabytes.
func sparseMap(hdr *tar.Header, header []byte) (segments []Segment, sparse bool, err error) {
	var numbers []int64
	version := hdr.PAXRecords[paxSparseMajor] + "." + hdr.PAXRecords[paxSparseMinor]
	_, mapped := hdr.PAXRecords[paxSparseMap]
	switch {
	case hdr.Typeflag == tar.TypeGNUSparse:
		numbers, err = sparseMapGNU(header)
	case version == "0.0", version == "0.1", version == "." && mapped:
		numbers, err = sparseMapPAX0(hdr.PAXRecords[paxSparseMap])
	case version == "1.0":
		numbers, err = sparseMapPAX1(header)
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

// newSegments checks the offsets and lengths that alternate in numbers.
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
		if length > 0 { // the last one, of length 0, only tells the size
			segments = append(segments, Segment{offset, length})
		}
	}
	return segments, nil
}

// sparseMapGNU reads the old GNU format's map: in the header block, then in
// blocks that follow it.
func sparseMapGNU(header []byte) ([]int64, error) {
	block, err := mainHeader(header)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	const width = 12
	fields, more := block[386:482], block[482]
	for {
		for ; len(fields) >= 2*width; fields = fields[2*width:] {
			if fields[0] == 0 {
				break // as tar(1) does
			}
			for _, field := range [][]byte{fields[:width], fields[width : 2*width]} {
				n, err := headerNumber(field)
				if err != nil {
					return nil, err
				}
				numbers = append(numbers, n)
			}
		}
		if more == 0 {
			return numbers, nil
		}
		if block = block[blockSize:]; len(block) < blockSize {
			return nil, errors.New("the map is cut off")
		}
		fields, more = block[:504], block[504]
	}
}

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

// sparseMapPAX1 reads a map of lines: how many segments, then their numbers.
func sparseMapPAX1(header []byte) ([]int64, error) {
	block, err := mainHeader(header)
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

// mainHeader passes over the headers that only lengthen the one that comes
// after them.
func mainHeader(header []byte) ([]byte, error) {
	for len(header) >= blockSize {
		switch header[156] {
		default:
			return header, nil
		case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
		}
		size, err := headerNumber(header[124:136])
		if err != nil {
			return nil, err
		}
		if size > int64(len(header)) {
			break
		}
		size += -size & (blockSize - 1)
		header = header[min(blockSize+size, int64(len(header))):]
	}
	return nil, errors.New("its header is cut off")
}

// headerNumber reads a field of a tar header: octal digits, or where they do
// not suffice, GNU's base 256.
func headerNumber(field []byte) (int64, error) {
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
