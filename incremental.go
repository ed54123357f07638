//go:build linux

package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
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

// getChanged fetches what dest does not have of the archive, by the archive's index.
// It returns nil without an error if the whole archive is to be downloaded instead, which
// it is unless that would fail for the same reason.
func (d *deployment) getChanged(ctx context.Context, limits archive.Limits) (*archive.Archive, error) {
	if d.manifest.Index == (Index{}) || d.conf.Whole {
		return nil, nil
	}
	if _, err := os.Stat(d.manifest.Dest); errors.Is(err, fs.ErrNotExist) {
		log.Println("Not incrementally: dest does not exist")
		return nil, nil
	}
	a, err := d.openChanged(ctx, limits)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		err = fmt.Errorf("fetch %s: %w", redact.URL(d.manifest.Src), context.Cause(ctx))
	case errors.Is(err, incremental.ErrWhole):
		log.Printf("Not incrementally: %v", err)
		return nil, nil
	case !errors.Is(err, allowlist.ErrRefused) && !unixfs.IsFull(err):
		log.Printf("[WARN] Incremental download: %v: downloading the whole archive", redact.Error(err))
		return nil, nil
	}
	//lint:ignore ST1005 operators match on these words
	return nil, fmt.Errorf("Get src failed: %w", err)
}

func (d *deployment) openChanged(ctx context.Context, limits archive.Limits) (*archive.Archive, error) {
	m, start := d.manifest, time.Now()
	log.Println("Fetching what has changed in src:", redact.URL(m.Src))
	options := d.conf.fetchOptions()
	options.Received = &d.outcome.downloaded
	src, err := fetch.OpenObject(m.Src, options)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	o := incremental.Options{Older: m.Dest, Changes: len(m.Commands.Pre.given()) > 0 && !d.conf.DryRun, Limits: limits}
	a, stats, err := incremental.Fetch(ctx, src, m.Index.Offset, m.Index.Size, m.Index.SHA256, o)
	if err != nil {
		return nil, err
	}
	kept := "1 file as it was"
	if stats.Kept != 1 {
		kept = humanize.Comma(int64(stats.Kept)) + " files as they were"
	}
	log.Printf("Fetched %s of %s: %s, %s, %s patched, %s new, in %s", humanize.IBytes(uint64(stats.Fetched)), humanize.IBytes(uint64(stats.Size)), runlog.Count(stats.Requests, "request"),
		kept, humanize.Comma(int64(stats.Patched)), humanize.Comma(int64(stats.New)), time.Since(start).Round(time.Millisecond))
	return a, nil
}
