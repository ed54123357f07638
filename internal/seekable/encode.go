package seekable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"
)

// An encoded index consists of
//
//	the length of the compressed tables
//	the tables, compressed by Zstandard:
//	    the version of the format, the SHA-256 and the size of the tar
//	    the number of pieces; for each, the distance from the end of the one
//	    before, and the size; then the digests of all of them
//	    the number of data frames; for each, the size in the file and in the tar
//	    the number of patches; for each, in the file and then in the tar, the
//	    distance from the end of the one before, and the size; then the length and
//	    the bytes of the path of the base, size and digest of its file, offset and
//	    size of the part
//	what is between the pieces, compressed by Zstandard
//
// Numbers are varints of package encoding/binary. Only the distance of a patch in the
// tar is signed. What follows from other numbers is not stored, so that it cannot
// contradict them.

const version = 1

// Encode returns the encoded index. It fails for an archive that is too large for one.
func (x *Index) Encode() ([]byte, error) {
	if len(x.Pieces) > maxPieces || len(x.Frames) > maxFrames || len(x.Patches) > maxPatches {
		return nil, fmt.Errorf("the archive is too large for an index: %d pieces, %d frames and %d patches, of %d, %d and %d: pack it in a format without one", len(x.Pieces), len(x.Frames), len(x.Patches), maxPieces, maxFrames, maxPatches)
	}
	t := []byte{version}
	t = append(t, x.TarSum[:]...)
	put := func(numbers ...int64) {
		for _, n := range numbers {
			t = binary.AppendUvarint(t, uint64(n))
		}
	}
	put(x.TarSize, int64(len(x.Pieces)))
	var end int64
	for _, p := range x.Pieces {
		put(p.Offset-end, p.Size)
		end = p.Offset + p.Size
	}
	for _, p := range x.Pieces {
		t = append(t, p.Sum[:]...)
	}
	put(int64(len(x.Frames)))
	for _, f := range x.Frames {
		put(f.Size, f.TarSize)
	}
	put(int64(len(x.Patches)))
	end = x.DataSize()
	var tarEnd int64
	for _, p := range x.Patches {
		put(p.Offset-end, p.Size)
		t = binary.AppendVarint(t, p.TarOffset-tarEnd) // negative where the patches of another version begin
		put(p.TarSize, int64(len(p.Base.Path)))
		t = append(t, p.Base.Path...)
		put(p.Base.FileSize)
		t = append(t, p.Base.FileSum[:]...)
		put(p.Base.Offset, p.Base.Size)
		end, tarEnd = p.Offset+p.Size, p.TarOffset+p.TarSize
	}
	packed, err := compress(t)
	if err != nil {
		return nil, err
	}
	encoded := binary.AppendUvarint(nil, uint64(len(packed)))
	encoded = append(append(encoded, packed...), x.between...)
	if len(t) > maxTables || len(encoded) > MaxIndex {
		return nil, fmt.Errorf("the archive is too large for an index, which would have %d bytes of %d, and tables of %d bytes of %d: pack it in a format without one", len(encoded), MaxIndex, len(t), maxTables)
	}
	return encoded, nil
}

// compress compresses data as well as possible.
func compress(data []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxFrame))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(data, nil), z.Close()
}

// Decode decodes an index. The index keeps a part of encoded. Its numbers are
// within the limits of this package and do not contradict each other, but the
// digests, the sizes in the file and what is between the pieces are still to be
// verified by use.
func Decode(encoded []byte) (*Index, error) {
	x, err := decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("index of the archive: %w", err)
	}
	return x, nil
}

func decode(encoded []byte) (*Index, error) {
	if len(encoded) > MaxIndex {
		return nil, fmt.Errorf("it has %d bytes, more than the limit of %d", len(encoded), MaxIndex)
	}
	outer := decoder{encoded}
	size, err := outer.number(int64(len(encoded)))
	if err != nil {
		return nil, err
	}
	packed, err := outer.bytes(size)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxTables), zstd.WithDecoderMaxWindow(maxTables))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	tables, err := z.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress it: %w", err)
	}
	x := &Index{between: outer.rest}
	if err := x.decodeTables(&decoder{tables}); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *Index) decodeTables(d *decoder) error {
	v, err := d.bytes(1)
	if err != nil {
		return err
	}
	if v[0] != version {
		return fmt.Errorf("its version %d is not %d, which this agent knows", v[0], version)
	}
	sum, err := d.bytes(int64(len(x.TarSum)))
	if err != nil {
		return err
	}
	copy(x.TarSum[:], sum)
	if x.TarSize, err = d.number(math.MaxInt64 / 2); err != nil {
		return err
	}
	if err := x.decodePieces(d); err != nil {
		return fmt.Errorf("pieces: %w", err)
	}
	if err := x.decodeFrames(d); err != nil {
		return fmt.Errorf("data frames: %w", err)
	}
	if err := x.decodePatches(d); err != nil {
		return fmt.Errorf("patches: %w", err)
	}
	if len(d.rest) > 0 {
		return fmt.Errorf("%d bytes are left", len(d.rest))
	}
	return nil
}

