package stretcher

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"log"
	"strings"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// getSrc downloads the archive to a temporary file, and verifies and indexes it
// as it arrives. What the index says counts only once the checksum of the whole
// archive has been verified.
func (d *deployment) getSrc(ctx context.Context, limits archive.Limits) (_ *archive.Archive, err error) {
	m := d.manifest
	digest, err := newDigest(m.CheckSum)
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
		err = verify(m.CheckSum, digest)
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

// newDigest returns the hash function that the length of the checksum implies.
func newDigest(checksum string) (hash.Hash, error) {
	sum, err := hex.DecodeString(checksum)
	if err == nil {
		switch len(sum) {
		case md5.Size:
			return md5.New(), nil
		case sha1.Size:
			return sha1.New(), nil
		case sha256.Size:
			return sha256.New(), nil
		case sha512.Size:
			return sha512.New(), nil
		}
	}
	return nil, fmt.Errorf("checksum %q is not the hex of an md5, sha1, sha256 or sha512%s", checksum, checksumHint(checksum))
}

// weakDigest returns what a checksum of newDigest is, with an article, if somebody can
// make two archives that have the same. Otherwise it returns "".
func weakDigest(checksum string) string {
	switch len(checksum) {
	case 2 * md5.Size:
		return "an md5"
	case 2 * sha1.Size:
		return "a sha1"
	}
	return ""
}

// checksumHint says what may be wrong with a checksum, after a colon.
func checksumHint(checksum string) string {
	if name, _, ok := strings.Cut(checksum, ":"); ok && len(name) <= 10 {
		return fmt.Sprintf(": leave out the prefix %q", name+":")
	}
	if strings.TrimSpace(checksum) != checksum {
		return ": leave out the blanks around it"
	}
	if strings.Trim(checksum, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	nearest, name := 0, ""
	for _, d := range []struct {
		name   string
		digits int
	}{{"md5", 2 * md5.Size}, {"sha1", 2 * sha1.Size}, {"sha256", 2 * sha256.Size}, {"sha512", 2 * sha512.Size}} {
		if name == "" || max(d.digits-len(checksum), len(checksum)-d.digits) < max(nearest-len(checksum), len(checksum)-nearest) {
			nearest, name = d.digits, d.name
		}
	}
	return fmt.Sprintf(": it has %d hex digits, and %s has %d", len(checksum), name, nearest)
}

// verify compares the digest of the archive with the manifest's checksum.
func verify(checksum string, digest hash.Hash) error {
	got := hex.EncodeToString(digest.Sum(nil))
	if !strings.EqualFold(got, checksum) {
		//lint:ignore ST1005 operators match on these words
		return fmt.Errorf("Checksum mismatch: the manifest says %s, the archive has %s", checksum, got)
	}
	return nil
}
