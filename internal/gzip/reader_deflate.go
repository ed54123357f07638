package gzip

import "encoding/binary"

// block reads the header of the next deflate block (RFC 1951 section 3.2.3).
func (z *Reader) block() error {
	if z.final {
		z.final = false
		z.step = (*Reader).trailer
		return nil
	}
	z.final = z.take(1) == 1
	switch z.take(2) {
	case 0:
		return z.storedHeader()
	case 1:
		z.lit, z.dist = *fixedLit(), *fixedDist()
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

// storedHeader reads the length of a block that is not compressed, and its
// complement (RFC 1951 section 3.2.4).
func (z *Reader) storedHeader() error {
	z.align()
	length, complement := uint16(z.take(16)), uint16(z.take(16))
	if length != ^complement {
		return errCorrupt
	}
	z.stored = int(length)
	z.step = (*Reader).copyStored
	return nil
}

// copyStored copies the bytes of a stored block, as many as in and out have
// without reading.
func (z *Reader) copyStored() error {
	if z.stored == 0 {
		z.step = (*Reader).block
		return nil
	}
	if z.atEnd() {
		return z.truncation()
	}
	n := copy(z.out[z.write:outSize], z.in[z.pos:min(z.end, z.pos+z.stored)])
	z.write += n
	z.pos += n
	z.stored -= n
	return nil
}

// codeOrder is the order in which a block lists the lengths of the codes for
// code lengths (RFC 1951 section 3.2.7).
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads the Huffman codes that a block defines (RFC 1951 section
// 3.2.7): the lengths of the codes for code lengths, then the lengths of the
// codes for literals and lengths and of those for distances, in one sequence.
func (z *Reader) readCodes() error {
	lits, dists, codes := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if lits > 286 || dists > 30 {
		return errCorrupt
	}
	var lengths [286 + 30]uint8
	for _, symbol := range codeOrder[:codes] {
		lengths[symbol] = uint8(z.take(3))
	}
	var table [1 << codeBits]entry
	if !build(table[:], codeBits, lengths[:19], litEntries()[:]) {
		return errCorrupt
	}
	clear(lengths[:])
	for i := 0; i < lits+dists; {
		if z.count < codeBits+7 { // a code and the most extra bits
			z.refill()
		}
		e := table[z.bits&(1<<codeBits-1)]
		if e&special != 0 {
			return errCorrupt
		}
		z.take(e.size())
		var repeat int
		var length uint8
		switch symbol := e.byte(); symbol {
		case 16:
			if i == 0 {
				return errCorrupt
			}
			length, repeat = lengths[i-1], 3+int(z.take(2))
		case 17:
			repeat = 3 + int(z.take(3))
		case 18:
			repeat = 11 + int(z.take(7))
		default:
			lengths[i] = symbol
			i++
			continue
		}
		if i+repeat > lits+dists {
			return errCorrupt
		}
		for range repeat {
			lengths[i] = length
			i++
		}
	}
	if lengths[256] == 0 || // the block could not end
		!build(z.lit[:], litBits, lengths[:lits], litEntries()[:]) ||
		!build(z.dist[:], distBits, lengths[lits:lits+dists], distEntries()[:]) {
		return errCorrupt
	}
	return nil
}

// huffman decodes a compressed block (RFC 1951 section 3.2.3), until the block
// ends, in runs out of bytes, or out has no room left for another round.
//
// The loop works on copies of the fields, which the compiler keeps in
// registers. A round decodes up to three literals, or up to two and a match. It
// loads twice and so uses less than 16 bytes.
func (z *Reader) huffman() error {
	z.need(inSlack)
	limit := z.end - 16
	if z.rErr != nil {
		// The last code may end in the last byte, so decode into the zeros
		// after it. Once pos is more than eight bytes past the end, at least
		// one of the bits used was not in the file, and decode reports that.
		// The last load ends at most 23 bytes past the end.
		limit = z.end + 8
	}
	in, out, lit, dist := &z.in, &z.out, &z.lit, &z.dist
	bits, count, pos, write := z.bits, z.count, z.pos, z.write
	var err error
loop:
	for pos <= limit && write < outSize {
		// The 56 bits that are there at least are enough for two literals of
		// the main table, 11 bits each, and for a third one or a length, which
		// take at most 15 bits and 5 extra bits.
		bits, count, pos = load(in, bits, count, pos)
		e := lit[bits&(1<<litBits-1)]
		if e&literal != 0 {
			bits, count = bits>>e.size(), count-e.size()
			out[write] = e.byte()
			write++
			e = lit[bits&(1<<litBits-1)]
			if e&literal != 0 {
				bits, count = bits>>e.size(), count-e.size()
				out[write] = e.byte()
				write++
				e = lit[bits&(1<<litBits-1)]
				if e&literal != 0 {
					bits, count = bits>>e.size(), count-e.size()
					out[write] = e.byte()
					write++
					continue
				}
			}
		}
		if e&special != 0 {
			if e&subtable != 0 {
				e = lit[e.index(bits, litBits)]
			}
			switch {
			case e&literal != 0:
				bits, count = bits>>e.size(), count-e.size()
				out[write] = e.byte()
				write++
				continue
			case e&endOfBlock != 0:
				bits, count = bits>>e.size(), count-e.size()
				z.step = (*Reader).block
				break loop
			case e&special != 0:
				err = errCorrupt
				break loop
			}
		}
		length := e.value(bits)
		bits, count = bits>>e.size(), count-e.size()

		// A distance takes at most 15 bits and 13 extra bits.
		bits, count, pos = load(in, bits, count, pos)
		e = dist[bits&(1<<distBits-1)]
		if e&special != 0 {
			if e&subtable != 0 {
				e = dist[e.index(bits, distBits)]
			}
			if e&special != 0 {
				err = errCorrupt
				break loop
			}
		}
		distance := e.value(bits)
		bits, count = bits>>e.size(), count-e.size()
		if distance > write-z.start {
			err = errCorrupt
			break loop
		}

		// Copy whole words where source and destination are a word or more
		// apart. They may write up to seven bytes too many, which the next
		// round overwrites.
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
