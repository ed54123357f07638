package archive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxFrame is how many bytes a frame may have, compressed or not, to be
	// decompressed in memory.
	maxFrame = 2 << 20
	// maxFrames is how many frames are in memory at most. With fewer, processors
	// fall asleep between frames that take 0.1 ms each, and to wake them takes as
	// long. Together they need at most as much memory as a large window.
	maxFrames = maxWindow / (2 * maxFrame)
	// maxFrameHeader is the size of the longest header of a frame (RFC 8878,
	// section 3.1.1.1).
	maxFrameHeader = 18
)

// zstdReader decompresses a zstd file. As long as the frames are small and say how
// large their contents are, as those of stretcher pack do, it reads ahead and
// decompresses several at a time. From the first frame on that is different, or
// damaged such that its end is not clear, it decompresses the file as a stream.
type zstdReader struct {
	ahead  *aheadReader
	packed *bufio.Reader
	frames *zstd.Decoder // decompresses whole frames

	started chan *zstdFrame // in the order of the file
	unused  []*zstdFrame
	current *zstdFrame // the one that rest is of, or nil
	rest    []byte     // the part of it that Read has not returned yet

	// What follows the frames that have been started: a stream, or an error, which may
	// be io.EOF. Both are nil as long as that is not known.
	stream *zstd.Decoder
	err    error
}

// zstdFrame is a frame that is decompressed in a goroutine of its own.
type zstdFrame struct {
	packed   []byte
	done     chan struct{} // has a value once contents and err are valid
	contents []byte
	err      error
}

func newZstdReader(ctx context.Context, br *bufio.Reader) (*zstdReader, error) {
	if window := zstdWindow(br); window > maxWindow {
		return nil, windowError("a zstd window", window, zstdSmaller)
	}
	workers := min(runtime.GOMAXPROCS(0), maxFrames)
	frames, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(workers))
	if err != nil {
		return nil, err
	}
	ahead := readAhead(ctx, br, func() {})
	return &zstdReader{
		ahead:   ahead,
		packed:  bufio.NewReaderSize(ahead, 4<<10),
		frames:  frames,
		started: make(chan *zstdFrame, maxFrames),
	}, nil
}

// wait waits for the frames that have been started, and drops them.
func (z *zstdReader) wait() {
	for len(z.started) > 0 {
		<-(<-z.started).done
	}
}

func (z *zstdReader) close() {
	z.wait()
	z.frames.Close()
	if z.stream != nil {
		z.stream.Close()
	}
	z.ahead.stop()
}

func (z *zstdReader) Read(p []byte) (int, error) {
	for len(z.rest) == 0 {
		if z.current != nil {
			z.unused = append(z.unused, z.current)
			z.current = nil
		}
		for z.stream == nil && z.err == nil && len(z.started) < cap(z.started) {
			z.err = z.startFrame()
		}
		switch {
		case len(z.started) > 0:
			z.current = <-z.started
			<-z.current.done
			if err := z.current.err; err != nil {
				z.wait()
				z.err = zstdError(err)
				return 0, z.err
			}
			z.rest = z.current.contents
		case z.err != nil:
			return 0, z.err
		default:
			n, err := z.stream.Read(p)
			return n, zstdError(err)
		}
	}
	n := copy(p, z.rest)
	z.rest = z.rest[n:]
	return n, nil
}

// startFrame starts to decompress the next frame, or else the stream that begins
// with it. It returns io.EOF at the end of the file.
func (z *zstdReader) startFrame() error {
	head, err := z.packed.Peek(maxFrameHeader)
	if len(head) == 0 {
		return err
	}
	var h zstd.Header
	err = h.Decode(head)
	if err == nil && h.Skippable {
		size := int64(h.HeaderSize) + int64(h.SkippableSize)
		if _, err = io.CopyN(io.Discard, z.packed, size); err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	f := &zstdFrame{done: make(chan struct{}, 1)}
	if n := len(z.unused); n > 0 {
		f, z.unused = z.unused[n-1], z.unused[:n-1]
	}
	f.packed = f.packed[:0]
	if err != nil || !f.read(z.packed, &h) {
		return z.startStream(f.packed, windowOf(&h))
	}
	z.started <- f
	go func() {
		f.contents, f.err = z.frames.DecodeAll(f.packed, f.contents[:0])
		f.done <- struct{}{}
	}()
	return nil
}

// read reads a frame. It returns false if the frame has to be read as a stream, of
// which f.packed is then the beginning.
func (f *zstdFrame) read(r io.Reader, h *zstd.Header) bool {
	if !h.SingleSegment || h.FrameContentSize > maxFrame || !f.append(r, h.HeaderSize) {
		return false
	}
	for last := false; !last; {
		// A block has a header of 3 bytes (RFC 8878, section 3.1.1.2).
		if !f.append(r, 3) {
			return false
		}
		b := f.packed[len(f.packed)-3:]
		last = b[0]&1 != 0
		size := (int(b[0]) | int(b[1])<<8 | int(b[2])<<16) >> 3
		if repeated := b[0]>>1&3 == 1; repeated {
			size = 1 // one byte is stored, and size is how often
		}
		if !f.append(r, size) {
			return false
		}
	}
	return !h.HasCheckSum || f.append(r, 4)
}

// append reads n bytes more, if the frame does not become too large.
func (f *zstdFrame) append(r io.Reader, n int) bool {
	size := len(f.packed)
	if size+n > maxFrame {
		return false
	}
	f.packed = slices.Grow(f.packed, n)
	more, err := io.ReadFull(r, f.packed[size:size+n])
	f.packed = f.packed[:size+more]
	return err == nil
}

// startStream starts to decompress the rest of the file, which begins with the
// given bytes.
func (z *zstdReader) startStream(begin []byte, window uint64) (err error) {
	// The decoder is faster if it has memory for twice the window, because it
	// then does not move the window for every block. Small windows can have
	// that.
	const small = 16 << 20
	rest := io.MultiReader(bytes.NewReader(begin), z.packed)
	z.stream, err = zstd.NewReader(rest, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(window > small), zstd.WithDecoderConcurrency(1))
	return err
}

// zstdWindow returns how large a window the first frame needs, in bytes, or 0 where
// that is not clear.
func zstdWindow(br *bufio.Reader) uint64 {
	var first zstd.Header
	head, _ := br.Peek(4 << 10) // a short file has less, which Decode reports
	for first.Decode(head) == nil {
		if !first.Skippable {
			return windowOf(&first)
		}
		skip := uint64(first.HeaderSize) + uint64(first.SkippableSize)
		if skip > uint64(len(head)) {
			break
		}
		head = head[skip:]
	}
	return 0
}

// windowOf returns how large a window a frame needs, in bytes.
func windowOf(h *zstd.Header) uint64 {
	if h.SingleSegment {
		return h.FrameContentSize
	}
	return h.WindowSize
}

// zstdSmaller is how to make a window smaller.
const zstdSmaller = "zstd --long=27 or less"

// zstdError mentions the limit when a frame after the first one exceeds it.
func zstdError(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return hopelessError{fmt.Errorf("decompress the archive: %w: the limit of a zstd window is %s: compress with %s", err, humanize.IBytes(maxWindow), zstdSmaller)}
	}
	return err
}
