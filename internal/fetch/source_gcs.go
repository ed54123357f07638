package fetch

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/fujiwara/stretcher/internal/allowlist"
)

var (
	errNoObject = errors.New("object doesn't exist")
	errNoBucket = errors.New("bucket doesn't exist")
)

// gcsSource is an object of Google Cloud Storage.
type gcsSource struct {
	bucket, key string
	userAgent   string
	scope       string     // of the credentials; "" is to read only
	mu          sync.Mutex // of the fields below, which connect sets
	client      *GCSClient
	transport   *http.Transport
}

// connect returns the client, which it makes at the first call.
func (s *gcsSource) connect() (*GCSClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	s.transport = newTransport()
	client, err := newGCSClient(boundedErrors{s.transport}, cmp.Or(s.scope, gcsReadOnly), s.userAgent)
	if err != nil {
		return nil, err
	}
	s.client = client
	return client, nil
}

// open gets the object by the XML API (https://cloud.google.com/storage/docs/xml-api/get-object-download).
func (s *gcsSource) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if validator != "" {
		query.Set("generation", validator)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, client.URL(query, s.bucket, s.key).String(), nil)
	if err != nil {
		return nil, permanent(err)
	}
	// Without this header, the server decompresses what is stored with the
	// Content-Encoding gzip. The checksum of the manifest is that of the bytes as they
	// are stored.
	req.Header.Set("Accept-Encoding", "gzip")
	ranged := offset > 0 || length >= 0
	if ranged {
		req.Header.Set("Range", httpRange(offset, length))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	o := &object{
		body:      resp.Body,
		size:      resp.ContentLength,
		validator: resp.Header.Get("X-Goog-Generation"),
		ranges:    true,
		encoding:  encoding{sent: resp.Header.Get("Content-Encoding")},
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && ranged:
		o.offset, o.size, err = parseContentRange(resp.Header.Get("Content-Range"))
	case resp.StatusCode == http.StatusOK: // also if the server has ignored the range
		o.body = withCRC32C(resp)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && ranged:
		err = errChanged
	case resp.StatusCode == http.StatusNotFound:
		err = s.missing(ctx, validator)
	default:
		err = client.StatusError(resp)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return o, nil
}

// missing returns the error for an object that does not exist, permanent unless another
// attempt may succeed.
func (s *gcsSource) missing(ctx context.Context, validator string) error {
	if validator != "" {
		return errChanged // that generation has been deleted
	}
	// A missing bucket gives the same error, but is not worth a retry.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.client.URL(nil, "storage", "v1", "b", s.bucket).String(), nil)
	if err != nil {
		return permanent(err)
	}
	if resp, err := s.client.Do(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return permanent(errNoBucket)
		}
	}
	return missingError{errNoObject}
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
	return nil
}

// crcBody is the body of a whole object. At its end it fails if the CRC32C of what was
// read is not that which the server has sent.
type crcBody struct {
	io.ReadCloser
	hash hash.Hash32
	want uint32
}

// withCRC32C returns the body of an answer, verified if it has the header for that
// (https://cloud.google.com/storage/docs/xml-api/reference-headers#xgooghash).
func withCRC32C(resp *http.Response) io.ReadCloser {
	for _, value := range resp.Header.Values("X-Goog-Hash") {
		for item := range strings.SplitSeq(value, ",") {
			encoded, ok := strings.CutPrefix(strings.TrimSpace(item), "crc32c=")
			if sum, err := base64.StdEncoding.DecodeString(encoded); ok && err == nil && len(sum) == 4 {
				return &crcBody{resp.Body, crc32.New(crc32.MakeTable(crc32.Castagnoli)), binary.BigEndian.Uint32(sum)}
			}
		}
	}
	return resp.Body
}

func (b *crcBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	if err == io.EOF && b.hash.Sum32() != b.want {
		err = fmt.Errorf("the CRC32C of what was received is %08x, not %08x as the server says", b.hash.Sum32(), b.want)
	}
	return n, err
}
