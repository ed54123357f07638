package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ownHeaders are set by this package or by net/http; a value from elsewhere would
// break ranges, retries or the connection itself.
var ownHeaders = []string{
	"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Accept-Encoding",
	"Content-Length", "Transfer-Encoding", "Te", "Trailer", "Expect", "Connection", "Keep-Alive", "Upgrade",
	"Proxy-Connection", "Proxy-Authorization",
}

// CheckHeaders reports the first header that cannot be sent: one with an invalid
// name, with a value that is empty or has control characters, or one that this
// package has to set itself. The error does not contain the value.
func CheckHeaders(h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("the name of a header is not valid: expected letters, digits and hyphens")
		}
		if slices.Contains(ownHeaders, http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("the header %s cannot be set: stretcher sets it itself where it is needed", name)
		}
		for _, value := range values {
			switch {
			case value == "":
				return fmt.Errorf("the header %s has no value", name)
			case !httpguts.ValidHeaderFieldValue(value):
				return fmt.Errorf("the value of the header %s has a line break or another control character", name)
			}
		}
	}
	if hosts := h.Values("Host"); len(hosts) > 1 || len(hosts) == 1 && !httpguts.ValidHostHeader(hosts[0]) {
		return errors.New("the header Host has to be one host name, with or without a port")
	}
	return nil
}

// HeaderSecrets returns the parts of the headers that must not be logged: all values
// except that of Host, and of Authorization also the credentials without their scheme.
func HeaderSecrets(h http.Header) []string {
	var secrets []string
	for name, values := range h {
		if http.CanonicalHeaderKey(name) == "Host" {
			continue
		}
		secrets = append(secrets, values...)
		if http.CanonicalHeaderKey(name) == "Authorization" {
			for _, value := range values {
				if _, credentials, ok := strings.Cut(value, " "); ok {
					secrets = append(secrets, strings.TrimSpace(credentials))
				}
			}
		}
	}
	return secrets
}

// setHeaders adds the custom headers to a request. Host is not a header for
// net/http.
func setHeaders(req *http.Request, h http.Header) {
	for name, values := range h {
		req.Header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	if host := h.Get("Host"); host != "" {
		req.Header.Del("Host")
		req.Host = host
	}
}

// withoutHeaders removes the custom headers from a request that a redirect leads
// elsewhere: to another scheme, host or port.
func withoutHeaders(req *http.Request, h http.Header) {
	for name := range h {
		req.Header.Del(name)
	}
	req.Host = ""
}

// sameServer reports whether two URLs have the same scheme, host and port, as
// curl compares them.
func sameServer(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}
