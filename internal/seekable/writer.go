package seekable

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Writer writes an archive. What is written to it is the tar, in which File
// announces the contents of each file. The same calls always give the same bytes.
// After an error of out, Write, Index, Patches and Finish return that error.
type Writer struct {
	index   Index
	tarSum  hash.Hash
	left    int64 // bytes of the contents that File has announced
	chunked bool  // they are cut into chunks
	piece   bytes.Buffer
	frame   bytes.Buffer  // of the tar, for the next data frame
	between *zstd.Encoder // writes to packed
	packed  bytes.Buffer

	encoders [2]*zstd.Encoder // of data frames: the best one, and a fast one
	frames   chan chan []byte // data frames in their order, which are being compressed
	written  chan struct{}    // closed when all of them have been written
	sizes    []uint32         // of all frames in the file; the data frames first

	// The goroutine that writes frames uses them until written is closed.
	out    io.Writer
	offset int64
	err    error

	failed atomic.Bool // err is set
}

// maxWorkers limits how many data frames are compressed at a time, because each
// encoder takes about 40 MB.
const maxWorkers = 4

// fastEvery says that every second data frame is compressed by the fast encoder. That
// makes a frame larger by 5 %, but takes a sixth of the time. Neither number depends
// much on the contents.
const fastEvery = 2

// NewWriter returns a Writer that writes an archive to out. It compresses as many
// frames at a time as there are processors, up to 4. Close must be called in any case.
func NewWriter(out io.Writer) (*Writer, error) {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	w := &Writer{tarSum: sha256.New(), frames: make(chan chan []byte, workers), written: make(chan struct{}), out: out}
	var err error
	for i, level := range []zstd.EncoderLevel{zstd.SpeedBestCompression, zstd.SpeedBetterCompression} {
		// Every frame has the size of its contents, so that a decoder needs no more
		// memory than that, and a checksum, which all decoders verify.
		w.encoders[i], err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(workers),
			zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true), zstd.WithWindowSize(1<<20))
		if err != nil {
			return nil, err
		}
	}
	w.between, err = zstd.NewWriter(&w.packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxFrame))
	if err != nil {
		return nil, err
	}
	go w.writeFrames(w.frames)
	return w, nil
}

// File announces that the next size bytes are the contents of a file. Those of the
// file before must have been written.
func (w *Writer) File(size int64) error {
	if w.left > 0 {
		return fmt.Errorf("pack the archive: %d bytes of a file are missing", w.left)
	}
	w.left, w.chunked = size, size > MaxChunk
	return nil
}

