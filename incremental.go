package stretcher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"strconv"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/allowlist"
	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/incremental"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
	"github.com/fujiwara/stretcher/internal/yamlfields"
)

// Index says where the index of an archive is in it, as stretcher pack writes it
// to a manifest. The zero value stands for an archive without an index.
type Index struct {
	// Offset and Size are those of the index in the archive, in bytes.
	Offset int64 `yaml:"offset"`
	Size   int64 `yaml:"size"`
	// SHA256 is the digest of the index, in hex.
	SHA256 string `yaml:"sha256"`
}

// check returns what is wrong with the index.
func (x Index) check() error {
	sum, err := hex.DecodeString(x.SHA256)
	switch {
	case err != nil || len(sum) != sha256.Size:
		return fmt.Errorf("index: sha256 %.70q is not the hex of a sha256", x.SHA256)
	case x.Offset < 0, x.Offset > math.MaxInt64-seekable.MaxIndex:
		return fmt.Errorf("index: offset %d is impossible", x.Offset)
	case x.Size < 1 || x.Size > seekable.MaxIndex:
		return fmt.Errorf("index: size %d is not from 1 to %d", x.Size, seekable.MaxIndex)
	}
	return nil
}

// numberTo returns a parser of a number of bytes, which is stored in *to.
func numberTo(to *int64) func(yamlfields.Scalar) (warning string, err error) {
	return func(s yamlfields.Scalar) (warning string, err error) {
		if *to, err = strconv.ParseInt(s.Text, 10, 64); err != nil {
			err = fmt.Errorf("index: %.20q is not a number", s.Text)
		}
		return "", err
	}
}

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
	index, err := m.Index.fetch(ctx, src)
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

// fetch fetches and verifies the index.
func (x Index) fetch(ctx context.Context, src *fetch.Object) (*seekable.Index, error) {
	var encoded bytes.Buffer
	encoded.Grow(int(x.Size) + bytes.MinRead) // so that it is not copied
	place := fetch.Range{Offset: x.Offset, Size: x.Size}
	err := src.Fetch(ctx, []fetch.Range{place}, func(_ context.Context, _ fetch.Range, body io.Reader) error {
		_, err := encoded.ReadFrom(body)
		return err
	})
	if err != nil {
		return nil, err
	}
	want, err := hex.DecodeString(x.SHA256)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(encoded.Bytes()); !bytes.Equal(got[:], want) {
		return nil, fmt.Errorf("the index of the archive has the SHA-256 %x, not that in the manifest", got)
	}
	return seekable.Decode(encoded.Bytes())
}
