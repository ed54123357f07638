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
// Of the tar, the index has a digest of each piece, and a copy of all else. A
// piece is the contents of a file, or a chunk of the contents of a large one. So
// a host can find out which pieces it has, whatever the files were called.
//
// Whoever reads an index must compare each piece with its digest, wherever the
// piece comes from: the index may lie, and files may change while they are read.
package seekable

import (
	"crypto/sha256"
	"encoding/binary"
)

// Magic numbers of skippable frames (RFC 8878, section 3.1.2). The format of the
// seek table prescribes the latter; the former is one of those free to use.
const (
	magicParts     = 0x184D2A57 // patches, or the index
	magicSeekTable = 0x184D2A5E
)

const (
	// MaxChunk is how large a piece may be, in bytes. Larger files are cut into
	// chunks of at least MinChunk bytes, the last one aside, and of AverageChunk
	// bytes on average.
	MaxChunk     = 256 << 10
	MinChunk     = 16 << 10
	AverageChunk = 64 << 10

	// frameTarget is how many bytes of the tar a data frame has if the tar
	// consists of small files. If it had more, a host would fetch more that it has
	// already; if it had less, the archive would be larger.
	frameTarget = 128 << 10
)

// skippableHeader is how many bytes the header of a skippable frame has.
const skippableHeader = 8

// Sum is the digest of contents: the first half of its SHA-256, since the other
// half would make the index larger by a quarter. To find other contents with the
// same digest takes 2^64 attempts for whoever makes both, and 2^128 for all others.
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
