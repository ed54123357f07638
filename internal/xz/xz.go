// Package xz reads xz files (https://tukaani.org/xz/xz-file-format.txt), whole
// ones and within a bound of memory.
//
// It is the container only; the data is decoded by github.com/ulikunitz/xz/lzma.
// That module has a reader for the container too, but it takes a file that
// ends where a block should begin for a whole one, and allocates whatever
// dictionary the file asks for, up to 4 GiB.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// Magic is what every xz file begins with.
const Magic = "\xfd7zXZ\x00"

const (
	headerSize = 12 // of a stream
	footerSize = 12

	// filterLZMA2 is the id of the only filter that is implemented. The others
	// prepare machine code for it.
	filterLZMA2 = 0x21
)

// errCorrupt says that the file contradicts itself.
var errCorrupt = errors.New("xz: data is corrupt")

// Reader decompresses the streams of an xz file, one after another, with the
// padding that may be between them and at the end.
//
// Where the file ends early the error is io.ErrUnexpectedEOF. io.EOF comes
// only after all checks.
type Reader struct {
	in      *input
	maxDict int64
	err     error

	inStream bool
	flags    [2]byte
	check    hash.Hash

	block        *lzma.Reader2
	header       blockHeader
	packed       int64 // where in the input the block's data begins
	unpacked     int64
	blocks       int64
	blocksDigest hash.Hash // of the sizes that the index is to repeat
}

type blockHeader struct {
	length           int64
	packed, unpacked int64 // -1 where the header does not say
}

// NewReader reads from r, ahead of what it needs. A file that asks for a
// dictionary of more than maxDict bytes is an error.
func NewReader(r io.Reader, maxDict int64) *Reader {
	return &Reader{in: &input{r: bufio.NewReaderSize(r, 64<<10)}, maxDict: maxDict}
}

func (z *Reader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case z.err != nil:
			return 0, z.err
		case !z.inStream:
			z.err = z.startStream()
			continue
		case z.block == nil:
			z.err = z.startBlock()
			continue
		}
		n, err := z.block.Read(p)
		z.check.Write(p[:n])
		z.unpacked += int64(n)
		if err == io.EOF {
			err = z.endBlock()
		}
		z.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, nil
}

// startStream reads a stream's header, or finds the end of the file.
func (z *Reader) startStream() error {
	first := z.in.pos == 0
	var header [headerSize]byte
	for {
		if _, err := io.ReadFull(z.in, header[:4]); err != nil {
			return err // io.EOF if no byte is left
		}
		if first || binary.LittleEndian.Uint32(header[:]) != 0 {
			break
		} // else padding
	}
	if err := z.in.full(header[4:]); err != nil {
		return err
	}
	if string(header[:6]) != Magic || !sumIs(header[6:8], header[8:]) {
		return errCorrupt
	}
	z.flags = [2]byte(header[6:8])
	switch z.flags {
	case [2]byte{0, 0}:
		z.check = noCheck{crc32.NewIEEE()}
	case [2]byte{0, 1}:
		z.check = crc32.NewIEEE()
	case [2]byte{0, 4}:
		z.check = crc64.New(crc64.MakeTable(crc64.ECMA))
	case [2]byte{0, 10}:
		z.check = sha256.New()
	default:
		return fmt.Errorf("xz: unknown kind of check %x", z.flags)
	}
	z.inStream = true
	z.blocks, z.blocksDigest = 0, sha256.New()
	return nil
}

// startBlock reads a block's header, or where there are no more the index.
func (z *Reader) startBlock() error {
	var size [1]byte
	if err := z.in.full(size[:]); err != nil {
		return err
	}
	if size[0] == 0 {
		return z.endStream()
	}
	header := make([]byte, 4*(int(size[0])+1))
	header[0] = size[0]
	if err := z.in.full(header[1:]); err != nil {
		return err
	}
	end := len(header) - 4
	if !sumIs(header[:end], header[end:]) {
		return errCorrupt
	}
	dict, err := z.parseBlockHeader(header[1:end])
	if err != nil {
		return err
	}
	if dict > z.maxDict {
		return fmt.Errorf("xz: needs a dictionary of %d bytes, of which %d are allowed", dict, z.maxDict)
	}
	z.header.length = int64(len(header))
	z.packed, z.unpacked = z.in.pos, 0
	z.check.Reset()
	z.block, err = lzma.Reader2Config{DictCap: int(dict)}.NewReader2(z.in)
	return err
}

