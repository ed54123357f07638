package gzip

import (
	"math/bits"
	"sync"
)

// An entry of a decoding table describes the code that the next bits start
// with:
//
//	           31..........................16  15 14 13  11....8  5......0
//	literal    1        the byte                0  0  0   length   length
//	match      0   base length or distance      0  0  0   length   total
//	subtable   0   index of its first entry     1  1  0   width
//	block end  0                                1  0  1   length   length
//	invalid    0                                1  0  0
//
// length is the number of bits of the code, total that of the code and the
// extra bits that follow it (RFC 1951 section 3.2.5), and width the number of
// bits that index the subtable. The decoder tests for a literal first and for
// special next, so the common cases need one test each.
type entry uint32

const (
	literal    entry = 1 << 31
	special    entry = 1 << 15
	subtable   entry = 1 << 14
	endOfBlock entry = 1 << 13
)

// size is the number of bits to drop after a code: those of the code and its
// extra bits. The mask tells the compiler that a shift by size needs no check.
func (e entry) size() uint { return uint(e & 63) }

// byte is the byte of a literal.
func (e entry) byte() byte { return byte(e >> 16) }

// value is the length or distance of a match: the base plus the extra bits,
// which follow the code in bits.
func (e entry) value(bits uint64) int {
	return int(e>>16) + int(bits&(1<<e.size()-1)>>(e>>8&15))
}

// index is where the subtable has the entry for bits, the first mainBits of
// which led to e.
func (e entry) index(bits uint64, mainBits uint) uint64 {
	return uint64(e>>16) + bits>>mainBits&(1<<(e>>8&15)-1)
}

const (
	maxBits = 15 // the longest code (RFC 1951 section 3.2.7)

	// The main tables are indexed by this many bits. Longer codes need a
	// second look-up, in a subtable.
	litBits  = 11
	distBits = 8
	codeBits = 7 // the longest code for a code length, so without subtables

	// A main table and the subtables that any code can need have at most this
	// many entries, as computed by examples/enough.c of zlib for 288 symbols
	// and 11 bits, and for 32 symbols and 8 bits.
	litSize  = 2342
	distSize = 402
)

type (
	litTable  [litSize]entry
	distTable [distSize]entry
)

// The entries of the symbols, still without the lengths of their codes. The
// symbols of code lengths are numbers below 19, so litEntries serves them too.
var (
	litEntries  = sync.OnceValue(newLitEntries)
	distEntries = sync.OnceValue(newDistEntries)
)

// The fixed codes, of blocks that define none (RFC 1951 section 3.2.6).
var (
	fixedLit  = sync.OnceValue(newFixedLit)
	fixedDist = sync.OnceValue(newFixedDist)
)

// newLitEntries returns the literal/length alphabet (RFC 1951 section 3.2.5):
// bytes, the end of a block, and the lengths of matches.
func newLitEntries() *[288]entry {
	entries := new([288]entry)
	bases := [...]entry{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	extra := [...]entry{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	for i := range entry(256) {
		entries[i] = literal | i<<16
	}
	entries[256] = special | endOfBlock
	for i, base := range bases {
		entries[257+i] = base<<16 | extra[i]
	}
	// The fixed code has codes for these two, which must not occur.
	entries[286], entries[287] = special, special
	return entries
}

// newDistEntries returns the alphabet of distances (RFC 1951 section 3.2.5).
func newDistEntries() *[32]entry {
	entries := new([32]entry)
	bases := [...]entry{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	extra := [...]entry{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	for i, base := range bases {
		entries[i] = base<<16 | extra[i]
	}
	entries[30], entries[31] = special, special
	return entries
}

func newFixedLit() *litTable {
	table := new(litTable)
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
	build(table[:], litBits, lengths[:], litEntries()[:])
	return table
}

func newFixedDist() *distTable {
	table := new(distTable)
	var lengths [32]uint8
	for i := range lengths {
		lengths[i] = 5
	}
	build(table[:], distBits, lengths[:], distEntries()[:])
	return table
}

// build fills the table for a Huffman code, which is given by the length of
// each symbol's code, 0 for a symbol without one (RFC 1951 section 3.2.2). It
// returns false if there is no such code.
//
// The table is indexed by the next mainBits bits of the file. A code of n bits
// that is no longer than that has an entry for each value of the bits after
// it: at the code, and at every further step of 1<<n. All longer codes with
// the same first mainBits bits share a subtable, which is indexed in the same
// way by the bits that follow. Subtables stand one after another behind the
// main table.
func build(table []entry, mainBits int, lengths []uint8, entries []entry) bool {
	var counts [maxBits + 1]int // of the codes of each length
	for _, n := range lengths {
		counts[n]++
	}

	// free is the number of strings of n bits that are not a code and do not
	// start with one. Each of them is the start of two strings of n+1 bits.
	longest, free := 0, 1
	for n := 1; n <= maxBits; n++ {
		free = 2*free - counts[n]
		if free < 0 {
			return false // there are more codes than bits can tell apart
		}
		if counts[n] > 0 {
			longest = n
		}
	}
	// A code that leaves some bits without a meaning is wrong, except that a
	// block may use one distance only, or none (RFC 1951 section 3.2.7). Like
	// compress/flate, take such a code for the other alphabets as well.
	main := 1 << mainBits
	if free > 0 {
		if longest > 1 {
			return false
		}
		for i := range main {
			table[i] = special
		}
	}

	// Sort the symbols by the lengths of their codes, then by value. This is
	// the numerical order of the codes.
	var next [maxBits + 1]int // where the next symbol of each length goes
	for n := 1; n < maxBits; n++ {
		next[n+1] = next[n] + counts[n]
	}
	var sorted [288]uint16
	for symbol, n := range lengths {
		if n > 0 {
			sorted[next[n]] = uint16(symbol)
			next[n]++
		}
	}

	var (
		code, length  int    // the next code and its length
		used          = main // entries of the table
		prefix        = -1   // of the codes in the last subtable
		sub, subWidth = 0, 0 // where it starts and how many bits index it
	)
	for _, symbol := range sorted[:next[maxBits]] {
		n := int(lengths[symbol])
		code <<= n - length
		length = n
		// Codes start with their most significant bit (RFC 1951 section 3.1.1),
		// but bits has the first bit of the file lowest.
		index := int(bits.Reverse16(uint16(code)) >> (16 - n))
		code++
		left := counts[n] // codes of n bits that have no entry yet, with this one
		counts[n]--
		e := entries[symbol] + entry(n<<8+n)
		if n <= mainBits {
			for ; index < main; index += 1 << n {
				table[index] = e
			}
			continue
		}
		if p := index & (main - 1); p != prefix {
			// In numerical order, all codes that share the prefix come now.
			// Together they fill the subtable, so make it just wide enough for
			// the longest of them: while room is left at one width, some of
			// them are longer.
			prefix, sub, subWidth = p, used, n-mainBits
			for room := 1<<subWidth - left; room > 0 && mainBits+subWidth < longest; {
				subWidth++
				room = 2*room - counts[mainBits+subWidth]
			}
			used += 1 << subWidth
			table[p] = special | subtable | entry(sub<<16|subWidth<<8)
		}
		for i := index >> mainBits; i < 1<<subWidth; i += 1 << (n - mainBits) {
			table[sub+i] = e
		}
	}
	return true
}
