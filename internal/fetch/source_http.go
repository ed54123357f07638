package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tcnksm/go-httpstat"

	"github.com/fujiwara/stretcher/internal/allowlist"
	"github.com/fujiwara/stretcher/internal/redact"
)

const maxRedirects = 10

// httpSource is a resource of a web server.
type httpSource struct {
	Options
	url       string
	parsed    *url.URL
	allow     allowlist.List
	client    *http.Client
	transport *http.Transport
}

func newHTTPSource(rawURL string, o Options, allow allowlist.List) (source, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse may quote any part of the URL, also of a password.
		return nil, errors.New("malformed URL: special characters have to be percent-encoded")
	}
	if err := checkHost(u); err != nil {
		return nil, err
	}
	t := newTransport()
	t.MaxIdleConnsPerHost = t.MaxIdleConns
	s := &httpSource{Options: o, url: rawURL, parsed: u, allow: allow, transport: t}
	s.client = &http.Client{Transport: t, CheckRedirect: s.checkRedirect}
	return s, nil
}

func (s *httpSource) allowed(l allowlist.List) error { return l.Web(s.parsed) }

// noRedirect makes a client return the answer that redirects.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// checkHost reports a missing host or an invalid port, which net/http would
// report as a network error, as if it were worth a retry.
func checkHost(u *url.URL) error {
	if u.Hostname() == "" {
		return errors.New("the URL names no host")
	}
	if _, err := strconv.ParseUint(cmp.Or(u.Port(), "80"), 10, 16); err != nil {
		return fmt.Errorf("%s is not a valid port", u.Port())
	}
	return nil
}

