package seekable

import (
	"math"
	"sync"
)

// chunkEnd is the bound below which the rolling hash ends a chunk of at least
// MinChunk bytes, so that chunks have AverageChunk bytes on average.
const chunkEnd = math.MaxUint64 / (AverageChunk - MinChunk)

// Cut returns the size of the first chunk of data. data must begin where the file
// or a chunk of it does, and have MaxChunk bytes unless the file ends before. The
// size depends on the contents alone, so that an insertion into a file changes
// only the chunks near it.
//
// The rolling hash is a gear hash, which depends on the last 64 bytes (Xia et
// al., "Ddelta: A deduplication-inspired fast delta compression approach", 2014).
func Cut(data []byte) int {
	if len(data) <= MinChunk {
		return len(data)
	}
	data = data[:min(len(data), MaxChunk)]
	gear := gearTable()
	var hash uint64
	for _, c := range data[MinChunk-64 : MinChunk] {
		hash = hash<<1 + gear[c]
	}
	for i, c := range data[MinChunk:] {
		if hash = hash<<1 + gear[c]; hash < chunkEnd {
			return MinChunk + i + 1
		}
	}
	return len(data)
}

// gearTable has a number for each byte. Agents must cut as the packer has, so the
// numbers are a part of the format: they are the first results of splitmix64
// (Steele et al., "Fast splittable pseudorandom number generators", 2014) from the
// state 0.
var gearTable = sync.OnceValue(func() *[256]uint64 {
	var table [256]uint64
	var state uint64
	for i := range table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return &table
})
