package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/allowlist"
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
	// allowed returns an error where the list does not allow what open requests.
	allowed(allowlist.List) error
}

// object is an object that a source has opened.
type object struct {
	body      io.ReadCloser
	offset    int64  // of the body's first byte; 0 where the server does not support ranges
	size      int64  // of the whole object; negative where unknown
	validator string // changes with the object; "" where the source has none
	ranges    bool   // whether other parts of it can be opened at the same time
	encoding  encoding
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

// newSource returns the source of a URL that Options.Allow allows, without opening
// it. Nothing is requested without a source.
func newSource(rawURL string, o Options) (source, error) {
	scheme, rest, ok := cutScheme(rawURL)
	if !ok {
		return nil, notURL(rawURL)
	}
	allow, err := allowlist.Parse(o.Allow)
	if err != nil {
		return nil, err
	}
	var s source
	switch scheme {
	case "file":
		s, err = newFileSource(withoutQuery(rest))
	case "http", "https":
		s, err = newHTTPSource(rawURL, o, allow)
	case "s3", "gs":
		bucket, key, _ := strings.Cut(withoutQuery(rest), "/")
		if scheme == "gs" {
			key = strings.TrimLeft(key, "/") // as the original does
		}
		switch {
		case bucket == "" || key == "":
			err = fmt.Errorf("expected a bucket and a key, as in %s://bucket/key", scheme)
		case scheme == "s3":
			s = &s3Source{bucket: bucket, key: unescape(key), options: o}
		default:
			s = &gcsSource{bucket: bucket, key: unescape(key), userAgent: o.userAgent()}
		}
	default:
		err = unknownScheme(scheme)
	}
	if err == nil {
		err = s.allowed(allow)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", redact.Printable(redact.URL(rawURL)), err)
	}
	return s, nil
}

// cutScheme returns the scheme of a URL, in lower case, and what follows its "://".
func cutScheme(rawURL string) (scheme, rest string, ok bool) {
	if path, oneSlash := cutFilePath(rawURL); oneSlash {
		return "file", path, true
	}
	scheme, rest, ok = strings.Cut(rawURL, "://")
	if !ok || strings.ContainsAny(scheme, ":/?#@") { // then the URL is in a query, for example
		return "", "", false
	}
	return strings.ToLower(scheme), rest, true
}

// knownScheme reports whether newSource has a source for the scheme.
func knownScheme(scheme string) bool {
	switch scheme {
	case "s3", "gs", "http", "https", "file":
		return true
	}
	return false
}

func unknownScheme(scheme string) error {
	return fmt.Errorf("unknown scheme %q: expected s3, gs, http, https or file", scheme)
}

// cutFilePath returns the path of a URL with a single slash, as file:/path,
// which is another spelling of file:///path (RFC 8089, section 2).
func cutFilePath(rawURL string) (path string, ok bool) {
	const prefix = "file:/"
	if len(rawURL) < len(prefix) || !strings.EqualFold(rawURL[:len(prefix)], prefix) || strings.HasPrefix(rawURL[len(prefix):], "/") {
		return "", false
	}
	return rawURL[len(prefix)-1:], true
}

// notURL returns the error for a text without a scheme.
func notURL(text string) error {
	shown := redact.URL(text)
	if strings.HasPrefix(text, "/") {
		return fmt.Errorf("%.200q is not a URL: did you mean %.200q?", shown, "file://"+shown)
	}
	return fmt.Errorf("%.200q is not a URL: expected s3://, gs://, http://, https:// or file://", shown)
}

// withoutQuery returns what follows the scheme of a URL without its query and
// fragment, which the original ignores in URLs that name no web server.
func withoutQuery(rest string) string {
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// ignoredPart returns the part of a URL that its source ignores, with the ? or #
// before it. It is "" where nothing is ignored.
func ignoredPart(rawURL string) string {
	if scheme, _, _ := strings.Cut(strings.ToLower(rawURL), ":"); scheme == "http" || scheme == "https" {
		return ""
	}
	return rawURL[len(withoutQuery(rawURL)):]
}

// unescape decodes percent escapes. Text with an invalid escape, such as
// "100%", is taken to be unescaped and returned as it is.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}
