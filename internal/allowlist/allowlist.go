// Package allowlist decides which URLs may be fetched: those under one of a list
// of prefixes. With the prefix https://example.com/deploy,
//
//	https://example.com/deploy/app.yml        is under it
//	https://EXAMPLE.com:443/deploy/a%62c.yml  too: equivalent spellings (RFC 3986, section 6.2)
//	https://example.com/deploy-evil/app.yml   is not: whole path segments count
//	https://example.com.evil.net/deploy/a     is not: the whole host counts
//	https://example.com/deploy/%2e%2e/a       is not: a server may decode and clean the path
//
// Servers disagree on what a path means: they decode it once, twice or not at all,
// merge slashes, drop ";parameters", and take a backslash for a slash. A path is
// under a prefix only if it is there in all of these readings; see below.
//
// The caller passes what it is going to request, rather than the text that it was
// given, so that the two cannot be read differently.
package allowlist

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/fujiwara/stretcher/internal/redact"
)

// List is a list of prefixes. The zero value allows everything.
type List struct {
	prefixes []location
	shown    string // the prefixes as they were given, for errors
}

// location is a prefix, or what is compared with it.
type location struct {
	scheme   string
	host     string   // with the port, in one spelling; of s3 and gs the bucket, of file ""
	segments []string // of the path, each in one spelling
}

// Parse parses prefixes. Each is an absolute URL of the scheme http, https, s3, gs
// or file, without user, query and fragment; a slash at its end does not matter. The
// error names a prefix that is not valid, without its secrets.
func Parse(prefixes []string) (List, error) {
	var l List
	for _, p := range prefixes {
		parsed, err := parsePrefix(p)
		if err != nil {
			return List{}, fmt.Errorf("%.200q is not a valid URL prefix: %w", redact.URL(p), err)
		}
		l.prefixes = append(l.prefixes, parsed)
	}
	l.shown = redact.Printable(redact.Text(strings.Join(prefixes, ", ")))
	return l, nil
}

