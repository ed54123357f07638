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
//	    read the headers of the next entry, up to its data
//	    if they are a global PAX header: remember it, take the next entry
//	    apply the last global PAX header to the entry
//	    find how many bytes of data follow, and the segments of a sparse file
//	    add the entry to the tree, as tar(1) would write it to disk
//	    fail if the archive would unpack to more than the limit
//	    skip the data
//	read on to the end of the input, where the compressed formats have checksums
//
// A plain tar stays in the file that the caller downloads it to. A compressed
// one is written to a temporary file while it is decompressed. Either way the
// entries of the tree refer to the tar by offsets.
//
// Where tar(1) fails, so does Index. It also fails where tar(1) would go on
// with a damaged or dangerous archive: a tar that ends without its blocks of
// zeros, a name with ".." in it, a path that leads out of the tree through a
// symbolic link, and a hard link to a file that is not in the archive.
package archive

import (
	"archive/tar"
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

	spool        *os.File            // set only while the archive owns it and it is the tar
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
// maxSize limits how many bytes the archive may unpack to; 0 means no limit.
// The contents of regular files count, of sparse files without their holes, and
// once more for every hard link. Headers count beyond the first 16 MiB.
//
// Index fails for an archive that has no entries, as it would if a web server
// answered with an empty body.
func Index(ctx context.Context, arriving io.Reader, spool *os.File, maxSize int64) (*Archive, error) {
	source := &sourceReader{r: arriving}
	a, err := readArchive(ctx, source, spool, maxSize)
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

func readArchive(ctx context.Context, source io.Reader, spool *os.File, maxSize int64) (*Archive, error) {
	d, err := decompress(ctx, source)
	if err != nil {
		return nil, err
	}
	a := &Archive{Tree: NewTree(), data: spool}
	if d.compressed {
		if a.decompressed, err = unixfs.NewStripedFile(); err != nil {
			d.close()
			return nil, err
		}
		a.data = a.decompressed
	}
	input := readAhead(ctx, d, d.close)
	err = a.index(&tarStream{input: input, copyTo: a.decompressed}, maxSize)
	input.stop()
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// headersFree is how many bytes of headers do not count against maxSize, for
// the sake of archives with many small files. Headers beyond it count, because
// an endless sequence of empty files would fill the memory.
const headersFree = 16 << 20

// index adds the entries of the tar to the tree, and reads the tar to the end
// of its input.
func (a *Archive) index(stream *tarStream, maxSize int64) error {
	var (
		entries  int
		contents int64 // bytes of data in the tar
		linked   int64 // bytes of the copies that hard links become in dest
		global   map[string]string
	)
	for {
		hdr, err := stream.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader { // git archive stores the commit id in one
			global = hdr.PAXRecords
			if err := stream.skip(0); err != nil { // the padding of its last block
				return err
			}
			continue
		}
		entries++
		if err := applyGlobalHeader(hdr, global); err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
		stored, segments, err := stream.storedData(hdr)
		if err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
		contents += stored
		if hdr.Typeflag != typeVolumeLabel {
			e, err := a.Tree.add(hdr, stream.pos, segments)
			if err != nil {
				return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
			}
			if hdr.Typeflag == tar.TypeLink {
				linked += e.StoredSize()
			}
		}
		headers := max(stream.pos-contents-headersFree, 0)
		if maxSize > 0 && contents+linked+headers > maxSize {
			return fmt.Errorf("archive unpacks to more than the %s that -max-size allows", humanize.IBytes(uint64(maxSize)))
		}
		if err := stream.skip(stored); err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
	}
	if entries == 0 {
		return errors.New("archive is empty: it has no entries")
	}
	return stream.readToEnd()
}

// Data returns the tar, to which the offsets of the entries refer. It is valid
// until the archive is closed.
func (a *Archive) Data() io.ReaderAt { return a.data }

// RootMode returns the mode of the archive's entry "." or "./", as the bits of
// chmod(2). ok is false if the archive has no such entry.
func (a *Archive) RootMode() (mode uint32, ok bool) {
	if a.Tree.Root.Implicit() {
		return 0, false
	}
	return a.Tree.Root.Mode & 0o7777, true
}

// TakeOver makes the archive the owner of the spool that it was read from. If
// the archive was compressed, the spool is no longer needed and is closed at
// once, in the background, because the commands and the sync that follow may
// need its disk space.
func (a *Archive) TakeOver(spool *os.File) {
	if a.decompressed == nil {
		a.spool = spool
		return
	}
	a.closing.Go(func() { unixfs.Warn("free the download", spool.Close()) })
}

// Close frees the tar, and with it the spool if the archive owns it.
func (a *Archive) Close() error {
	a.closing.Wait()
	var errs []error
	if a.decompressed != nil {
		errs = append(errs, a.decompressed.Close())
	}
	if a.spool != nil {
		errs = append(errs, a.spool.Close())
	}
	return errors.Join(errs...)
}
