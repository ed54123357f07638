// Package pack makes an archive from a directory. The same tree always gives the
// same bytes, so that whoever builds it again can compare the checksums.
//
// An archive in the format zst, which is that of package seekable, may have
// patches against older versions of the tree, its bases:
//
//	list the directory, without what is excluded
//	write the tar, of which package seekable makes data frames
//	for each base:
//	    hash its files
//	    for each new file, find the pieces that no file of the base has
//	    compress these against the old file, if there is one
//	    keep the patch if that is much less than the data frames it saves
//	write the index
package pack

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"log"
	"os"
	"path"
	"time"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// Options says how a directory is packed. The zero value packs all of it.
type Options struct {
	// Format is zst, gz (RFC 1952) or tar. "" is zst.
	Format string
	// Excludes are rules in the syntax of the option --exclude of rsync(1).
	Excludes []string
	// Latest is the latest modification time that a file in the archive gets. The
	// zero value keeps all times, without the fractions of seconds.
	Latest time.Time
	// Owner is the owner of everything in the archive. If it is nil, each file keeps
	// its own, by its numbers.
	Owner *Owner
	// Bases are the older versions that a zst archive gets patches against.
	Bases []*Base
}

// Result describes an archive.
type Result struct {
	Size    int64           // of the archive, in bytes
	Sum     [32]byte        // its SHA-256
	Files   int             // names in the archive
	TarSize int64           // in bytes
	Index   *seekable.Place // nil for the other formats
	Patches []Patches       // against each base
}

// Patches describes the patches against one base.
type Patches struct {
	Base  string
	Count int
	Size  int64 // of all of them, in bytes
}

// Dir writes an archive of the directory dir to out. It fails if a file changes
// while it is read, for a name that could not be extracted, if there is nothing to
// pack, and if out is a file that would be packed itself. Sockets are left out with a
// warning.
func Dir(ctx context.Context, dir string, out io.Writer, o Options) (Result, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Result{}, err
	}
	defer root.Close()
	t, err := list(ctx, root, o, out)
	if err != nil {
		return Result{}, err
	}
	if len(t.files) == 0 { // agents take it for a mistake, and it would empty dest
		return Result{}, fmt.Errorf("pack %s: there is nothing in it, or all of it is excluded: agents refuse an empty archive", dir)
	}
	var size int64
	for _, f := range t.files {
		size += f.size
	}
	step := progress.Reporter{}.Start("Packing", func() (files, bytes int64) { return int64(len(t.files)), size })
	defer step.End()
	t.packed = step
	counted := &counter{Writer: out, sum: sha256.New()}
	r := Result{Files: len(t.files)}
	switch o.Format {
	case "", "zst":
		err = t.writeSeekable(ctx, counted, o.Bases, &r)
	case "gz":
		z := gzip.NewWriter(counted) // its header has neither a name nor a time
		if r.TarSize, err = t.write(ctx, z, noMark); err == nil {
			err = z.Close()
		}
	case "tar":
		r.TarSize, err = t.write(ctx, counted, noMark)
	default:
		err = fmt.Errorf("unknown format %q: expected zst, gz or tar", o.Format)
	}
	r.Size = counted.size
	counted.sum.Sum(r.Sum[:0])
	return r, err
}

// counter counts what is written, and hashes it unless sum is nil.
type counter struct {
	io.Writer
	sum  hash.Hash
	size int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	c.size += int64(n)
	return n, err
}

// noMark is the begin of formats without an index, for which it does not matter where
// contents begin.
func noMark(*file) error { return nil }

func (t *tree) writeSeekable(ctx context.Context, out io.Writer, bases []*Base, r *Result) error {
	w, err := seekable.NewWriter(out)
	if err != nil {
		return err
	}
	defer w.Close()
	r.TarSize, err = t.write(ctx, w, func(f *file) error {
		f.firstPiece = w.Pieces()
		return w.File(f.size)
	})
	if err != nil {
		return err
	}
	index, err := w.Index()
	if err != nil {
		return err
	}
	for _, base := range bases {
		p, err := t.writePatches(ctx, w, index, base)
		if err != nil {
			return fmt.Errorf("patches against %s: %w", base.Name, err)
		}
		r.Patches = append(r.Patches, p)
	}
	place, err := w.Finish()
	if err != nil {
		return err
	}
	r.Index = &place
	t.warnOfMemory(index)
	return nil
}

// warnOfMemory warns if the index would take more memory than agents let it have.
func (t *tree) warnOfMemory(index *seekable.Index) {
	memory := seekable.Memory(len(index.Pieces), len(index.Patches))
	for _, f := range t.files {
		memory += archive.FileMemory(path.Base(f.path))
	}
	if memory > seekable.MaxMemory {
		log.Printf("[WARN] so many files and patches, %d and %d, make an index for which agents would need too much memory: they may download the archive whole", len(t.files), len(index.Patches))
	}
}

// write writes the tar, and returns its size. It calls begin for each regular file,
// before its contents.
func (t *tree) write(ctx context.Context, out io.Writer, begin func(*file) error) (size int64, err error) {
	counted := &counter{Writer: out}
	w, buf := tar.NewWriter(counted), bufio.NewReaderSize(nil, 256<<10)
	for _, f := range t.files {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		t.packed.AddFiles(1)
		if err := w.WriteHeader(f.header); err != nil {
			return 0, fmt.Errorf("pack %s: %w", f.path, err)
		}
		if f.header.Typeflag != tar.TypeReg {
			continue
		}
		if err := begin(f); err != nil {
			return 0, err
		}
		if err := t.copy(ctx, w, f, buf); err != nil {
			return 0, err
		}
		if err := w.Flush(); err != nil { // the padding, which does not belong to the contents
			return 0, err
		}
	}
	err = w.Close()
	return counted.size, err
}

// copy writes the contents of a file, which it reads by buf.
func (t *tree) copy(ctx context.Context, w io.Writer, f *file, buf *bufio.Reader) error {
	in, err := t.open(f)
	if err != nil {
		return err
	}
	defer in.Close()
	buf.Reset(in)
	for left := f.size; left > 0; { // in parts, because a file may be large
		n, err := io.CopyN(w, buf, min(left, 16<<20))
		if err == io.EOF {
			return f.changed()
		}
		if err != nil {
			return fmt.Errorf("pack %s: %w", f.path, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.packed.AddBytes(n)
		left -= n
	}
	if _, err := buf.ReadByte(); err != io.EOF {
		return f.changed()
	}
	return f.check(in)
}
