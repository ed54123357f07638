package pack

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// reach is how far the base of a patch extends beyond the place of the patched
	// part, in bytes, in a file that is larger than a base may be.
	reach = 4 << 20
	// worthwhile is how large a patch may be, compared with the data frames that
	// need not be fetched because of it.
	worthwhile = 0.6
	// maxBetween is how many bytes between two missing pieces a patch may make as well,
	// although the base has them.
	maxBetween = 256 << 10
	// small is the size of a patched part and its base together, in bytes, up to
	// which the best encoder takes longer to prepare its tables than to compress.
	small = 512 << 10
)

// part is a part of a new file that a base does not have.
type part struct {
	file   *file
	pieces []seekable.Piece // from the first to the last missing one
	offset int64            // of the part in the file, in bytes
	old    *oldFile         // nil if the base has no older version of the file
	saved  int64            // bytes of the data frames that contain the missing pieces

	first, last int // the numbers of the first and the last piece in the index
}

// end returns where a piece ends.
func end(p seekable.Piece) int64 { return p.Offset + p.Size }

func (p *part) size() int64 { return end(p.pieces[len(p.pieces)-1]) - p.pieces[0].Offset }

// writePatches writes the patches against a base.
func (t *tree) writePatches(ctx context.Context, w *seekable.Writer, index *seekable.Index, base *Base) (result Patches, err error) {
	result.Base = base.Name
	parts, err := t.parts(ctx, index, base)
	if err != nil || len(parts) == 0 {
		return result, err
	}
	spool, err := unixfs.TempFile()
	if err != nil {
		return result, err
	}
	defer spool.Close()
	var total int64
	for _, p := range parts {
		total += p.size()
	}
	step := progress.Reporter{}.Start("Making patches against "+redact.Printable(base.Name), func() (files, bytes int64) { return 0, total })
	defer step.End()
	var patches []seekable.Patch
	add := func(p *part, made patch) error {
		step.AddBytes(p.size())
		size := int64(len(made.frame))
		if float64(size) > worthwhile*float64(p.saved) {
			return nil
		}
		patches = append(patches, seekable.Patch{Offset: result.Size, Size: size, TarOffset: p.pieces[0].Offset, TarSize: p.size(), Base: made.base})
		result.Size += size
		_, err := spool.Write(made.frame)
		return unixfs.TempSpaceError("the patches", err, result.Size)
	}
	if err := inOrder(ctx, parts, t.makePatch, add); err != nil || len(patches) == 0 {
		return result, err
	}
	result.Count = len(patches)
	return result, w.Patches(patches, io.NewSectionReader(spool, 0, result.Size), result.Size)
}

// parts returns the parts of the new files that the base does not have.
func (t *tree) parts(ctx context.Context, index *seekable.Index, base *Base) ([]*part, error) {
	var parts []*part
	frame, counted := 0, -1
	for _, f := range t.files {
		if f.header.Typeflag != tar.TypeReg || f.size == 0 {
			continue
		}
		old := base.find(f.path)
		if old != nil && old.size == 0 {
			old = nil // agents look for bases that have contents
		}
		known := base.whole
		if old != nil && f.size > seekable.MaxChunk {
			var err error
			if known, err = old.chunks(ctx); err != nil {
				return nil, err
			}
		}
		var p *part
		start := index.Pieces[f.firstPiece].Offset
		for i := f.firstPiece; i < len(index.Pieces) && index.Pieces[i].Offset < start+f.size; i++ {
			piece := index.Pieces[i]
			if known[piece.Sum] {
				continue
			}
			if p == nil || piece.Offset-end(index.Pieces[p.last]) > maxBetween || end(piece)-index.Pieces[p.first].Offset > seekable.MaxFrame {
				p = &part{file: f, old: old, offset: piece.Offset - start, first: i}
				parts = append(parts, p)
				counted = -1
			}
			p.last = i
			for index.Frames[frame].TarOffset+index.Frames[frame].TarSize <= piece.Offset {
				frame++
			}
			if frame != counted {
				p.saved += index.Frames[frame].Size
				counted = frame
			}
		}
	}
	for _, p := range parts {
		p.pieces = index.Pieces[p.first : p.last+1]
	}
	return parts, nil
}

