// Package gzip reads gzip files (RFC 1952), about twice as fast as
// compress/gzip. Decompression takes most of the time in a deployment of a
// gzip archive, and one file cannot be decompressed on several processors.
//
// A Reader is a state machine. Each step reads the next part of the file,
// and its output goes to a buffer, from which Read copies:
//
//	for each member of the file:
//		header:   magic, flags, optional fields and their checksum
//		for each block of the member:
//			block:         whether it is the last, its type, its Huffman codes
//			copyStored:    the bytes of a block that is not compressed
//			  or huffman:  literals and matches, until the code for the end
//		trailer:  CRC-32 and size of the member's data
//	padding:  zeros until the end of the file
//
// After each step, decode checks that the step has not run past the end of the
// file, and adds the output to the CRC-32. copyStored and huffman also end
// when the input or output buffer is used up, and then run again.
//
// Three techniques, known from libdeflate, make it fast:
//
//   - The output buffer holds the last 32 KiB of output, which matches may copy
//     from, and 256 KiB more. Both literals and matches are written to it
//     directly, and it is moved only when it is full.
//   - Bits are loaded eight bytes at a time, see load, enough for three
//     literals or a length. Zeros after the input and spare room after the
//     output replace most checks.
//   - An entry of a decoding table holds all about a code: the literal, or the
//     base value and the number of extra bits, see entry.
//
// The files: gzip.go has the Reader and the gzip format, reader_deflate.go the
// deflate format (RFC 1951), bits.go the input, codes.go the decoding tables.
package gzip

import (
	"errors"
	"hash/crc32"
	"io"
)

// Magic is the first two bytes of every gzip file (ID1 and ID2 in RFC 1952
// section 2.3.1).
const Magic = "\x1f\x8b"

// errCorrupt is returned for data that contradicts itself or the format.
var errCorrupt = errors.New("gzip: data is corrupt")

const (
	windowSize = 32 << 10             // the greatest distance of a match (RFC 1951 section 2)
	outSize    = windowSize + 256<<10 // once this much is written, no round of the decoder starts

	// outSlack is the room for what a round that starts just before outSize
	// writes: two literals, a match of up to 258 bytes, and what the copy of
	// its last word writes beyond it.
	outSlack = 2 + 258 + 8
)

// Reader decompresses the members of a gzip file, one after another, as one
// sequence of bytes. Like gzip(1), it ignores zeros after the last member and
// verifies the checksum of a header that has one. Anything else after the last
// member is an error. Use NewReader to create one.
type Reader struct {
	bitReader

	// out[:write] is output, of which out[read:write] has not been returned
	// yet. The current member starts at out[start], or before out if start
	// is 0. A match must not reach beyond that.
	out   [outSize + outSlack]byte
	start int
	read  int
	write int

	step    func(*Reader) error // reads the next part of the file
	members int                 // how many headers have been read
	final   bool                // the block is the last one of its member
	stored  int                 // how many bytes of a stored block remain
	sum     uint32              // CRC-32 of the member's data so far
	size    uint32              // its size, modulo 1<<32
	err     error               // ends the output, after out[:write]

	lit  litTable // the codes of the current block
	dist distTable
}

// NewReader returns a Reader for the gzip file that r contains. It reads
// nothing yet. Later it may read more from r than Read needs. A Reader takes
// about 360 KiB of memory.
func NewReader(r io.Reader) *Reader {
	return &Reader{bitReader: bitReader{r: r}, step: (*Reader).header}
}

// Read returns the decompressed data. Its errors are
//
//   - io.EOF at the end of the file, after all checks. Until then the data
//     is unverified, and a truncated file may yield a few bytes at its end
//     that were never compressed.
//   - io.ErrUnexpectedEOF if the file is empty or truncated.
//   - io.ErrNoProgress if the underlying reader returns no data and no error
//     100 times in a row.
//   - the error of the underlying reader, if it fails.
//   - another error if the file is corrupt or not a gzip file.
func (z *Reader) Read(p []byte) (int, error) {
	for z.read == z.write {
		if z.err != nil {
			return 0, z.err
		}
		z.decode()
	}
	n := copy(p, z.out[z.read:z.write])
	z.read += n
	return n, nil
}

// decode runs steps until out is full or the file ends. All of out must have
// been returned before.
func (z *Reader) decode() {
	// Keep the window, at the start of out.
	if shift := z.write - windowSize; shift > 0 {
		copy(z.out[:], z.out[shift:z.write])
		z.start = max(z.start-shift, 0)
		z.read, z.write = windowSize, windowSize
	}
	for z.err == nil && z.write < outSize {
		from := z.write
		z.err = z.step(z)
		if z.overrun() {
			// Running past the end of input is truncation, not corruption.
			z.err = z.truncation()
		}
		z.sum = crc32.Update(z.sum, crc32.IEEETable, z.out[from:z.write])
		z.size += uint32(z.write - from)
	}
}

// The flags of a header (RFC 1952 section 2.3.1). FTEXT, bit 0, is only a hint.
const (
	flagHeaderSum = 1 << 1 // FHCRC
	flagExtra     = 1 << 2 // FEXTRA
	flagName      = 1 << 3 // FNAME
	flagComment   = 1 << 4 // FCOMMENT
	flagReserved  = 0xe0   // must be zero
)

// header reads the header of a member (RFC 1952 section 2.3). After a member
// the file may also end, or zeros may follow.
func (z *Reader) header() error {
	if z.members > 0 && z.atEnd() {
		return z.rErr // io.EOF, unless r failed
	}
	crc := ^uint32(0)
	next := func() byte {
		c := byte(z.take(8))
		crc = crc32.IEEETable[byte(crc)^c] ^ crc>>8
		return c
	}

	var fixed [10]byte // magic, method, flags, time, extra flags, system
	fixed[0] = next()
	if z.members > 0 && fixed[0] == 0 {
		z.step = (*Reader).padding
		return nil
	}
	for i := 1; i < len(fixed); i++ {
		fixed[i] = next()
	}
	flags := fixed[3]
	if string(fixed[:2]) != Magic || fixed[2] != 8 || flags&flagReserved != 0 {
		return errCorrupt
	}
	if flags&flagExtra != 0 {
		for range int(next()) | int(next())<<8 {
			next()
		}
	}
	if flags&flagName != 0 {
		for next() != 0 {
		}
	}
	if flags&flagComment != 0 {
		for next() != 0 {
		}
	}
	if flags&flagHeaderSum != 0 {
		// The low half of the CRC-32 of all that comes before.
		if sum := uint16(^crc); sum != uint16(z.take(16)) {
			return errCorrupt
		}
	}

	z.members++
	z.start, z.sum, z.size = z.write, 0, 0
	z.step = (*Reader).block
	return nil
}

// trailer checks a member whose data is complete (RFC 1952 section 2.3.1, CRC32
// and ISIZE).
func (z *Reader) trailer() error {
	z.align()
	if sum, size := uint32(z.take(32)), uint32(z.take(32)); sum != z.sum || size != z.size {
		return errCorrupt
	}
	z.step = (*Reader).header
	return nil
}

// padding skips zeros after the last member. Tapes and other media with fixed
// blocks leave them there.
func (z *Reader) padding() error {
	for !z.atEnd() {
		if z.in[z.pos] != 0 {
			return errors.New("gzip: zeros after the data are followed by something else")
		}
		z.pos++
	}
	return z.rErr
}
