package incremental

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// Fetch is Open for the archive that is the object src. Its index begins at offset,
// has size bytes, and has the SHA-256 sum, in hex. These must have passed
// seekable.CheckPlace. In the Stats, the index counts as fetched.
func Fetch(ctx context.Context, src *fetch.Object, offset, size int64, sum string, o Options) (*archive.Archive, Stats, error) {
	x, err := fetchIndex(ctx, src, offset, size, sum)
	if err != nil {
		return nil, Stats{}, err
	}
	o.Size = max(src.Size(), offset+size) // not every server tells the size
	a, stats, err := Open(ctx, x, o, src.Fetch)
	stats.Size, stats.Fetched, stats.Requests = o.Size, stats.Fetched+size, stats.Requests+1
	return a, stats, err
}

// fetchIndex fetches and verifies an index.
func fetchIndex(ctx context.Context, src *fetch.Object, offset, size int64, sum string) (*seekable.Index, error) {
	var encoded bytes.Buffer
	encoded.Grow(int(size) + bytes.MinRead) // so that it is not copied
	place := fetch.Range{Offset: offset, Size: size}
	err := src.Fetch(ctx, []fetch.Range{place}, func(_ context.Context, _ fetch.Range, body io.Reader) error {
		_, err := encoded.ReadFrom(body)
		return err
	})
	if err != nil {
		return nil, err
	}
	want, err := hex.DecodeString(sum)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(encoded.Bytes()); !bytes.Equal(got[:], want) {
		return nil, fmt.Errorf("the index of the archive has the SHA-256 %x, not that in the manifest", got)
	}
	return seekable.Decode(encoded.Bytes())
}
