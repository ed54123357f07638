package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/httptransport"
	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
)

// gcsSource is an object of Google Cloud Storage.
type gcsSource struct {
	bucket, key string
	mu          sync.Mutex
	client      *storage.Client
	transport   *http.Transport
}

func (s *gcsSource) connect() (*storage.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	s.transport = onlyHTTP1(http.DefaultTransport.(*http.Transport).Clone())
	hc := &http.Client{Transport: gcsTransport{s.transport}}
	options := []option.ClientOption{option.WithHTTPClient(hc)}
	if os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		creds, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{storage.ScopeReadOnly}})
		if err == nil {
			err = httptransport.AddAuthorizationMiddleware(hc, creds)
		}
		if err != nil {
			return nil, permanent(fmt.Errorf("GCP credentials: %w (set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key)", err))
		}
		options = append(options, option.WithAuthCredentials(creds))
	}
	client, err := storage.NewClient(context.Background(), options...)
	if err != nil {
		return nil, permanent(fmt.Errorf("GCS client: %w", err))
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
	r, err := handle.NewRangeReader(context.WithValue(ctx, gcsReadKey{}, new(error)), offset, length)
	if err != nil {
		return nil, s.error(ctx, err, validator, offset > 0 || length >= 0)
	}
	o := &object{body: r, offset: r.Attrs.StartOffset, size: r.Attrs.Size, ranges: true}
	if r.Attrs.Generation > 0 {
		o.validator = strconv.FormatInt(r.Attrs.Generation, 10)
	}
	return o, nil
}

// error tells what another attempt may mend from what it cannot.
func (s *gcsSource) error(ctx context.Context, err error, validator string, ranged bool) error {
	if errors.Is(err, storage.ErrObjectNotExist) {
		if validator != "" {
			return errChanged // that generation is gone
		}
		// A missing bucket looks the same, but is not worth a retry.
		if _, bucketErr := s.client.Bucket(s.bucket).Attrs(ctx); errors.Is(bucketErr, storage.ErrBucketNotExist) {
			return permanent(storage.ErrBucketNotExist)
		}
		return storage.ErrObjectNotExist
	}
	if token, ok := errors.AsType[*auth.Error](err); ok && token.Response != nil {
		text := fmt.Sprintf("%.500s", strings.Join(strings.Fields(token.Error()), " ")) // it has several lines, and the answer
		return fmt.Errorf("GCP credentials: %w", httpStatusError(text, token.Response.StatusCode, token.Response.Header))
	}
	api, ok := errors.AsType[*googleapi.Error](err)
	if !ok {
		return withoutURL(err) // no answer at all
	}
	switch {
	case ranged && api.Code == http.StatusRequestedRangeNotSatisfiable:
		return errChanged
	case api.Code == http.StatusRequestTimeout:
		return err
	case api.Code == http.StatusTooManyRequests, api.Code >= 500:
		return busyError{err, retryAfter(api.Header.Get("Retry-After"))}
	}
	return permanent(err)
}

func (s *gcsSource) dropIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}

func (s *gcsSource) close() error {
	s.dropIdle()
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// gcsReadKey is of a context of one read; its value is a *error.
type gcsReadKey struct{}

// gcsTransport lets a read fail where its body does. The client would ask for
// the rest on its own, with no limit, no pause and no word in the log.
type gcsTransport struct{ http.RoundTripper }

func (t gcsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", userAgent())
	failed, ok := req.Context().Value(gcsReadKey{}).(*error)
	if !ok {
		return t.RoundTripper.RoundTrip(req)
	}
	if *failed != nil {
		return nil, *failed
	}
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if from := req.Header.Get("Range"); resp.StatusCode == http.StatusOK && from != "" && !strings.HasPrefix(from, "bytes=0-") {
		// The client would only say that the range was not satisfied.
		resp.Body.Close()
		return nil, errChanged
	}
	resp.Body = &gcsBody{resp.Body, failed}
	return resp, nil
}

type gcsBody struct {
	io.ReadCloser
	failed *error
}

func (b *gcsBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		*b.failed = err
	}
	return n, err
}
