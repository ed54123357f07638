package gzip

import (
	"encoding/binary"
	"io"
)

const (
	inSize = 64 << 10

	// inSlack is the room after inSize. The decoder loads eight bytes at a
	// time and may start a load past the end of the input, where it finds the
	// zeros that need writes there. See huffman for how far it goes.
	inSlack = 32

	// maxEmptyReads is how often a reader may return no data and no error
	// before it counts as broken. bufio uses the same number.
	maxEmptyReads = 100
)

// bitReader reads a file as a sequence of bits, the least significant bit of
// each byte first (RFC 1951 section 3.1.1).
//
// Each bit of the file has been used, or is in bits or in[pos:end], or has not
// been read from r yet. These invariants hold between calls of the methods:
//
//   - The low count bits of bits are the next bits of the file, the very next
//     one lowest. in[pos:] holds the bits that follow them, so the position,
//     in bits from the start of in, is pos*8 - count.
//   - The bits above count are either zeros or the first bits of in[pos:],
//     because a load takes a whole word but counts only whole bytes that fit.
//     The next load ORs the same bits into the same place, which changes
//     nothing.
//   - Once r has failed or ended, rErr is set and in[end:] starts with
//     inSlack zeros.
//
// Reading past the end is not an error here: it yields zeros and makes overrun
// true, so that callers check once after reading several fields, not after
// each.
type bitReader struct {
	r     io.Reader
	rErr  error // the error that r returned, io.EOF at the end of the file
	in    [inSize + inSlack]byte
	pos   int
	end   int
	bits  uint64
	count uint
}

// need reads from r until in[pos:end] has at least n bytes or r fails. n is at
// most inSlack.
func (b *bitReader) need(n int) {
	if b.end-b.pos >= n || b.rErr != nil {
		return
	}
	b.unread()
	copy(b.in[:], b.in[b.pos:b.end])
	b.pos, b.end = 0, b.end-b.pos
	for b.end < n && b.rErr == nil {
		b.read()
	}
	if b.rErr != nil {
		clear(b.in[b.end : b.end+inSlack])
	}
}

// read reads from r once, or more often while r returns nothing. It sets rErr to
// io.ErrNoProgress when r keeps returning neither data nor an error.
func (b *bitReader) read() {
	for range maxEmptyReads {
		var n int
		n, b.rErr = b.r.Read(b.in[b.end:inSize])
		b.end += n
		if n > 0 || b.rErr != nil {
			return
		}
	}
	b.rErr = io.ErrNoProgress
}

// refill loads bits until count is at least 56.
func (b *bitReader) refill() {
	b.need(8)
	// After an overrun, stay within the zeros. The position remains past the
	// end, because count is less than 64.
	b.pos = min(b.pos, b.end+8)
	b.bits, b.count, b.pos = load(&b.in, b.bits, b.count, b.pos)
}

// load adds the eight bytes at in[pos:] to bits, above the count bits that are
// there, and returns the new bits, count and pos. As many whole bytes as fit
// into 63 bits are counted, which leaves count at 56 to 63. Doing this without
// a branch is what makes the decoder fast; the method is number 4 in Fabian
// Giesen's "Reading bits in far too many ways (part 2)".
func load(in *[inSize + inSlack]byte, bits uint64, count uint, pos int) (uint64, uint, int) {
	bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
	return bits, count | 56, pos + int(63-count)>>3
}

// take returns the next n bits, at most 56, as a number (RFC 1951 section
// 3.1.1: the first bit is the least significant one). Bytes and multi-byte
// numbers of the gzip format, which are little-endian, read the same way.
func (b *bitReader) take(n uint) uint64 {
	if b.count < n {
		b.refill()
	}
	v := b.bits & (1<<n - 1)
	b.bits >>= n
	b.count -= n
	return v
}

// align skips to the next byte boundary of the file.
func (b *bitReader) align() {
	b.take(b.count % 8)
}

// unread moves the whole bytes in bits back to in.
func (b *bitReader) unread() {
	b.pos -= int(b.count / 8)
	b.count %= 8
	b.bits &= 1<<b.count - 1
}

// atEnd reports whether no byte follows. The position has to be at a byte
// boundary. If a byte follows, it is in[pos], and in[pos:end] may be used
// directly.
func (b *bitReader) atEnd() bool {
	b.unread()
	b.need(1)
	return b.pos >= b.end
}

// overrun reports whether more bits have been used than the file has.
func (b *bitReader) overrun() bool {
	return b.pos*8-int(b.count) > b.end*8
}

// truncation returns the error for a file that ends too early, which is the
// error of r if it failed.
func (b *bitReader) truncation() error {
	if b.rErr == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return b.rErr
}
