// Package seekable is the format of an archive of which parts can be fetched: a
// tar.zst that every zstd(1) and tar(1) can read, with a description of where
// everything in it is. A host that has an older version of the tree fetches the
// description, finds what it has already, and fetches only the rest.
//
// The file consists of Zstandard frames (RFC 8878), in this order:
//
//	data frames   the tar; each frame can be decompressed without the others
//	patches       a skippable frame for each older version that the archive was
//	              packed against, with frames that make new contents from old
//	index         a skippable frame that describes the above
//	seek table    as specified by contrib/seekable_format of the zstd repository,
//	              for programs that read a part of the tar
//
// The index has a digest of each piece of the tar, and a copy of everything else in
// it. A piece is the contents of a file, or a chunk of the contents of a large one.
// So a host can find out which pieces it has, whatever the files were called.
//
// Whoever reads an index must compare each piece with its digest, wherever the
// piece comes from: the index may lie, and files may change while they are read.
package seekable

import (
	"crypto/sha256"
	"encoding/binary"
)

// Magic numbers of skippable frames (RFC 8878, section 3.1.2).
const (
	magicParts     = 0x184D2A57 // patches, or the index; one of the 16 that are free to use
	magicSeekTable = 0x184D2A5E // prescribed by contrib/seekable_format
)

const (
	// MaxChunk is how large a piece may be, in bytes. A larger file is cut into
	// chunks of AverageChunk bytes on average. Only its last chunk may have less than
	// MinChunk bytes.
	MaxChunk     = 256 << 10
	MinChunk     = 16 << 10
	AverageChunk = 64 << 10

	// frameTarget is how many bytes of the tar a data frame has if the tar
	// consists of small files. With larger frames, a host would fetch more of what it
	// has already; with smaller ones, the archive would be larger.
	frameTarget = 128 << 10
)

// skippableHeader is how many bytes the header of a skippable frame has.
const skippableHeader = 8

// Sum is the digest of contents: the first half of their SHA-256, because the other
// half would make the index larger by a quarter. To find two contents with the same
// digest takes about 2^64 attempts, and to find other contents with a given digest
// takes 2^128.
type Sum [16]byte

// SumOf returns the digest of contents.
func SumOf(contents []byte) Sum {
	sum := sha256.Sum256(contents)
	return Sum(sum[:])
}

// appendSkippable appends the header of a skippable frame with size bytes.
func appendSkippable(b []byte, magic uint32, size int) []byte {
	b = binary.LittleEndian.AppendUint32(b, magic)
	return binary.LittleEndian.AppendUint32(b, uint32(size))
}