// readAt fills b from an offset.
func readAt(in io.ReaderAt, b []byte, offset int64) error {
	n, err := in.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// patch is a Zstandard frame, and what it was made against.
type patch struct {
	frame []byte
	base  seekable.Base
}

// makePatch makes the patch for a part.
func (t *tree) makePatch(p *part, enc *encoders) (patch, error) {
	contents, err := t.read(p)
	if err != nil {
		return patch{}, err
	}
	if p.old == nil {
		frame, err := enc.encode(contents, nil)
		return patch{frame: frame}, err
	}
	base := seekable.Base{FileSize: p.old.size, FileSum: p.old.sum}
	if p.old.path != p.file.path {
		base.Path = p.old.path
	}
	base.Offset, base.Size = p.place()
	dictionary := make([]byte, base.Size)
	in, closer, err := p.old.open()
	if err != nil {
		return patch{}, err
	}
	defer closer.Close()
	if err := readAt(in, dictionary, base.Offset); err != nil {
		return patch{}, fmt.Errorf("%s: %w", p.old.path, err)
	}
	frame, err := enc.encode(contents, dictionary)
	return patch{frame, base}, err
}

// place returns which part of the older file corresponds to the part: all of it, or
// the same place in relation to the size of the file.
func (p *part) place() (offset, size int64) {
	if p.old.size <= seekable.MaxBase {
		return 0, p.old.size
	}
	scale := float64(p.old.size) / float64(p.file.size)
	size = min(int64(float64(p.size())*scale)+2*reach, seekable.MaxBase)
	middle := int64(float64(p.offset+p.size()/2) * scale)
	return max(0, min(middle-size/2, p.old.size-size)), size
}

// read returns the contents of a part.
func (t *tree) read(p *part) ([]byte, error) {
	in, err := t.open(p.file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	contents := make([]byte, p.size())
	if err := readAt(in, contents, p.offset); err != nil {
		return nil, fmt.Errorf("pack %s: %w", p.file.path, err)
	}
	// The size and the time may be as they were although the contents are not.
	for _, piece := range p.pieces {
		if seekable.SumOf(contents[piece.Offset-p.pieces[0].Offset:][:piece.Size]) != piece.Sum {
			return nil, p.file.changed()
		}
	}
	return contents, nil
}

// encoders are what one goroutine compresses patches with.
type encoders struct{ best, better *zstd.Encoder }

// encode compresses contents with a raw dictionary, which may be nil.
func (e *encoders) encode(contents, dictionary []byte) ([]byte, error) {
	to, level, window := &e.best, zstd.SpeedBestCompression, 2*seekable.MaxBase
	if len(contents)+len(dictionary) <= small {
		to, level, window = &e.better, zstd.SpeedBetterCompression, small
	}
	options := []zstd.EOption{zstd.WithEncoderDictDelete()}
	if len(dictionary) > 0 {
		options = []zstd.EOption{zstd.WithEncoderDictRaw(0, dictionary)}
	}
	var err error
	if *to == nil {
		*to, err = zstd.NewWriter(nil, append(options, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
			zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))...)
	} else {
		err = (*to).ResetWithOptions(nil, options...)
	}
	if err != nil {
		return nil, err
	}
	return (*to).EncodeAll(contents, nil), nil
}

// inOrder calls work for each part, for several at a time, and calls then with the
// results in the order of the parts. It ends with the first error.
func inOrder(ctx context.Context, parts []*part, work func(*part, *encoders) (patch, error), then func(*part, patch) error) error {
	type result struct {
		patch patch
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := min(runtime.GOMAXPROCS(0), 2) // each takes up to 150 MB
	todo := make(chan int)
	results := make([]chan result, len(parts))
	for i := range results {
		results[i] = make(chan result, 1)
	}
	for range workers {
		go func() {
			var enc encoders
			for i := range todo {
				made, err := work(parts[i], &enc)
				results[i] <- result{made, err}
			}
		}()
	}
	go func() {
		defer close(todo)
		for i := range parts {
			select {
			case todo <- i:
			case <-ctx.Done():
				results[i] <- result{err: context.Cause(ctx)}
				return
			}
		}
	}()
	for i, p := range parts {
		r := <-results[i]
		if r.err == nil {
			r.err = then(p, r.patch)
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}