// Write writes the next bytes of the tar. Frames are written in the background, so the
// error may be that of an earlier one.
func (w *Writer) Write(p []byte) (int, error) {
	if w.failed.Load() { // to compress the rest would take long, and be in vain
		return 0, w.endData()
	}
	w.tarSum.Write(p)
	for rest := p; len(rest) > 0; {
		var n int
		var err error
		if w.left > 0 {
			n = int(min(w.left, int64(len(rest)), MaxChunk))
			err = w.contents(rest[:n])
		} else {
			n = min(len(rest), frameTarget)
			_, err = w.between.Write(rest[:n])
			w.add(rest[:n])
		}
		if err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// contents takes the next bytes of a file, and adds the pieces that are complete.
func (w *Writer) contents(p []byte) error {
	w.left -= int64(len(p))
	w.piece.Write(p)
	for w.left == 0 && w.piece.Len() > 0 || w.chunked && w.piece.Len() >= MaxChunk {
		size := w.piece.Len()
		if w.chunked {
			size = Cut(w.piece.Bytes())
		}
		piece := w.piece.Next(size)
		if w.frame.Len()+size > frameTarget {
			w.flush()
		}
		w.index.Pieces = append(w.index.Pieces, Piece{Offset: w.index.TarSize, Size: int64(size), Sum: SumOf(piece)})
		w.add(piece)
		if w.chunked {
			w.flush() // or else a host would fetch a chunk with the next file
		}
	}
	return nil
}

// add adds bytes of the tar to the data frame.
func (w *Writer) add(p []byte) {
	w.frame.Write(p)
	w.index.TarSize += int64(len(p))
	if w.frame.Len() >= frameTarget {
		w.flush()
	}
}

// flush ends the data frame.
func (w *Writer) flush() {
	if w.frame.Len() == 0 {
		return
	}
	tar := bytes.Clone(w.frame.Bytes())
	w.frame.Reset()
	w.index.Frames = append(w.index.Frames, Frame{TarOffset: w.index.TarSize - int64(len(tar)), TarSize: int64(len(tar))})
	compressed := make(chan []byte, 1)
	w.frames <- compressed
	encoder := w.encoders[0]
	if len(w.index.Frames)%fastEvery == 0 {
		encoder = w.encoders[1]
	}
	go func() { compressed <- encoder.EncodeAll(tar, nil) }()
}

// writeFrames writes the data frames.
func (w *Writer) writeFrames(frames <-chan chan []byte) {
	defer close(w.written)
	for compressed := range frames {
		w.write(<-compressed)
	}
}

// write writes a frame.
func (w *Writer) write(frame ...[]byte) {
	var size int64
	for _, b := range frame {
		if w.err == nil {
			_, w.err = w.out.Write(b)
			w.failed.Store(w.err != nil)
		}
		size += int64(len(b))
	}
	w.sizes = append(w.sizes, uint32(size))
	w.offset += size
}

var errTooLarge = errors.New("they have more than 4 GiB, which is too much for the seek table: pack without this base")

// Pieces returns the number of pieces so far. Until the contents of a file have been
// written, it is the place in the index of the file's first piece.
func (w *Writer) Pieces() int { return len(w.index.Pieces) }

// Index returns the index of the tar, once the whole tar has been written. It has
// the patches that have been written so far.
func (w *Writer) Index() (*Index, error) {
	err := w.endData()
	return &w.index, err
}

// endData ends the data frames and the tar.
func (w *Writer) endData() error {
	if w.frames == nil {
		return w.err
	}
	w.flush()
	close(w.frames)
	w.frames = nil
	<-w.written
	var offset int64
	for i := range w.index.Frames {
		f := &w.index.Frames[i]
		f.Offset, f.Size = offset, int64(w.sizes[i])
		offset += f.Size
	}
	copy(w.index.TarSum[:], w.tarSum.Sum(nil))
	err := errors.Join(w.between.Close(), w.encoders[0].Close(), w.encoders[1].Close())
	w.encoders = [2]*zstd.Encoder{} // patches need the memory
	if err == nil && w.left > 0 {
		err = fmt.Errorf("pack the archive: %d bytes of a file are missing", w.left)
	}
	if w.err == nil {
		w.err = err
	}
	w.index.between = w.packed.Bytes()
	return w.err
}

// Patches writes the patches against one older version, once the whole tar has been
// written. Their offsets are those in packed, which has size bytes.
func (w *Writer) Patches(patches []Patch, packed io.Reader, size int64) error {
	if err := w.endData(); err != nil {
		return err
	}
	if size > math.MaxUint32-skippableHeader {
		return errTooLarge
	}
	header := appendSkippable(nil, magicParts, int(size))
	if _, w.err = w.out.Write(header); w.err != nil {
		return w.err
	}
	n, err := io.Copy(w.out, packed)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		w.err = err
		return err
	}
	for _, p := range patches {
		p.Offset += w.offset + int64(len(header))
		w.index.Patches = append(w.index.Patches, p)
	}
	w.sizes = append(w.sizes, uint32(len(header))+uint32(size))
	w.offset += int64(len(header)) + size
	return nil
}

// Place is where an index is in its file, and its SHA-256.
type Place struct {
	Offset, Size int64 // in bytes
	Sum          [32]byte
}

// Finish writes the index and the seek table, which end the file.
func (w *Writer) Finish() (Place, error) {
	if err := w.endData(); err != nil {
		return Place{}, err
	}
	encoded, err := w.index.Encode()
	if err != nil {
		w.err = err
		return Place{}, err
	}
	place := Place{w.offset + skippableHeader, int64(len(encoded)), sha256.Sum256(encoded)}
	w.write(appendSkippable(nil, magicParts, len(encoded)), encoded)
	w.write(w.seekTable())
	return place, w.err
}

// seekTable returns the seek table of all frames so far, with its skippable frame.
func (w *Writer) seekTable() []byte {
	const footer, seekableMagic = 9, 0x8F92EAB1
	b := appendSkippable(nil, magicSeekTable, 8*len(w.sizes)+footer)
	for i, size := range w.sizes {
		contents := int64(0) // of a skippable frame
		if i < len(w.index.Frames) {
			contents = w.index.Frames[i].TarSize
		}
		b = binary.LittleEndian.AppendUint32(b, size)
		b = binary.LittleEndian.AppendUint32(b, uint32(contents))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(w.sizes)))
	b = append(b, 0) // the descriptor: no checksums in the table
	return binary.LittleEndian.AppendUint32(b, seekableMagic)
}

// Close frees what the Writer uses. It does not finish the archive.
func (w *Writer) Close() { _ = w.endData() }
