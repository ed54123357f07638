package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/redact"
)

// source is an object at a URL of some scheme.
type source interface {
	// open returns length bytes of the object from offset on, or all the rest
	// where length is negative. Where validator is not "" and the object has
	// another one by now, open may fail with errChanged, or return the object
	// from its beginning or with its new validator.
	open(ctx context.Context, offset, length int64, validator string) (*object, error)
	// closeIdle closes the connections that are not in use. net/http silently
	// retries a request that fails on a reused connection; closing idle ones
	// keeps our count of attempts honest.
	closeIdle()
	close() error
}

// object is an object that a source has opened.
type object struct {
	body      io.ReadCloser
	offset    int64  // of the body's first byte; 0 where the server does not support ranges
	size      int64  // of the whole object; negative where unknown
	validator string // changes with the object; "" where the source has none
	ranges    bool   // whether other parts of it can be opened at the same time
}

var errChanged = errors.New("the object changed during its download")

// permanentError is an error that another attempt would meet again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) error { return permanentError{err} }

// busyError is the answer of a server that is overloaded. It may say how long
// to wait before the next attempt.
type busyError struct {
	error
	retryAfter time.Duration
}

func (e busyError) Unwrap() error { return e.error }

// newSource returns the source of a URL, without opening it.
func newSource(rawURL string, o Options) (source, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return nil, fmt.Errorf("%.200q is no URL: expected s3://, gs://, http://, https:// or file://", rawURL)
	}
	var s source
	var err error
	switch scheme = strings.ToLower(scheme); scheme {
	case "file":
		s, err = newFileSource(rest)
	case "http", "https":
		s, err = newHTTPSource(rawURL, o)
	case "s3", "gs":
		bucket, key, _ := strings.Cut(rest, "/")
		switch {
		case bucket == "" || key == "":
			err = fmt.Errorf("expected a bucket and a key, as in %s://bucket/key", scheme)
		case scheme == "s3":
			s = &s3Source{bucket: bucket, key: unescape(key), version: o.Version}
		default:
			s = &gcsSource{bucket: bucket, key: unescape(key), userAgent: o.userAgent()}
		}
	default:
		err = fmt.Errorf("unknown scheme %q: expected s3, gs, http, https or file", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", redact.URL(rawURL), err)
	}
	return s, nil
}

// unescape decodes percent escapes. Text with an invalid escape, such as
// "100%", is taken to be unescaped and returned as it is.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}
