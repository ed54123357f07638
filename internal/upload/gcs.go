package upload

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"os"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"

	"github.com/fujiwara/stretcher/internal/fetch"
)

// gcsObject is an object of Google Cloud Storage.
type gcsObject struct {
	place  *fetch.GCSPlace
	handle *storage.ObjectHandle
}

func newGCS(place *fetch.GCSPlace) (object, error) {
	handle, err := place.Object()
	if err != nil {
		return nil, err
	}
	// The requests can be repeated, because put has a condition.
	return gcsObject{place, handle.Retryer(storage.WithPolicy(storage.RetryIdempotent), storage.WithMaxAttempts(5))}, nil
}

func (g gcsObject) size(ctx context.Context) (int64, error) {
	attrs, err := g.handle.Attrs(ctx)
	api, ok := errors.AsType[*googleapi.Error](err)
	switch {
	case errors.Is(err, storage.ErrObjectNotExist):
		return 0, errMissing
	case ok && api.Code == http.StatusForbidden:
		return 0, errUnknown // these credentials may only write
	case err != nil:
		return 0, g.place.Error(ctx, err)
	}
	return attrs.Size, nil
}

func (g gcsObject) put(ctx context.Context, f *os.File, size int64) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	// Without this, an object would be made of what was written before an error.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := g.handle.If(storage.Conditions{DoesNotExist: true}).NewWriter(ctx)
	w.ContentType = "application/octet-stream"
	w.CRC32C, w.SendCRC32C = sum.Sum32(), true
	_, err := io.Copy(w, io.NewSectionReader(f, 0, size))
	if err == nil {
		err = w.Close()
	}
	if api, ok := errors.AsType[*googleapi.Error](err); ok && api.Code == http.StatusPreconditionFailed {
		return errExists
	}
	if err != nil {
		return g.place.Error(ctx, err)
	}
	return nil
}