func parsePrefix(raw string) (location, error) {
	if strings.ContainsAny(raw, "?#") {
		return location{}, errors.New("a prefix has no query and no fragment")
	}
	scheme, rest, ok := strings.Cut(raw, ":")
	if !ok {
		return location{}, errors.New("expected https://host/path, http://, s3://bucket/key, gs:// or file:///path")
	}
	var l location
	var err error
	switch scheme = strings.ToLower(scheme); scheme {
	case "http", "https":
		l, err = parseWeb(raw)
	case "s3", "gs":
		bucket, ok := strings.CutPrefix(rest, "//")
		bucket, key, _ := strings.Cut(bucket, "/")
		if !ok || bucket == "" || strings.ContainsFunc(bucket, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`@%\`, r) }) {
			return location{}, fmt.Errorf("expected %s://bucket or %s://bucket/key", scheme, scheme)
		}
		if key, err = url.PathUnescape(key); err == nil {
			l = objectLocation(scheme, bucket, key)
		}
	case "file":
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "//localhost"), "//")
		if rest, err = url.PathUnescape(rest); err == nil && (!path.IsAbs(rest) || strings.ContainsRune(rest, 0)) {
			err = errors.New("expected an absolute path, as in file:///path")
		}
		if err == nil {
			l, err = fileLocation(rest)
		}
	default:
		return location{}, fmt.Errorf("unknown scheme %.20q: expected s3, gs, http, https or file", scheme)
	}
	if err != nil {
		return location{}, err
	}
	if n := len(l.segments); n > 0 && l.segments[n-1] == "" {
		l.segments = l.segments[:n-1] // a slash at the end
	}
	for _, s := range l.segments {
		if levels, ok := depth(s); scheme != "file" && (!ok || levels != 1) {
			return location{}, errors.New("its path has an empty segment, a . or .., a control character, or bytes that are not UTF-8")
		}
	}
	return l, nil
}

func parseWeb(raw string) (location, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return location{}, errors.New("malformed URL: special characters have to be percent-encoded")
	case u.User != nil:
		return location{}, errors.New("a prefix has no user and no password")
	}
	return webLocation(u)
}

// Web returns an error unless a request for u, of the scheme http or https, is
// allowed. The user, the query and the fragment of u do not matter.
func (l List) Web(u *url.URL) error {
	return l.check(func() (location, error) { return webLocation(u) })
}

// Object returns an error unless an object of the scheme s3 or gs is allowed. The
// key is that of the request, without percent-encoding.
func (l List) Object(scheme, bucket, key string) error {
	return l.check(func() (location, error) { return objectLocation(scheme, bucket, key), nil })
}

// File returns an error unless a file is allowed. A path with ".." is not, since
// ".." after a symbolic link leads elsewhere than the path seems to say. Symbolic
// links are not looked at.
func (l List) File(path string) error {
	return l.check(func() (location, error) { return fileLocation(path) })
}

// ErrRefused is the error for a URL that is under none of the prefixes.
var ErrRefused = errors.New("refused by -allow")

func (l List) check(locate func() (location, error)) error {
	if len(l.prefixes) == 0 {
		return nil
	}
	at, err := locate()
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrRefused, l.shown, err)
	}
	for _, p := range l.prefixes {
		n := len(p.segments)
		if at.scheme != p.scheme || at.host != p.host || len(at.segments) < n || !slices.Equal(at.segments[:n], p.segments) {
			continue
		}
		if at.scheme == "file" || below(at.segments[n:]) {
			return nil
		}
		err = errors.New("some servers would read its path as one that leads out of there")
	}
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrRefused, l.shown, err)
	}
	return fmt.Errorf("%w: it is not under %s", ErrRefused, l.shown)
}

func webLocation(u *url.URL) (location, error) {
	if u.Opaque != "" || u.Hostname() == "" {
		return location{}, errors.New("the URL names no host")
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]), 10, 16)
	if err != nil {
		return location{}, fmt.Errorf("%q is not a valid port", u.Port())
	}
	host, err := canonicalHost(u.Hostname())
	if err != nil {
		return location{}, err
	}
	l := location{scheme: u.Scheme, host: net.JoinHostPort(host, strconv.FormatUint(port, 10))}
	// This is the path that net/http sends.
	if path := strings.TrimPrefix(u.EscapedPath(), "/"); path != "" {
		for s := range strings.SplitSeq(path, "/") {
			l.segments = append(l.segments, canonicalSegment(s))
		}
	}
	return l, nil
}

// canonicalHost returns a host in the one spelling that is compared: an IP address
// in its shortest form, and a name in lower case, as net/http encodes it for DNS. A
// dot at the end of a name stays: without it, a search domain may apply.
func canonicalHost(host string) (string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", errors.New("its host is not a valid name")
		}
	}
	return strings.ToLower(host), nil
}

// canonicalSegment returns an encoded path segment with its letters, digits and
// -._~!*'() decoded and the rest encoded in upper case (RFC 3986, section 6.2.2).
// Unlike the RFC it takes !*'() for unreserved, since net/http encodes these in one
// path and not in another.
func canonicalSegment(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c, ok := decodeByte(s[i:])
		switch {
		case !ok:
			b = append(b, s[i])
			continue
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!*'()", c) >= 0:
			b = append(b, c)
		default:
			b = fmt.Appendf(b, "%%%02X", c)
		}
		i += 2
	}
	return string(b)
}

func objectLocation(scheme, bucket, key string) location {
	l := location{scheme: scheme, host: bucket}
	if key != "" {
		l.segments = strings.Split(key, "/")
	}
	return l
}

// fileLocation returns the location of a path as the kernel reads it: empty
// segments and "." mean nothing.
func fileLocation(path string) (location, error) {
	l := location{scheme: "file"}
	for s := range strings.SplitSeq(path, "/") {
		switch s {
		case "", ".":
		case "..":
			return location{}, errors.New("its path has .. as a segment")
		default:
			l.segments = append(l.segments, s)
		}
	}
	return l, nil
}
