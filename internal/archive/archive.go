// Package archive reads a tar archive, compressed or not, while it is being
// downloaded, and builds an index of it: the tree of files that extracting the
// archive would create, with the place of each file's bytes. The package writes
// no file of the archive to disk; package treesync does, from the index.
//
// Index works like this:
//
//	detect the format by the first bytes: gzip, bzip2, xz, zstd or plain tar
//	read ahead and decompress in a goroutine
//	until the blocks of zeros that mark the end of the tar:
//	    read the headers of the next entry, up to its data: blocks that extend
//	        it, its own block, and the map of a sparse file
//	    apply what extends it, and the last global PAX header, to the entry
//	    add the entry to the tree, as tar(1) would write it to disk
//	    fail if the archive would unpack to more than the limit
//	    skip the data
//	read on to the end of the input, where the compressed formats have checksums
//
// A plain tar stays in the file that the caller downloads it to. A compressed
// one is written to a temporary file while it is decompressed. Either way the
// entries of the tree refer to the tar by offsets.
//
// Headers mean what they mean to GNU tar. Where tar(1) fails, so does Index. It
// also fails where tar(1) would go on with a damaged or dangerous archive: a tar
// that ends without its blocks of zeros, a name with ".." in it, a path that leads
// out of the tree through a symbolic link, and a hard link to a file that is not
// in the archive.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Archive is the index of an archive: the tree of files that extracting it
// would create, and the tar that has their contents.
type Archive struct {
	Tree *Tree

	spool        io.Closer           // set only while the archive owns it and it is the tar
	decompressed *unixfs.StripedFile // the tar of a compressed archive; nil for a plain tar
	data         io.ReaderAt         // the tar: either of the two above
	closing      sync.WaitGroup      // of a spool that is closed in the background
}

// Index reads an archive from arriving and returns its index. It reads up to
// the end of arriving, so that the checksums of compressed formats are verified.
//
// spool must hold the bytes that arriving has delivered, at the same offsets.
// The archive of a plain tar refers to them, so spool must stay open until the
// archive is closed. arriving has to fail once ctx has ended, because Index
// waits for it.
//
// Index fails for an archive that has no entries, as it would if a web server
// answered with an empty body.
func Index(ctx context.Context, arriving io.Reader, spool *os.File, limits Limits) (*Archive, error) {
	return indexAs(ctx, decompress, arriving, spool, limits)
}

// IndexTar is Index for a tar that is not compressed, whatever its first bytes are.
// The archive refers to data for the contents of files; IndexTar does not read it.
func IndexTar(ctx context.Context, arriving io.Reader, data io.ReaderAt, limits Limits) (*Archive, error) {
	plain := func(_ context.Context, r io.Reader) (*decompressor, error) {
		return &decompressor{Reader: r, close: func() {}}, nil
	}
	return indexAs(ctx, plain, arriving, data, limits)
}

// opener opens the decompressor of an archive.
type opener func(context.Context, io.Reader) (*decompressor, error)

func indexAs(ctx context.Context, open opener, arriving io.Reader, spool io.ReaderAt, limits Limits) (*Archive, error) {
	source := &sourceReader{r: arriving}
	a, err := readArchive(ctx, open, source, spool, limits)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read the archive: %w", context.Cause(ctx))
	case source.err != nil:
		// A decompressor may report a failed download as damaged data, which
		// would hide the cause.
		return nil, fmt.Errorf("read the archive: %w", source.err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("archive is truncated: %w", err)
	}
	return nil, err
}

