//go:build linux

package stretcher

import (
	"context"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/checksum"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// getSrc downloads the archive to a temporary file, and verifies and indexes it
// as it arrives. What the index says counts only once the checksum of the whole
// archive has been verified. If dest has a part of it, only the rest is downloaded.
func (d *deployment) getSrc(ctx context.Context, s strategy) (_ *archive.Archive, err error) {
	limits := archive.Limits{Size: d.conf.MaxSize, CountHoles: s.fillsHoles()}
	if t := d.conf.Timeout; t > 0 { // for all downloads of the deployment together
		start := time.Now()
		defer func() { d.downloading += time.Since(start) }()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t-d.downloading, fmt.Errorf("timeout: the download took longer than %s", t))
		defer cancel()
	}
	if a, err := d.getChanged(ctx, limits); a != nil || err != nil {
		return a, err
	}
	m := d.manifest
	digest, err := checksum.New(m.CheckSum)
	if err != nil {
		return nil, err
	}
	file, err := unixfs.TempFile()
	if err != nil {
		return nil, err
	}
	var src *archive.Archive
	var indexErr error
	defer func() {
		if err == nil {
			src.TakeOver(file)
			return
		}
		if src != nil {
			src.Close()
		}
		file.Close()
	}()

	log.Println("Downloading src:", redact.URL(m.Src))
	index := func(arriving io.Reader) error {
		if src != nil { // the download was started over
			src.Close()
		}
		src, indexErr = archive.Index(ctx, arriving, file, limits)
		if archive.Hopeless(indexErr) {
			// If little is left, a wrong checksum is the better explanation.
			if _, err := io.CopyN(io.Discard, arriving, 256<<10); err == nil {
				return fmt.Errorf("%s: %w: the download was stopped, so the checksum was not verified", redact.URL(m.Src), indexErr)
			}
		}
		return nil
	}
	sum := func(arriving io.Reader) error {
		digest.Reset()
		_, err := io.CopyBuffer(digest, arriving, make([]byte, 256<<10))
		return err
	}
	options := d.conf.fetchOptions()
	options.Received = &d.outcome.downloaded
	hint, err := fetch.Download(ctx, m.Src, file, options, index, sum)
	if err == nil {
		err = checksum.Verify(m.CheckSum, digest)
	}
	if err != nil {
		//lint:ignore ST1005 operators match on these words
		return nil, fmt.Errorf("Get src failed: %w%s", err, hint)
	}
	log.Println("Checksum ok:", m.CheckSum)
	if indexErr != nil {
		return nil, fmt.Errorf("%s: %w", redact.URL(m.Src), indexErr)
	}
	return src, nil
}