func (x *Index) decodePieces(d *decoder) error {
	n, err := d.number(maxPieces)
	if err != nil {
		return err
	}
	x.Pieces = make([]Piece, n)
	var end int64
	for i := range x.Pieces {
		p := &x.Pieces[i]
		if p.Offset, p.Size, err = d.span(end, MaxChunk, x.TarSize); err != nil {
			return err
		}
		end = p.Offset + p.Size
	}
	for i := range x.Pieces {
		if err := d.sum(&x.Pieces[i].Sum); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) decodeFrames(d *decoder) error {
	n, err := d.number(maxFrames)
	if err != nil {
		return err
	}
	x.Frames = make([]Frame, n)
	var end, tarEnd int64
	for i := range x.Frames {
		f := Frame{Offset: end, TarOffset: tarEnd}
		if f.Size, err = d.size(maxPacked(MaxFrame)); err != nil {
			return err
		}
		if f.TarSize, err = d.size(min(MaxFrame, x.TarSize-tarEnd)); err != nil {
			return err
		}
		if f.Size > maxPacked(f.TarSize) {
			return errImpossible
		}
		x.Frames[i] = f
		end, tarEnd = end+f.Size, tarEnd+f.TarSize
	}
	if tarEnd != x.TarSize {
		return fmt.Errorf("they make %d bytes of the %d of the tar", tarEnd, x.TarSize)
	}
	return nil
}

func (x *Index) decodePatches(d *decoder) error {
	n, err := d.number(maxPatches)
	if err != nil {
		return err
	}
	x.Patches = make([]Patch, n)
	end, tarEnd := x.DataSize(), int64(0)
	for i := range x.Patches {
		p := &x.Patches[i]
		if p.Offset, p.Size, err = d.span(end, maxPacked(MaxFrame), math.MaxInt64/2); err != nil {
			return err
		}
		distance, err := d.signed()
		if err != nil {
			return err
		}
		if distance < -tarEnd || distance > x.TarSize-tarEnd {
			return errImpossible
		}
		p.TarOffset = tarEnd + distance
		if p.TarSize, err = d.size(min(MaxFrame, x.TarSize-p.TarOffset)); err != nil {
			return err
		}
		if p.Size > maxPacked(p.TarSize) {
			return errImpossible
		}
		if err := d.base(&p.Base); err != nil {
			return fmt.Errorf("base: %w", err)
		}
		end, tarEnd = p.Offset+p.Size, p.TarOffset+p.TarSize
	}
	return nil
}

// maxPacked returns how large a frame of size bytes of contents can be. An encoder
// stores what it cannot compress.
func maxPacked(size int64) int64 { return size + size/256 + 64 }

var errImpossible = errors.New("a number is impossible")

// decoder decodes the parts of an index one after the other.
type decoder struct{ rest []byte }

// number decodes a number from 0 to limit.
func (d *decoder) number(limit int64) (int64, error) {
	n, length := binary.Uvarint(d.rest)
	if length <= 0 || limit < 0 || n > uint64(limit) {
		return 0, errImpossible
	}
	d.rest = d.rest[length:]
	return int64(n), nil
}

// size decodes a number from 1 to limit.
func (d *decoder) size(limit int64) (int64, error) {
	n, err := d.number(limit)
	if n == 0 && err == nil {
		err = errImpossible
	}
	return n, err
}

// signed decodes a signed number.
func (d *decoder) signed() (int64, error) {
	n, length := binary.Varint(d.rest)
	if length <= 0 {
		return 0, errImpossible
	}
	d.rest = d.rest[length:]
	return n, nil
}

// span decodes a distance from end and a size of at most maxSize, within limit.
func (d *decoder) span(end, maxSize, limit int64) (offset, size int64, err error) {
	distance, err := d.number(limit - end)
	if err != nil {
		return 0, 0, err
	}
	offset = end + distance
	size, err = d.size(min(maxSize, limit-offset))
	return offset, size, err
}

// bytes returns the next n bytes.
func (d *decoder) bytes(n int64) ([]byte, error) {
	if n < 0 || n > int64(len(d.rest)) {
		return nil, errors.New("it is cut off")
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b, nil
}

func (d *decoder) sum(to *Sum) error {
	b, err := d.bytes(int64(len(to)))
	copy(to[:], b)
	return err
}

func (d *decoder) base(b *Base) error {
	length, err := d.number(maxPath)
	if err != nil {
		return err
	}
	path, err := d.bytes(length)
	if err != nil {
		return err
	}
	b.Path = string(path)
	if b.FileSize, err = d.number(math.MaxInt64 / 2); err != nil {
		return err
	}
	if err := d.sum(&b.FileSum); err != nil {
		return err
	}
	if b.Offset, err = d.number(b.FileSize); err != nil {
		return err
	}
	b.Size, err = d.number(min(MaxBase, b.FileSize-b.Offset))
	return err
}
