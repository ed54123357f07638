// Package incremental opens an archive of which a host has most already, and fetches
// only the rest. It works from the index of the archive, see package seekable:
//
//	read the headers of the tar, which are in the index, as a tar without contents
//	for each file, hash the file that an older version of the tree has at its path
//	if they are all the same: fetch nothing
//	else, for the files that are not:
//	    look for their contents elsewhere in the older tree, where sizes allow for that
//	    for each piece that is missing, choose the patch that applies, or its data frame
//	    merge these to a few ranges of the file, or give up if they are most of it
//	    write what is found and what is in the ranges to a temporary file
//	    compare the tar that all this makes with its SHA-256
//
// Files that are the same stay where they are, in the older tree, and are read from
// there. Each piece is compared with its digest when it is used, since files may change
// after they have been hashed, and servers may send anything.
//
// # If the older tree changes
//
// What has been found must not get lost: once the caller has run commands that stop a
// service, it should not have to download anything. So if commands may change the
// older tree (Options.Changes), the files that are the same are copied, too. They are
// not copied if all files are the same, because the commands then usually change only
// files that are not deployed.
//
// If the older tree has changed nevertheless when the archive is read, the error is
// ErrChanged. It occurs while files are staged, before anything has been put in its
// place, so the caller can still download the whole archive.
//
// To compare a file with the archive, its digests are enough. If no command has been
// run since the search, the contents are not even read again, as long as stat(2) says
// that it is the file that was hashed and that it has not been changed. That is as good
// as reading it: another process could also change it just after it has been read.
package incremental

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Ranges fetches ranges of the archive, as fetch.Object does.
type Ranges func(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error

// ErrWhole is the error of Open where it would fetch most of the archive.
var ErrWhole = errors.New("most of the archive would have to be fetched")

const errLarge wholeError = "the archive has too many files"

// wholeError is another reason for ErrWhole.
type wholeError string

func (e wholeError) Error() string        { return string(e) }
func (e wholeError) Is(target error) bool { return target == ErrWhole }

// Options says what Open works from.
type Options struct {
	// Older is the directory of an older version of the tree. Any part of it may be
	// missing, and it need not exist.
	Older string
	// Changes says that commands which may change Older will be run before the archive
	// is read. Older is closed meanwhile.
	Changes bool
	// Limits are those of the archive. Memory is set by Open.
	Limits archive.Limits

	// Size is that of the archive's file, in bytes. Fetch sets it.
	Size int64
}

// Stats says what Open did.
type Stats struct {
	Size     int64 // of the archive's file, in bytes
	Fetched  int64 // bytes of the ranges
	Requests int   // ranges
	Kept     int   // files whose contents the older tree had
	Patched  int   // files of which a part was made by a patch from an older file
	New      int   // other files
}

// Open returns the archive that an index describes. Its contents are in the older tree
// and in a temporary file, which is freed when the archive is closed.
func Open(ctx context.Context, x *seekable.Index, o Options, fetch Ranges) (_ *archive.Archive, _ Stats, err error) {
	o.Limits.Memory = seekable.MaxMemory - seekable.Memory(len(x.Pieces), len(x.Patches))
	if o.Limits.Memory <= 0 {
		return nil, Stats{}, errLarge
	}
	s := &scattered{index: x}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.older, err = openOlder(o.Older); err != nil {
		return nil, Stats{}, err
	}
	if s.tar, err = unixfs.TempFile(); err != nil {
		return nil, Stats{}, err
	}
	a, err := readHeaders(ctx, x, s, o.Limits)
	if err != nil {
		return nil, Stats{}, err
	}
	if s.files, err = filesOf(x, a.Tree, o.Limits.Memory); err != nil {
		return nil, Stats{}, err
	}
	if !o.Changes {
		s.unchanging = newUnchanging()
	}
	stats, err := s.fill(ctx, o, fetch)
	if err != nil {
		return nil, stats, err
	}
	if o.Changes {
		s.older.close() // a command may unmount it
	}
	a.TakeOver(s)
	return a, stats, nil
}

// fill finds or fetches all contents.
func (s *scattered) fill(ctx context.Context, o Options, fetch Ranges) (Stats, error) {
	had, err := search(ctx, s)
	if err != nil {
		return Stats{}, err
	}
	p, err := newPlan(had)
	if err != nil {
		return Stats{}, err
	}
	stats := p.stats()
	if stats.Fetched > o.Size/10*7 {
		return stats, ErrWhole
	}
	if err := s.tar.Truncate(s.index.TarSize); err != nil {
		return stats, err
	}
	if len(had.places) == 0 { // all files are kept
		return stats, nil
	}
	for i := range s.files {
		if f := &s.files[i]; !f.kept || o.Changes {
			s.toWrite += s.end(f) - s.start(f)
		}
	}
	if err := unixfs.CheckTempSpace(tempContents, s.toWrite); err != nil {
		return stats, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, step := range []func() error{
		func() error { return had.copy(ctx, o.Changes) },
		func() error { return fetch(ctx, p.ranges, p.read) },
	} {
		wg.Go(func() {
			if err := step(); err != nil {
				cancel(err) // the first one counts
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return stats, err
	}
	return stats, s.verify(ctx)
}

// copy copies what the older tree has of files that are not kept, and, if all is set,
// the kept ones as well. Those are then no longer kept.
func (h *had) copy(ctx context.Context, all bool) error {
	type part struct {
		piece  *seekable.Piece
		offset int64 // in the older file
	}
	parts := map[string][]part{} // by file, so that each is opened once
	var paths []string
	for i := range h.files {
		f := &h.files[i]
		if f.kept && !all {
			continue
		}
		pieces := h.pieces(f)
		for j := range pieces {
			at, ok := place{f.path, pieces[j].Offset - h.start(f)}, f.kept
			if !ok {
				at, ok = h.placeOf(&pieces[j])
			}
			if !ok {
				continue
			}
			if parts[at.path] == nil {
				paths = append(paths, at.path)
			}
			parts[at.path] = append(parts[at.path], part{&pieces[j], at.offset})
		}
	}
	err := h.older.eachWith(ctx, len(paths), func(i int, r *reader) error {
		var st unix.Stat_t
		fd, err := r.OpenRegular(paths[i], &st)
		if err != nil {
			return readError(paths[i], err)
		}
		defer unix.Close(fd)
		for _, part := range parts[paths[i]] {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			b := r.buf[:part.piece.Size]
			if err := readPiece(fd, part.offset, part.piece, b); err != nil {
				return readError(paths[i], err)
			}
			if err := h.write(b, part.piece.Offset); err != nil {
				return err
			}
		}
		return nil
	})
	if all && err == nil {
		for i := range h.files {
			h.files[i].kept = false
		}
	}
	return err
}

// verify compares the tar with its digest.
func (s *scattered) verify(ctx context.Context) error {
	between, err := s.index.Between()
	if err != nil {
		return err
	}
	defer between.Close()
	// One goroutine reads while this one hashes.
	out, in := io.Pipe()
	defer out.Close()
	go func() {
		w := bufio.NewWriterSize(in, 256<<10)
		err := s.writeTar(ctx, between, w)
		if err == nil {
			err = w.Flush()
		}
		in.CloseWithError(err)
	}()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, out, make([]byte, 256<<10)); err != nil {
		return err
	}
	if [32]byte(sum.Sum(nil)) != s.index.TarSum {
		return errors.New("the tar made from the archive's index has another SHA-256 than the index says")
	}
	return nil
}

// writeTar writes the tar to w. It does not compare the pieces with their digests.
func (s *scattered) writeTar(ctx context.Context, between io.Reader, w io.Writer) error {
	r := s.older.reader()
	defer s.older.done(r)
	end := int64(0)
	for i := range s.files {
		f := &s.files[i]
		if _, err := io.CopyN(w, between, s.start(f)-end); err != nil {
			return fmt.Errorf("index of the archive: %w", noEOF(err))
		}
		end = s.end(f)
		if err := s.writeFile(ctx, r, f, w); err != nil {
			return err
		}
	}
	if _, err := io.CopyN(w, between, s.index.TarSize-end); err != nil {
		return fmt.Errorf("index of the archive: %w", noEOF(err))
	}
	return nil
}

// writeFile writes the contents of a file.
func (s *scattered) writeFile(ctx context.Context, r *reader, f *file, w io.Writer) error {
	from, at := int(s.tar.Fd()), s.start(f)
	if f.kept {
		var st unix.Stat_t
		fd, err := r.OpenRegular(f.path, &st)
		if err != nil {
			return readError(f.path, err)
		}
		defer unix.Close(fd)
		from, at = fd, 0
	}
	for left := s.end(f) - s.start(f); left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		b := r.buf[:min(int64(len(r.buf)), left)]
		full, err := unixfs.ReadAt(from, b, at)
		if err == nil && !full {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case err != nil && f.kept:
			return readError(f.path, err)
		case err != nil:
			return fmt.Errorf("read %s: %w", s.tar.Name(), err)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		at, left = at+int64(len(b)), left-int64(len(b))
	}
	return nil
}

// noEOF returns io.ErrUnexpectedEOF for io.EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
