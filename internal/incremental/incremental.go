// Package incremental makes the tar of an archive of which a host has most already.
// It works from the index of the archive, see package seekable:
//
//	read the headers of the tar, which are in the index, as a tar without contents
//	hash the files that an older version of the tree has at the same paths, where
//	    their sizes allow for contents that are wanted
//	if contents are missing: hash the older files of other paths likewise
//	for each missing piece, choose the patch that applies, or else its data frame
//	merge these to a few ranges of the file, or give up if they are most of it
//	write the tar: what is between the contents from the index, contents from the
//	    older files, and the rest from the ranges
//	compare the tar with its SHA-256
//
// Each piece is compared with its digest when it is written, since files may change
// after they have been hashed, and servers may send anything.
package incremental

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// Fetch fetches ranges of the archive, as fetch.Object does.
type Fetch func(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error

// ErrWhole is the error of Rebuild where it would fetch most of the archive.
var ErrWhole = errors.New("most of the archive would have to be fetched")

// Stats says what Rebuild did.
type Stats struct {
	Fetched  int64 // bytes of the ranges
	Requests int   // ranges
	Kept     int   // files whose contents the older tree had
	Patched  int   // files of which a part was made by a patch from an older file
	New      int   // other files
}

// Rebuild writes the tar that an index describes to the file tar, and returns the
// archive that is in it. older is the directory of an older version of the tree; it may
// lack anything. size is that of the archive's file. The caller has to keep the file tar
// open until the archive is closed. After an error, what is in it does not count.
func Rebuild(ctx context.Context, x *seekable.Index, size int64, older string, tar *os.File, limits archive.Limits, fetch Fetch) (*archive.Archive, Stats, error) {
	a, err := readHeaders(ctx, x, tar, limits)
	if err != nil {
		return nil, Stats{}, err
	}
	stats, err := rebuild(ctx, x, size, a, older, tar, fetch)
	if err != nil {
		return nil, stats, errors.Join(err, a.Close())
	}
	return a, stats, nil
}

func rebuild(ctx context.Context, x *seekable.Index, size int64, a *archive.Archive, older string, tar *os.File, fetch Fetch) (Stats, error) {
	files, err := filesOf(x, a.Tree)
	if err != nil {
		return Stats{}, err
	}
	had, err := search(ctx, x, files, older)
	if err != nil {
		return Stats{}, err
	}
	defer had.close()
	p, err := newPlan(x, had)
	if err != nil {
		return Stats{}, err
	}
	stats := p.stats(files)
	if stats.Fetched > size/10*7 {
		return stats, ErrWhole
	}
	if err := tar.Truncate(x.TarSize); err != nil {
		return stats, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, step := range []func() error{
		func() error { return writeBetween(ctx, x, tar) },
		func() error { return had.write(ctx, x, tar) },
		func() error { return fetch(ctx, p.ranges, p.read(tar)) },
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
	return stats, verify(ctx, x, tar)
}

// writeBetween writes what is between the pieces.
func writeBetween(ctx context.Context, x *seekable.Index, tar io.WriterAt) error {
	between, err := x.Between()
	if err != nil {
		return err
	}
	defer between.Close()
	buf := make([]byte, 64<<10)
	end := int64(0)
	gap := func(to int64) error {
		for end < to {
			b := buf[:min(int64(len(buf)), to-end)]
			if _, err := io.ReadFull(between, b); err != nil {
				return fmt.Errorf("index of the archive: %w", err)
			}
			if _, err := tar.WriteAt(b, end); err != nil {
				return err
			}
			end += int64(len(b))
		}
		return context.Cause(ctx)
	}
	for _, piece := range x.Pieces {
		if err := gap(piece.Offset); err != nil {
			return err
		}
		end = piece.Offset + piece.Size
	}
	return gap(x.TarSize)
}

// verify compares the tar with its digest.
func verify(ctx context.Context, x *seekable.Index, tar io.ReaderAt) error {
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for offset := int64(0); offset < x.TarSize; offset += int64(len(buf)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		buf = buf[:min(int64(len(buf)), x.TarSize-offset)]
		if _, err := tar.ReadAt(buf, offset); err != nil && err != io.EOF {
			return err
		}
		sum.Write(buf)
	}
	if [32]byte(sum.Sum(nil)) != x.TarSum {
		return errors.New("the tar made from the archive's index has another SHA-256 than the index says")
	}
	return nil
}
