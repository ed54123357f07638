package seekable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// Index describes an archive. All offsets and sizes are in bytes.
type Index struct {
	TarSum  [32]byte // SHA-256 of the tar
	TarSize int64
	Pieces  []Piece // in the order of the tar
	Frames  []Frame // likewise; they begin the file, and make the whole tar
	Patches []Patch // in the order of the file, where they follow the data frames

	between []byte // what is between the pieces, compressed
}

// Piece is the contents of a file in the tar, or a chunk of it.
type Piece struct {
	Offset, Size int64 // in the tar
	Sum          Sum
}

// Frame is a data frame.
type Frame struct {
	Offset, Size       int64 // in the file
	TarOffset, TarSize int64 // of what it decompresses to
}

// Patch makes a part of the contents of a file in the tar.
type Patch struct {
	Offset, Size       int64 // of its Zstandard frame, in the file
	TarOffset, TarSize int64 // of what it makes; it consists of whole pieces
	Base               Base
}

// Base is the part of an older file that a patch was made against. It is the raw
// dictionary with which the patch is to be decompressed. The zero value stands for
// a patch that needs none.
type Base struct {
	Path         string // of the file in the older tree; "" for the path that the file has in the tar
	FileSize     int64
	FileSum      Sum // of the whole file
	Offset, Size int64
}

// Limits of an index. They bound the memory that a wrong one takes to 64 MiB, except
// for the maps of sparse files in its headers, for which package archive has limits.
const (
	// MaxIndex limits the size of an encoded index, in bytes.
	MaxIndex = 16 << 20
	// MaxFrame limits what a data frame or a patch decompresses to, in bytes.
	MaxFrame = 8 << 20
	// MaxBase limits the dictionary of a patch, in bytes.
	MaxBase = 16 << 20

	// MaxMemory limits how much memory deploying by an index may take, in bytes. See
	// Memory.
	MaxMemory = 60 << 20

	maxTables  = 14 << 20 // bytes of the tables in an index
	maxPieces  = 512 << 10
	maxFrames  = 128 << 10
	maxPatches = 64 << 10
	maxPath    = 4096 // as PATH_MAX
)

// CheckPlace returns what is wrong with the offset and the size of an index in an
// archive, in bytes, or with its SHA-256 in hex.
func CheckPlace(offset, size int64, sum string) error {
	digest, err := hex.DecodeString(sum)
	switch {
	case err != nil || len(digest) != sha256.Size:
		return fmt.Errorf("index: sha256 %.70q is not the hex of a sha256", sum)
	case offset < 0, offset > math.MaxInt64-MaxIndex:
		return fmt.Errorf("index: offset %d is impossible", offset)
	case size < 1 || size > MaxIndex:
		return fmt.Errorf("index: size %d is not from 1 to %d", size, MaxIndex)
	}
	return nil
}

// Memory returns about how many bytes of memory deploying by an index takes at most,
// without those for the headers of the tar.
func Memory(pieces, patches int) int64 { return 300 * int64(pieces+patches) }

// DataSize returns the size of all data frames together.
func (x *Index) DataSize() int64 {
	if len(x.Frames) == 0 {
		return 0
	}
	last := x.Frames[len(x.Frames)-1]
	return last.Offset + last.Size
}

// Between returns what is between the pieces: the headers and the padding of the
// tar, in its order. Together with the pieces they need not have TarSize bytes: the
// index may be wrong.
func (x *Index) Between() (io.ReadCloser, error) {
	z, err := zstd.NewReader(bytes.NewReader(x.between), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxFrame))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}