// parseBlockHeader returns the size of the dictionary that the block needs.
func (z *Reader) parseBlockHeader(b []byte) (dict int64, err error) {
	r := bytes.NewReader(b)
	flags, _ := r.ReadByte()
	z.header = blockHeader{packed: -1, unpacked: -1}
	if flags&0x40 != 0 {
		if z.header.packed, err = readNumber(r); err != nil {
			return 0, errCorrupt
		}
	}
	if flags&0x80 != 0 {
		if z.header.unpacked, err = readNumber(r); err != nil {
			return 0, errCorrupt
		}
	}
	filter, err := readNumber(r)
	if err != nil {
		return 0, errCorrupt
	}
	if flags&0x3f != 0 || filter != filterLZMA2 {
		return 0, errors.New("xz: has a filter other than LZMA2")
	}
	size, err := readNumber(r)
	if err != nil || size != 1 {
		return 0, errCorrupt
	}
	bits, err := r.ReadByte()
	if err != nil || bits > 40 {
		return 0, errCorrupt
	}
	for {
		padding, err := r.ReadByte()
		if err == io.EOF {
			break
		}
		if padding != 0 {
			return 0, errCorrupt
		}
	}
	if bits == 40 {
		return 1<<32 - 1, nil
	}
	return int64(2|bits&1) << (bits/2 + 11), nil
}

func (z *Reader) endBlock() error {
	z.block = nil
	packed := z.in.pos - z.packed
	padding := make([]byte, -packed&3)
	if err := z.in.full(padding); err != nil {
		return err
	}
	sum := make([]byte, z.check.Size())
	if err := z.in.full(sum); err != nil {
		return err
	}
	want := z.check.Sum(nil)
	if z.flags[1] < 10 { // Go's CRCs are big-endian
		for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
			want[i], want[j] = want[j], want[i]
		}
	}
	if !bytes.Equal(sum, want) || len(bytes.Trim(padding, "\x00")) > 0 ||
		z.header.packed >= 0 && z.header.packed != packed ||
		z.header.unpacked >= 0 && z.header.unpacked != z.unpacked {
		return errCorrupt
	}
	z.blocks++
	binary.Write(z.blocksDigest, binary.LittleEndian, []int64{z.header.length + packed + int64(len(sum)), z.unpacked})
	return nil
}

// endStream reads the index, whose first byte has been read, and the footer.
func (z *Reader) endStream() error {
	start := z.in.pos - 1
	z.in.sum = crc32.NewIEEE()
	z.in.sum.Write([]byte{0})
	count, err := readNumber(z.in)
	if err != nil {
		return err
	}
	if count != z.blocks {
		return errCorrupt
	}
	digest := sha256.New()
	for range count {
		var sizes [2]int64
		for i := range sizes {
			if sizes[i], err = readNumber(z.in); err != nil {
				return err
			}
		}
		binary.Write(digest, binary.LittleEndian, sizes[:])
	}
	padding := make([]byte, -(z.in.pos-start)&3)
	if err := z.in.full(padding); err != nil {
		return err
	}
	want := z.in.sum.Sum32()
	z.in.sum = nil
	size := z.in.pos + 4 - start
	var rest [4 + footerSize]byte
	if err := z.in.full(rest[:]); err != nil {
		return err
	}
	footer := rest[4:]
	if binary.LittleEndian.Uint32(rest[:]) != want || len(bytes.Trim(padding, "\x00")) > 0 ||
		!bytes.Equal(digest.Sum(nil), z.blocksDigest.Sum(nil)) ||
		!sumIs(footer[4:10], footer[:4]) || string(footer[10:]) != "YZ" || [2]byte(footer[8:10]) != z.flags ||
		(int64(binary.LittleEndian.Uint32(footer[4:]))+1)*4 != size {
		return errCorrupt
	}
	z.inStream = false
	return nil
}

// sumIs reports whether sum is the stored CRC32 of b.
func sumIs(b, sum []byte) bool {
	return crc32.ChecksumIEEE(b) == binary.LittleEndian.Uint32(sum)
}

// readNumber reads a variable-length integer, at most 63 bits in at most nine
// bytes, the last of which is not zero.
func readNumber(r io.ByteReader) (n int64, err error) {
	for shift := 0; shift < 63; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			if c == 0 && shift > 0 {
				return 0, errCorrupt
			}
			return n, nil
		}
	}
	return 0, errCorrupt
}

// noCheck is the absence of a check.
type noCheck struct{ hash.Hash }

func (noCheck) Write(p []byte) (int, error) { return len(p), nil }
func (noCheck) Sum(b []byte) []byte         { return b }
func (noCheck) Size() int                   { return 0 }

// input counts, and sums up where sum is set.
type input struct {
	r   *bufio.Reader
	pos int64
	sum hash.Hash32
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	in.pos += int64(n)
	if in.sum != nil {
		in.sum.Write(p[:n])
	}
	return n, err
}

// ReadByte is for what must not be missing.
func (in *input) ReadByte() (byte, error) {
	var b [1]byte
	err := in.full(b[:])
	return b[0], err
}

func (in *input) full(p []byte) error {
	_, err := io.ReadFull(in, p)
	if err == io.EOF && len(p) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}