// checkRedirect follows the redirects that a browser follows, if they are allowed. It
// sends secrets only to the host that they were given for.
func (s *httpSource) checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return permanent(fmt.Errorf("more than %d redirects", maxRedirects))
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return permanent(fmt.Errorf("redirected to a URL of scheme %q", req.URL.Scheme))
	case checkHost(req.URL) != nil:
		return permanent(fmt.Errorf("redirected to %s: %w", redact.URL(req.URL.String()), checkHost(req.URL)))
	case from.Scheme == "https" && req.URL.Scheme == "http":
		return permanent(fmt.Errorf("redirected from https to http: %s", redact.URL(req.URL.String())))
	}
	if err := s.allow.Web(req.URL); err != nil {
		return permanent(fmt.Errorf("redirected to %s: %w", redact.URL(req.URL.String()), err))
	}
	// The referer contains the query of the URL before, which may be a
	// signature.
	req.Header.Del("Referer")
	if sameServer(req.URL, via[0].URL) {
		req.Host = s.Headers.Get("Host")
		return nil
	}
	withoutHeaders(req, s.Headers)
	req.Header.Set("User-Agent", s.userAgent())
	if !strings.EqualFold(req.URL.Host, via[0].URL.Host) { // then it is more than a redirect to https
		// net/http sends them to subdomains too.
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

func (s *httpSource) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	var stat timings
	if s.Debug {
		ctx = stat.trace(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, permanent(err)
	}
	req.Header.Set("User-Agent", s.userAgent())
	// The checksum of the manifest is that of the bytes as they are stored. With
	// this header, net/http does not decode either.
	req.Header.Set("Accept-Encoding", "identity")
	setHeaders(req, s.Headers)
	if user := req.URL.User; user != nil {
		// Unlike the user of the URL, the header is kept by redirects within the host.
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	ranged := offset > 0 || length >= 0
	if ranged {
		req.Header.Set("Range", httpRange(offset, length))
		if validator != "" {
			req.Header.Set("If-Range", validator)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if s.Debug {
		resp.Body = &timedBody{resp.Body, s.Options, &stat, resp}
	}
	o := &object{
		body:      resp.Body,
		size:      resp.ContentLength,
		validator: httpValidator(resp.Header),
		ranges:    resp.Header.Get("Accept-Ranges") == "bytes",
		encoding:  httpEncoding(resp.Header),
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && ranged:
		o.offset, o.size, err = parseContentRange(resp.Header.Get("Content-Range"))
		// To a request with If-Range, the server answers 206 only if the object
		// is the same, and need not repeat its validator (RFC 9110, section
		// 15.3.7). If it sends another validator, it has ignored If-Range.
		field := "Last-Modified"
		if strings.HasPrefix(validator, `"`) {
			field = "ETag"
		}
		if sent := resp.Header.Get(field); validator != "" && (sent == "" || sent == validator) {
			o.validator = validator
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && ranged:
		err = errChanged
	case resp.StatusCode < 200 || resp.StatusCode > 299 || resp.StatusCode == http.StatusPartialContent:
		err = withReason(errors.New(textReason(resp.Status)), readReason(resp))
		if resp.Request.URL.String() != req.URL.String() {
			err = fmt.Errorf("%w (redirected to %s)", err, redact.URL(resp.Request.URL.String()))
		}
		err = httpStatusError(err, resp.StatusCode, resp.Header)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return o, nil
}

// withoutURL returns the error of a request without the URL, which our own
// errors contain already. It is permanent if the server redirects to what is not a
// URL, and if its certificate is not valid.
func withoutURL(err error) error {
	if at, ok := errors.AsType[*url.Error](err); ok {
		err = at.Err
	}
	if strings.HasPrefix(err.Error(), "failed to parse Location header") { // and quotes it, with its secrets
		return permanent(errors.New("redirected to a malformed URL"))
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		return err
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		err = fmt.Errorf("%w (set SSL_CERT_FILE to trust another authority)", err)
	}
	return permanent(err)
}

func (s *httpSource) closeIdle() { s.transport.CloseIdleConnections() }

func (s *httpSource) close() error {
	s.closeIdle()
	return nil
}

// httpRange returns the value of a Range header (RFC 9110, section 14.2). A
// negative length means all the rest.
func httpRange(offset, length int64) string {
	if length < 0 {
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)
}

// parseContentRange reads a Content-Range header (RFC 9110, section 14.4).
// The size is -1 where the server does not say it.
func parseContentRange(s string) (offset, size int64, err error) {
	bad := fmt.Errorf("bad Content-Range %.100q", s)
	spec, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, bad
	}
	span, total, ok := strings.Cut(spec, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, bad
	}
	offset, err = strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	if err != nil || err2 != nil || offset < 0 || end < offset {
		return 0, 0, bad
	}
	if total == "*" {
		return offset, -1, nil
	}
	size, err = strconv.ParseInt(total, 10, 64)
	if err != nil || size <= end {
		return 0, 0, bad
	}
	return offset, size, nil
}

// httpValidator returns what If-Range accepts: a strong ETag, or else a
// modification time that was at least a second ago when the server answered, so
// that a change within the same second does not go unnoticed (RFC 9110,
// sections 8.8.2.2 and 13.1.5).
func httpValidator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return ""
	}
	if date, err := http.ParseTime(h.Get("Date")); err != nil || date.Sub(modified) < time.Second {
		return ""
	}
	return h.Get("Last-Modified")
}

// timings records how long each step of a request took. It has a lock because
// net/http may call the hooks of go-httpstat from several goroutines, and they
// have none.
type timings struct {
	mu        sync.Mutex
	result    httpstat.Result
	start     time.Time
	firstByte time.Time // httpstat records it too, but does not export it
}

// trace returns a context that makes net/http record the timings of a request.
func (t *timings) trace(ctx context.Context) context.Context {
	t.start = time.Now()
	inner := httptrace.ContextClientTrace(httpstat.WithHTTPStat(context.Background(), &t.result))
	locked := func(hook func()) {
		t.mu.Lock()
		defer t.mu.Unlock()
		hook()
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:             func(i httptrace.DNSStartInfo) { locked(func() { inner.DNSStart(i) }) },
		DNSDone:              func(i httptrace.DNSDoneInfo) { locked(func() { inner.DNSDone(i) }) },
		ConnectStart:         func(n, a string) { locked(func() { inner.ConnectStart(n, a) }) },
		ConnectDone:          func(n, a string, err error) { locked(func() { inner.ConnectDone(n, a, err) }) },
		TLSHandshakeStart:    func() { locked(func() { inner.TLSHandshakeStart() }) },
		TLSHandshakeDone:     func(c tls.ConnectionState, err error) { locked(func() { inner.TLSHandshakeDone(c, err) }) },
		GotConn:              func(i httptrace.GotConnInfo) { locked(func() { inner.GotConn(i) }) },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { locked(func() { inner.WroteRequest(i) }) },
		GotFirstResponseByte: func() { locked(func() { t.firstByte = time.Now(); inner.GotFirstResponseByte() }) },
	})
}

// timedBody is the body of an answer that logs the timings when it is closed.
type timedBody struct {
	io.ReadCloser
	Options
	timings *timings
	resp    *http.Response
}

func (b *timedBody) Close() error {
	err := b.ReadCloser.Close()
	b.timings.mu.Lock()
	defer b.timings.mu.Unlock()
	r, now := &b.timings.result, time.Now()
	b.logf("[DEBUG] GET %s: %s: DNS %s, connect %s, TLS %s, first byte %s, transfer %s, total %s", b.resp.Request.URL, textReason(b.resp.Status),
		r.DNSLookup, r.TCPConnection, r.TLSHandshake, r.ServerProcessing, now.Sub(b.timings.firstByte), now.Sub(b.timings.start))
	return err
}