// sourceReader remembers the error that its reader failed with, if it did not
// just end.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func readArchive(ctx context.Context, open opener, source io.Reader, spool io.ReaderAt, limits Limits) (*Archive, error) {
	// All goroutines have to end with the first error. Those that wait for the network
	// would otherwise first fill their buffers, which takes minutes on a slow one.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d, err := open(ctx, source)
	if err != nil {
		return nil, err
	}
	a := &Archive{Tree: NewTree(), data: spool}
	if d.compressed {
		if a.decompressed, err = unixfs.NewStripedFile(); err != nil {
			d.close()
			return nil, hopelessError{err}
		}
		a.data = a.decompressed
	}
	input := readAhead(ctx, d, d.close)
	err = a.index(&tarStream{input: input, copyTo: a.decompressed}, limits)
	stop()
	input.stop()
	if err != nil && input.err != nil && input.err != io.EOF {
		err = input.err // the input is damaged, hence what looks like a header
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Limits limits what an archive may unpack to. The zero value does not.
type Limits struct {
	// Size limits the sum, in bytes, of the sizes of the regular files, once more
	// for every hard link to one, and of what the index takes of memory or the
	// headers take of the tar, whichever is more, beyond the first 16 MiB.
	// 0 means no limit.
	Size int64
	// CountHoles counts a sparse file with its whole size, because whatever
	// follows, such as rsync -a, writes its holes out. Otherwise only what the
	// archive stores of it counts.
	CountHoles bool
	// Memory limits how much memory the names, the attributes and the owners of all
	// files take, in bytes. 0 means no limit.
	Memory int64
}

// indexFree is how many bytes of headers and of memory do not count, for the
// sake of archives with many small files. What is beyond counts, because an
// endless sequence of empty files would fill the memory.
const indexFree = 16 << 20

// index adds the entries of the tar to the tree, and reads the tar to the end
// of its input.
func (a *Archive) index(stream *tarStream, limits Limits) error {
	var (
		h        header
		entries  int
		stored   int64 // bytes of data in the tar
		unpacked int64 // bytes that count of all files, with each hard link as a file
	)
	// tooLarge returns an error if what has been read up to a position of the tar
	// exceeds the limit of the size.
	tooLarge := func(pos int64) error {
		index := max(pos-stored, a.Tree.memory) - indexFree
		// Any of the sums may be close to the largest number.
		if limits.Size > 0 && (unpacked < 0 || unpacked > limits.Size || max(index, 0) > limits.Size-unpacked) {
			return hopelessError{fmt.Errorf("archive unpacks to more than the %s that -max-size allows", humanize.IBytes(uint64(limits.Size)))}
		}
		return nil
	}
	stream.checkHeaders = tooLarge
	for {
		err := stream.next(&h)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		entries++
		if h.hasData() {
			stored += h.size
			unpacked += h.size
		}
		if h.typ != typeVolumeLabel {
			e, err := a.Tree.add(&h, stream.pos)
			if err != nil {
				return hopelessError{fmt.Errorf("archive entry %q: %w", h.name, err)}
			}
			switch {
			case h.typ == typeLink && limits.CountHoles && e.IsRegular():
				unpacked += e.Size
			case h.typ == typeLink:
				unpacked += e.StoredSize()
			case h.segments != nil && limits.CountHoles:
				unpacked += max(e.Size-h.size, 0)
			}
		}
		if limits.Memory > 0 && a.Tree.memory > limits.Memory {
			return hopelessError{fmt.Errorf("the list of its files takes more than %s of memory", humanize.IBytes(uint64(limits.Memory)))}
		}
		if err := tooLarge(stream.pos); err != nil {
			return err
		}
		if h.hasData() {
			if err := stream.discard(h.size + padding(h.size)); err != nil {
				return fmt.Errorf("archive entry %q: %w", h.name, err)
			}
		}
	}
	if entries == 0 {
		return errors.New("archive is empty: it has no entries")
	}
	return stream.readToEnd()
}

// hopelessError is an error that nothing in the rest of the archive can change.
type hopelessError struct{ error }

func (e hopelessError) Unwrap() error { return e.error }

// Hopeless reports whether an error of Index does not depend on the rest of the
// archive, so that there is no point in downloading it: it is not a tar, it
// exceeds a limit, an entry cannot be extracted, or TMPDIR has no space for it.
// Damage is not among these errors: the archive is downloaded to its end, because
// its checksum then tells whether the download or the archive is wrong.
func Hopeless(err error) bool { return errors.As(err, new(hopelessError)) }

// Data returns the tar, to which the offsets of the entries refer. It is valid
// until the archive is closed.
func (a *Archive) Data() io.ReaderAt { return a.data }

// RootMode returns the mode of the archive's entry "." or "./", as the bits of
// chmod(2). ok is false if the archive has no such entry, or is nil.
func (a *Archive) RootMode() (mode uint32, ok bool) {
	if a == nil || a.Tree.Root.Implicit() {
		return 0, false
	}
	return a.Tree.Root.Mode & 0o7777, true
}

// TakeOver makes the archive the owner of the spool that it was read from. If the
// archive was compressed, the spool is no longer needed, and is closed in the
// background at once, because the commands and the sync that follow may need its
// disk space.
func (a *Archive) TakeOver(spool io.Closer) {
	if a.decompressed == nil {
		a.spool = spool
		return
	}
	a.closing.Go(func() { unixfs.Warn("free the download", spool.Close()) })
}

// Close frees the tar, and the spool if the archive owns it. Closing again, or closing
// nil, does nothing.
func (a *Archive) Close() error {
	if a == nil {
		return nil
	}
	a.closing.Wait()
	var errs []error
	if a.decompressed != nil {
		errs = append(errs, a.decompressed.Close())
	}
	if a.spool != nil {
		errs = append(errs, a.spool.Close())
	}
	a.decompressed, a.spool = nil, nil
	return errors.Join(errs...)
}
