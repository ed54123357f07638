// Package gzip reads gzip files (RFC 1952), of one member or several, about
// twice as fast as compress/gzip. Decompressing is what a deployment of a gzip
// archive mostly does, and what it cannot share between processors.
//
// The speed comes from what libdeflate does: decoding straight into a large
// buffer, refilling the bits a word at a time, and tables whose entries have
// all there is to know of a code.
package gzip

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// Magic is what every gzip file begins with.
const Magic = "\x1f\x8b"

// errCorrupt says that the file contradicts itself, or the format.
var errCorrupt = errors.New("gzip: data is corrupt")

const (
	windowSize = 32 << 10             // how far back a match may reach
	outSize    = windowSize + 256<<10 // up to where a match may begin
	inSize     = 64 << 10

	// A round of the decoder may go as far beyond the end of in and of outSize.
	inSlack  = 32
	outSlack = 2 + 258 + 8 // literals, a match, and what is copied too much
)

// Reader decompresses the members of a gzip file, one after another. Zeros
// after the last one are ignored, as by gzip(1); anything else is an error.
//
// Where the file ends early the error is io.ErrUnexpectedEOF. io.EOF comes
// only after all checks.
type Reader struct {
	r     io.Reader
	rErr  error // what r ended with
	in    [inSize + inSlack]byte
	pos   int // the next byte for bits
	end   int
	bits  uint64 // the next count bits; those above are not valid
	count uint

	out   [outSize + outSlack]byte
	start int // of the member, in out
	read  int // how far out has been handed on
	write int

	step    func(*Reader) error // decodes what comes next in the file
	members int
	final   bool // the block is its member's last one
	stored  int  // how many bytes are left of a stored block
	sum     uint32
	size    uint32
	err     error

	lit  litTable
	dist distTable
}

// NewReader reads from r, ahead of what it needs.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: r, step: (*Reader).header}
}

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

// decode fills out anew.
func (z *Reader) decode() {
	if shift := z.write - windowSize; shift > 0 {
		copy(z.out[:], z.out[shift:z.write])
		z.start = max(z.start-shift, 0)
		z.read, z.write = windowSize, windowSize
	}
	for z.err == nil && z.write < outSize {
		from := z.write
		z.err = z.step(z)
		if err := z.ended(); err != nil {
			z.err = err // what looks corrupt is but missing
		}
		z.sum = crc32.Update(z.sum, crc32.IEEETable, z.out[from:z.write])
		z.size += uint32(z.write - from)
	}
}

// need makes sure that n bytes, at most inSlack, are there after the bits. At
// the end of the file those that are missing are zeros.
func (z *Reader) need(n int) {
	if z.end-z.pos >= n || z.rErr != nil {
		return
	}
	z.unread()
	copy(z.in[:], z.in[z.pos:z.end])
	z.pos, z.end = 0, z.end-z.pos
	for z.end < n+8 && z.rErr == nil {
		var more int
		more, z.rErr = z.r.Read(z.in[z.end:inSize])
		z.end += more
	}
	if z.rErr != nil {
		clear(z.in[z.end : z.end+inSlack])
	}
}

// unread puts whole bytes of the bits back.
func (z *Reader) unread() {
	z.pos -= int(z.count / 8)
	z.count %= 8
	z.bits &= 1<<z.count - 1
}

// align drops the rest of a byte that is partly used.
func (z *Reader) align() {
	z.unread()
	z.bits, z.count = 0, 0
}

