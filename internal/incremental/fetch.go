package incremental

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// FetchIndex fetches the index at a place of an archive, as the manifest has it, and
// verifies its SHA-256, which is in hex.
func FetchIndex(ctx context.Context, src *fetch.Object, offset, size int64, sum string) (*seekable.Index, error) {
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
