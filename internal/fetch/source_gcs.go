package fetch

import (
	"cmp"
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

	"github.com/fujiwara/stretcher/internal/allowlist"
	"github.com/fujiwara/stretcher/internal/redact"
)

// gcsSource is an object of Google Cloud Storage.
type gcsSource struct {
	bucket, key string
	userAgent   string
	scope       string     // of the credentials; "" is to read only
	mu          sync.Mutex // of the fields below, which connect sets
	client      *storage.Client
	transport   *http.Transport
}

// connect returns the client, which it makes at the first call.
func (s *gcsSource) connect() (*storage.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	s.transport = newTransport()
	hc := &http.Client{
		Transport: gcsTransport{boundedErrors{s.transport}, s.userAgent},
		// GCS does not redirect. The credentials would go wherever a redirect leads.
		CheckRedirect: noRedirect,
	}
	options := []option.ClientOption{option.WithHTTPClient(hc)}
	if os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		creds, err := credentials.DetectDefault(&credentials.DetectOptions{
			Scopes: []string{cmp.Or(s.scope, storage.ScopeReadOnly)},
			Client: &http.Client{Transport: boundedErrors{s.transport}}, // of the server of tokens
		})
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
	// Retries are made in one place for all schemes, by fetcher.retry.
	client.SetRetry(storage.WithPolicy(storage.RetryNever))
	s.client = client
	return client, nil
}

func (s *gcsSource) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	// The checksum of the manifest is that of the bytes as they are stored.
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
	o := &object{body: r, offset: r.Attrs.StartOffset, size: r.Attrs.Size, ranges: true, encoding: encoding{sent: r.Attrs.ContentEncoding}}
	if r.Attrs.Generation > 0 {
		o.validator = strconv.FormatInt(r.Attrs.Generation, 10)
	}
	return o, nil
}

// error returns the error of a read, permanent unless another attempt may
// succeed. ranged says that the read was of a part of the object.
func (s *gcsSource) error(ctx context.Context, err error, validator string, ranged bool) error {
	if errors.Is(err, storage.ErrObjectNotExist) {
		if validator != "" {
			return errChanged // that generation has been deleted
		}
		// A missing bucket gives the same error, but is not worth a retry.
		if _, bucketErr := s.client.Bucket(s.bucket).Attrs(ctx); errors.Is(bucketErr, storage.ErrBucketNotExist) {
			return permanent(storage.ErrBucketNotExist)
		}
		return missingError{storage.ErrObjectNotExist}
	}
	if token, ok := errors.AsType[*auth.Error](err); ok && token.Response != nil {
		status := withReason(errors.New(redact.Printable(token.Response.Status)), reason(token.Response.Header.Get("Content-Type"), token.Body))
		return fmt.Errorf("GCP credentials: %w", httpStatusError(status, token.Response.StatusCode, token.Response.Header))
	}
	api, ok := errors.AsType[*googleapi.Error](err)
	if !ok {
		return withoutURL(err) // the server has not answered
	}
	if ranged && api.Code == http.StatusRequestedRangeNotSatisfiable {
		return errChanged
	}
	status := fmt.Errorf("%d %s", api.Code, http.StatusText(api.Code))
	status = withReason(status, cmp.Or(reason(api.Header.Get("Content-Type"), []byte(api.Body)), textReason(api.Message)))
	return httpStatusError(status, api.Code, api.Header)
}

func (s *gcsSource) allowed(l allowlist.List) error { return l.Object("gs", s.bucket, s.key) }

func (s *gcsSource) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}

func (s *gcsSource) close() error {
	s.closeIdle()
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// gcsReadKey is the key of a value in the context of a read: a *error, for the
// error that its body failed with.
type gcsReadKey struct{}

// gcsTransport makes a read fail when its body fails. Otherwise the client would
// request the rest on its own, any number of times, without a pause and without
// a line in the log.
type gcsTransport struct {
	http.RoundTripper
	userAgent string
}

func (t gcsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", t.userAgent)
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
		// The server has ignored the range. The error of the client would not
		// say so.
		resp.Body.Close()
		return nil, errChanged
	}
	resp.Body = &gcsBody{resp.Body, failed}
	return resp, nil
}

// gcsBody records in *failed the error that a body fails with.
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
