package gzip

import "math/bits"

// An entry of a table tells what the code is that the next bits begin with:
//
//	literal:  literal | byte<<16 | length of the code
//	others:   base<<16 | length of the code<<8 | the same and that of the extra bits
//	subtable: special | subtable | where it begins<<16 | bits of its index<<8
//	the end:  special | endOfBlock | length of the code
//	no code:  special
const (
	literal    = 1 << 31
	special    = 1 << 15
	subtable   = 1 << 14
	endOfBlock = 1 << 13
)

const (
	litBits  = 11 // of the index of the main table; longer codes have subtables
	distBits = 8
	maxBits  = 15 // of a code

	// What codes can need at most, as enough.c of zlib computes it.
	litSize  = 2342
	distSize = 402
)

type (
	litTable  [litSize]uint32
	distTable [distSize]uint32
)

var (
	litEntries  [288]uint32 // of the symbols, without the lengths of codes
	distEntries [32]uint32
	codeEntries [19]uint32
	fixedLit    litTable
	fixedDist   distTable
)

func init() {
	for i := range litEntries {
		switch {
		case i < 256:
			litEntries[i] = literal | uint32(i)<<16
		case i == 256:
			litEntries[i] = special | endOfBlock
		case i < 265:
			litEntries[i] = uint32(i-254) << 16
		case i < 285:
			extra := uint32(i-261) / 4
			litEntries[i] = uint32(3+(4+(i-261)%4)<<extra)<<16 | extra
		case i == 285:
			litEntries[i] = 258 << 16
		default:
			litEntries[i] = special
		}
	}
	for i := range distEntries {
		switch {
		case i < 4:
			distEntries[i] = uint32(i+1) << 16
		case i < 30:
			extra := uint32(i-2) / 2
			distEntries[i] = uint32(1+(2+i%2)<<extra)<<16 | extra
		default:
			distEntries[i] = special
		}
	}
	for i := range codeEntries {
		codeEntries[i] = uint32(i) << 16
	}
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	build(fixedLit[:], litBits, lengths[:], litEntries[:])
	for i := range 32 {
		lengths[i] = 5
	}
	build(fixedDist[:], distBits, lengths[:32], distEntries[:])
}

// build makes the table for the canonical code whose symbols have codes of
// these lengths, 0 for none. It reports whether there is such a code. One that
// leaves bits without a meaning is taken only if it has one code, of one bit,
// or none at all, as by zlib.
func build(table []uint32, mainBits int, lengths []uint8, entries []uint32) bool {
	var counts, next [maxBits + 1]int
	longest := 0
	for _, n := range lengths {
		counts[n]++
		longest = max(longest, int(n))
	}
	counts[0] = 0
	code, left := 0, 1
	for n := 1; n <= maxBits; n++ {
		code = (code + counts[n-1]) << 1
		next[n] = code
		left = left<<1 - counts[n]
		if left < 0 {
			return false
		}
	}
	if left > 0 && longest > 1 {
		return false
	}
	main := 1 << mainBits
	if left > 0 {
		for i := range main {
			table[i] = special
		}
	}
	used := main
	var sorted [maxBits + 1][]int16
	var symbols [288]int16
	at := 0
	for n := 1; n <= maxBits; n++ {
		sorted[n] = symbols[at : at : at+counts[n]]
		at += counts[n]
	}
	for symbol, n := range lengths {
		if n > 0 {
			sorted[n] = append(sorted[n], int16(symbol))
		}
	}
	// In the order of the codes, so that those of a subtable come together.
	prefix, sub, subBits := -1, 0, 0
	for n := 1; n <= longest; n++ {
		for i, symbol := range sorted[n] {
			code := int(bits.Reverse16(uint16(next[n]+i)) >> (16 - n))
			entry := entries[symbol]
			if entry&literal != 0 || entry&special != 0 {
				entry += uint32(n)
			} else {
				entry += uint32(n)<<8 + uint32(n)
			}
			if n <= mainBits {
				for ; code < main; code += 1 << n {
					table[code] = entry
				}
				continue
			}
			if p := code & (main - 1); p != prefix {
				// As wide as the codes that are left with this prefix need.
				prefix, sub, subBits = p, used, n-mainBits
				for room := 1<<subBits - (counts[n] - i); room > 0 && mainBits+subBits < longest; {
					subBits++
					room = room<<1 - counts[mainBits+subBits]
				}
				used += 1 << subBits
				if used > len(table) {
					return false
				}
				table[p] = special | subtable | uint32(sub)<<16 | uint32(subBits)<<8
			}
			for c := code >> mainBits; c < 1<<subBits; c += 1 << (n - mainBits) {
				table[sub+c] = entry
			}
		}
	}
	return true
}

// codeOrder is in which order a block's header has the lengths of the codes
// that its other lengths are written in.
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads the codes of a block that brings its own.
func (z *Reader) readCodes() error {
	v, err := z.take(14)
	if err != nil {
		return err
	}
	lits, dists, codes := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if lits > 286 || dists > 30 {
		return errCorrupt
	}
	var lengths [286 + 30]uint8
	for _, symbol := range codeOrder[:codes] {
		v, err := z.take(3)
		if err != nil {
			return err
		}
		lengths[symbol] = uint8(v)
	}
	const width = 7
	var table [1 << width]uint32
	if !build(table[:], width, lengths[:19], codeEntries[:]) {
		return errCorrupt
	}
	clear(lengths[:])
	for i := 0; i < lits+dists; {
		if z.count < 15 { // a code and its extra bits
			if err := z.refill(); err != nil {
				return err
			}
		}
		e := table[z.bits&(1<<width-1)]
		if e&special != 0 {
			return errCorrupt
		}
		z.bits >>= e & 63
		z.count -= uint(e & 63)
		symbol := uint8(e >> 16)
		if symbol < 16 {
			lengths[i] = symbol
			i++
			continue
		}
		var length uint8
		var repeat uint64
		switch symbol {
		case 16:
			if i == 0 {
				return errCorrupt
			}
			length = lengths[i-1]
			repeat, err = z.take(2)
			repeat += 3
		case 17:
			repeat, err = z.take(3)
			repeat += 3
		case 18:
			repeat, err = z.take(7)
			repeat += 11
		}
		if err != nil {
			return err
		}
		if i+int(repeat) > lits+dists {
			return errCorrupt
		}
		for range repeat {
			lengths[i] = length
			i++
		}
	}
	if lengths[256] == 0 || // no end
		!build(z.lit[:], litBits, lengths[:lits], litEntries[:]) ||
		!build(z.dist[:], distBits, lengths[lits:lits+dists], distEntries[:]) {
		return errCorrupt
	}
	return nil
}
