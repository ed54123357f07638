package stretcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
)

// gcsSource is an object of Google Cloud Storage.
type gcsSource struct {
	bucket, key string
	mu          sync.Mutex
	client      *storage.Client
}

func (s *gcsSource) connect() (*storage.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	// The context is the client's for its whole life: it fetches tokens with it.
	client, err := storage.NewClient(context.Background(), option.WithUserAgent(userAgent()))
	if err != nil {
		return nil, permanent(fmt.Errorf("GCP credentials: %w (set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key)", err))
	}
	// Attempts are counted in one place, for all schemes.
	client.SetRetry(storage.WithPolicy(storage.RetryNever))
	s.client = client
	return client, nil
}

func (s *gcsSource) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	// The checksum is that of the bytes as they are stored.
	handle := client.Bucket(s.bucket).Object(s.key).ReadCompressed(true)
	if validator != "" {
		generation, err := strconv.ParseInt(validator, 10, 64)
		if err != nil {
			return nil, permanent(fmt.Errorf("generation %q: %w", validator, err))
		}
		handle = handle.Generation(generation)
	}
	r, err := handle.NewRangeReader(ctx, offset, length)
	if err != nil {
		if validator != "" && (errors.Is(err, storage.ErrObjectNotExist) || gcsStatus(err) == http.StatusRequestedRangeNotSatisfiable) {
			return nil, errChanged // that generation is gone
		}
		return nil, gcsError(err)
	}
	o := &object{body: r, offset: r.Attrs.StartOffset, size: r.Attrs.Size, ranges: true}
	if r.Attrs.Generation != 0 {
		o.validator = strconv.FormatInt(r.Attrs.Generation, 10)
	}
	return o, nil
}

func (s *gcsSource) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

func gcsStatus(err error) int {
	var api *googleapi.Error
	if errors.As(err, &api) {
		return api.Code
	}
	return 0
}

// gcsError tells what another attempt may mend from what it cannot.
func gcsError(err error) error {
	switch status := gcsStatus(err); {
	case errors.Is(err, storage.ErrBucketNotExist):
		return permanent(err)
	case errors.Is(err, storage.ErrObjectNotExist), status == http.StatusNotFound, status == http.StatusRequestTimeout:
		return err
	case status == http.StatusTooManyRequests, status >= 500:
		var api *googleapi.Error
		errors.As(err, &api)
		return busyError{err, retryAfter(api.Header.Get("Retry-After"))}
	case status >= 400:
		return permanent(err)
	}
	return err
}
