//go:build linux

package stretcher

import (
	"context"
	"errors"
	"fmt"
	"log"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/allowlist"
	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/incremental"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// getChanged fetches what dest does not have of the archive, by the archive's index,
// and verifies all of it. It returns nil where the whole archive should be downloaded
// instead, that is, unless this would fail for the same reason. dest may change while
// this runs and afterwards: what it returns has been copied from there.
func (d *deployment) getChanged(ctx context.Context, limits archive.Limits) (*archive.Archive, error) {
	if d.manifest.Index == (Index{}) || d.conf.Whole {
		return nil, nil
	}
	a, err := d.rebuild(ctx, limits)
	switch {
	case err != nil && ctx.Err() != nil:
		//lint:ignore ST1005 operators match on these words
		return nil, fmt.Errorf("Get src failed: fetch %s: %w", redact.URL(d.manifest.Src), context.Cause(ctx))
	case errors.Is(err, allowlist.ErrRefused), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		//lint:ignore ST1005 operators match on these words
		return nil, fmt.Errorf("Get src failed: %w", err)
	case errors.Is(err, incremental.ErrWhole):
		log.Printf("Not incrementally: %v", err)
	case err != nil:
		log.Printf("[WARN] Incremental download: %v: downloading the whole archive", redact.Printable(redact.Error(err).Error()))
	}
	return a, nil
}

func (d *deployment) rebuild(ctx context.Context, limits archive.Limits) (_ *archive.Archive, err error) {
	m, start := d.manifest, time.Now()
	log.Println("Fetching what has changed in src:", redact.URL(m.Src))
	options := d.conf.fetchOptions()
	options.Received = &d.outcome.downloaded
	src, err := fetch.OpenObject(m.Src, options)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	index, err := incremental.FetchIndex(ctx, src, m.Index.Offset, m.Index.Size, m.Index.SHA256)
	if err != nil {
		return nil, err
	}
	tar, err := unixfs.TempFile()
	if err != nil {
		return nil, err
	}
	size := max(src.Size(), m.Index.Offset+m.Index.Size) // not every server tells the size
	a, stats, err := incremental.Rebuild(ctx, index, size, m.Dest, tar, limits, src.Fetch)
	if err != nil {
		return nil, errors.Join(err, tar.Close())
	}
	a.TakeOver(tar)
	log.Printf("Fetched %s of %s in %s: %s, %s as they were, %d patched, %d new", humanize.IBytes(uint64(stats.Fetched+m.Index.Size)), humanize.IBytes(uint64(size)),
		time.Since(start).Round(time.Millisecond), runlog.Count(stats.Requests+1, "request"), runlog.Count(stats.Kept, "file"), stats.Patched, stats.New)
	return a, nil
}