// ended is the error where more of the file has been used than there is.
func (z *Reader) ended() error {
	switch {
	case z.pos*8-int(z.count) <= z.end*8:
		return nil
	case z.rErr == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return z.rErr
}

// take takes up to 16 bits.
func (z *Reader) take(n uint) (uint64, error) {
	if z.count < n {
		if err := z.refill(); err != nil {
			return 0, err
		}
	}
	v := z.bits & (1<<n - 1)
	z.bits >>= n
	z.count -= n
	return v, nil
}

// refill makes count at least 56. At the end of the file the bits that are
// missing are zeros.
func (z *Reader) refill() error {
	z.need(8)
	if err := z.ended(); err != nil {
		return err
	}
	z.bits |= binary.LittleEndian.Uint64(z.in[z.pos:]) << z.count
	z.pos += int(63-z.count) >> 3
	z.count |= 56
	return nil
}

// takeByte takes a byte, where no bits are left of the one before.
func (z *Reader) takeByte() (byte, error) {
	z.need(1)
	if z.pos >= z.end {
		z.pos = z.end + 1
		return 0, z.ended()
	}
	z.pos++
	return z.in[z.pos-1], nil
}

func (z *Reader) takeUint32() (uint32, error) {
	var v uint32
	for i := range 4 {
		c, err := z.takeByte()
		if err != nil {
			return 0, err
		}
		v |= uint32(c) << (8 * i)
	}
	return v, nil
}

// header reads a member's header, or what comes after the last member.
func (z *Reader) header() error {
	z.need(1)
	if z.members > 0 {
		if z.pos >= z.end {
			return z.rErr // io.EOF, where it should be
		}
		if z.in[z.pos] == 0 {
			z.step = (*Reader).padding
			return nil
		}
	}
	var fixed [10]byte
	for i := range fixed {
		var err error
		if fixed[i], err = z.takeByte(); err != nil {
			return err
		}
	}
	const (
		checksum = 1 << (iota + 1)
		extra
		name
		comment
		reserved = 0xe0
	)
	flags := fixed[3]
	if string(fixed[:2]) != Magic || fixed[2] != 8 || flags&reserved != 0 {
		return errCorrupt
	}
	skip := 0
	if flags&extra != 0 {
		for i := range 2 {
			c, err := z.takeByte()
			if err != nil {
				return err
			}
			skip |= int(c) << (8 * i)
		}
	}
	for range skip {
		if _, err := z.takeByte(); err != nil {
			return err
		}
	}
	for _, text := range []byte{name, comment} {
		for more := flags&text != 0; more; {
			c, err := z.takeByte()
			if err != nil {
				return err
			}
			more = c != 0
		}
	}
	if flags&checksum != 0 { // of the header, which gzip(1) does not look at either
		for range 2 {
			if _, err := z.takeByte(); err != nil {
				return err
			}
		}
	}
	z.members++
	z.start, z.sum, z.size = z.write, 0, 0
	z.step = (*Reader).block
	return nil
}

// padding passes over zeros, as they are at the end of a tape.
func (z *Reader) padding() error {
	for {
		z.need(1)
		if z.pos >= z.end {
			return z.rErr
		}
		if z.in[z.pos] != 0 {
			return errors.New("gzip: zeros after the data are followed by something else")
		}
		z.pos++
	}
}

// trailer checks a member, all of whose bytes are in out or were.
func (z *Reader) trailer() error {
	z.align()
	sum, err := z.takeUint32()
	if err != nil {
		return err
	}
	size, err := z.takeUint32()
	if err != nil {
		return err
	}
	if sum != z.sum || size != z.size {
		return errCorrupt
	}
	z.step = (*Reader).header
	return nil
}

// block reads the header of a deflate block (RFC 1951).
func (z *Reader) block() error {
	if z.final {
		z.final = false
		return z.trailer()
	}
	v, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = v&1 != 0
	switch v >> 1 {
	case 0:
		return z.storedHeader()
	case 1:
		z.lit, z.dist = fixedLit, fixedDist
	case 2:
		if err := z.readCodes(); err != nil {
			return err
		}
	default:
		return errCorrupt
	}
	z.step = (*Reader).huffman
	return nil
}

func (z *Reader) storedHeader() error {
	z.align()
	v, err := z.takeUint32()
	if err != nil {
		return err
	}
	if uint16(v) != ^uint16(v>>16) {
		return errCorrupt
	}
	z.stored = int(uint16(v))
	z.step = (*Reader).copyStored
	return nil
}

func (z *Reader) copyStored() error {
	if z.stored == 0 {
		z.step = (*Reader).block
		return nil
	}
	z.need(1)
	if z.pos >= z.end {
		z.pos = z.end + 1
		return nil
	}
	n := copy(z.out[z.write:outSize], z.in[z.pos:min(z.end, z.pos+z.stored)])
	z.write += n
	z.pos += n
	z.stored -= n
	return nil
}

// huffman decodes a compressed block, as far as in and out go.
func (z *Reader) huffman() error {
	z.need(inSlack)
	limit := z.end - 16 // two words may be read in a round
	if z.rErr != nil {
		limit = z.end + 8 // into zeros, which ended notices
	}
	in, out, lit, dist := &z.in, &z.out, &z.lit, &z.dist
	bits, count, pos, write := z.bits, z.count, z.pos, z.write
	var err error
loop:
	for pos <= limit && write < outSize {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int(63-count) >> 3
		count |= 56

		// 56 bits are enough for three literals of the main table, or for two
		// and a length.
		e := lit[bits&(1<<litBits-1)]
		if e&literal != 0 {
			bits >>= e & 63
			count -= uint(e & 63)
			out[write] = byte(e >> 16)
			write++
			e = lit[bits&(1<<litBits-1)]
			if e&literal != 0 {
				bits >>= e & 63
				count -= uint(e & 63)
				out[write] = byte(e >> 16)
				write++
				e = lit[bits&(1<<litBits-1)]
				if e&literal != 0 {
					bits >>= e & 63
					count -= uint(e & 63)
					out[write] = byte(e >> 16)
					write++
					continue
				}
			}
		}
		if e&special != 0 {
			if e&subtable != 0 {
				e = lit[uint64(e>>16)+bits>>litBits&(1<<(e>>8&15)-1)]
			}
			switch {
			case e&literal != 0:
				bits >>= e & 63
				count -= uint(e & 63)
				out[write] = byte(e >> 16)
				write++
				continue
			case e&endOfBlock != 0:
				bits >>= e & 63
				count -= uint(e & 63)
				z.step = (*Reader).block
				break loop
			case e&special != 0:
				err = errCorrupt
				break loop
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		count -= uint(e & 63)

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int(63-count) >> 3
		count |= 56
		e = dist[bits&(1<<distBits-1)]
		if e&special != 0 {
			if e&subtable != 0 {
				e = dist[uint64(e>>16)+bits>>distBits&(1<<(e>>8&15)-1)]
			}
			if e&special != 0 {
				err = errCorrupt
				break loop
			}
		}
		distance := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		count -= uint(e & 63)
		if distance > write-z.start {
			err = errCorrupt
			break loop
		}

		from, to := write-distance, write+length
		switch {
		case distance >= 8:
			for ; write < to; write, from = write+8, from+8 {
				binary.LittleEndian.PutUint64(out[write:], binary.LittleEndian.Uint64(out[from:]))
			}
			write = to
		case distance == 1:
			run := uint64(out[from]) * 0x0101010101010101
			for ; write < to; write += 8 {
				binary.LittleEndian.PutUint64(out[write:], run)
			}
			write = to
		default:
			for ; write < to; write, from = write+1, from+1 {
				out[write] = out[from]
			}
		}
	}
	z.bits, z.count, z.pos, z.write = bits, count, pos, write
	return err
}
