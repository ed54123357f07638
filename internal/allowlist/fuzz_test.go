package allowlist

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// An allowed URL has the host of the prefix, and its path is below that of the
// prefix in whatever way a server reads it.
func FuzzWeb(f *testing.F) {
	for _, p := range []string{"", "/", "/deploy", "/a%2Fb/c;d/"} {
		for _, s := range []string{
			"", "/", "/deploy/a", "/deploy/../a", "/deploy/%2e%2e/a", "/deploy/%252e%252e%252fa", "/deploy/a/..%2f../b", "/deploy//../a", "/deploy/..;/a", `/deploy/..\a`,
			"/a%2Fb/c;d/e/../../..", "/deploy/%%32%65.", "/deploy/..%00", "/deploy/.../x", "/deploy/..%3f/..%20/a", "@evil.net/deploy/a", ".evil.net/deploy/a", ":443/deploy/a", "/deploy?x#y", "/DEPLOY/%ff",
		} {
			f.Add("https://example.com"+p, "https://example.com"+s)
			f.Add("https://example.com"+p, "https://eXample.com:443"+p+s)
		}
	}
	f.Fuzz(func(t *testing.T, prefix, raw string) {
		l, err := Parse([]string{prefix})
		if err != nil || l.prefixes[0].scheme != "https" && l.prefixes[0].scheme != "http" {
			return
		}
		base, err := url.Parse(prefix)
		if err != nil {
			t.Fatalf("%q is not a URL: %v", prefix, err)
		}
		if err := l.Web(base); err != nil {
			t.Errorf("%q is not under itself: %v", prefix, err)
		}
		u, err := url.Parse(raw)
		if err != nil {
			return
		}
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		allowed := l.Web(u) == nil
		if want := webOracle(base, u); allowed != want {
			t.Fatalf("%q under %q: got %v, the oracle says %v", raw, prefix, allowed, want)
		}
		if !allowed {
			return
		}
		// What net/http would send, as a usual server reads it.
		sent, err := url.ParseRequestURI(u.RequestURI())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := path.Clean("/"+sent.Path)+"/", strings.TrimSuffix(path.Clean("/"+base.Path), "/")+"/"; !strings.HasPrefix(got, want) {
			t.Errorf("%q under %q: a server reads it as %q", raw, prefix, got)
		}
		if !strings.EqualFold(u.Hostname(), base.Hostname()) && isASCII(u.Hostname()+base.Hostname()) && !strings.Contains(u.Host, "[") {
			t.Errorf("%q under %q: another host", raw, prefix)
		}
		u.Path, u.RawPath = u.Path+"/name", u.EscapedPath()+"/name"
		if err := l.Web(u); err != nil {
			t.Errorf("%q is allowed, but not with another segment: %v", raw, err)
		}
		u.Host += ".evil.net"
		if l.Web(u) == nil {
			t.Errorf("%q is allowed with another host, %s", raw, u.Host)
		}
	})
}

// An allowed key has the segments of the prefix, and stays below it whether or not
// a server cleans it.
func FuzzObject(f *testing.F) {
	for _, key := range []string{"a", "deploy/a", "deploy/../a", "deploy/a/../b", "deploy//../a", "/deploy", "deploy/%2e%2e/a", `deploy/..\a`, "deploy/a;/b", "deploy-evil/a"} {
		f.Add("bucket", "deploy", "bucket", key)
		f.Add("bucket", "", "bucket-evil", key)
	}
	f.Fuzz(func(t *testing.T, bucket, prefix, otherBucket, key string) {
		l, err := Parse([]string{"s3://" + bucket + "/" + strings.ReplaceAll(url.PathEscape(prefix), "%2F", "/")})
		if err != nil {
			return
		}
		prefix = strings.TrimSuffix(prefix, "/")
		under := otherBucket == l.prefixes[0].host && (prefix == "" || key == prefix || strings.HasPrefix(key, prefix+"/"))
		rest := strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/")
		if prefix == "" {
			rest = key
		}
		if got, want := l.Object("s3", otherBucket, key) == nil, under && !escapes(strings.Split(rest, "/")); got != want {
			t.Fatalf("bucket %q, key %q under %q/%q: got %v, the oracle says %v", otherBucket, key, bucket, prefix, got, want)
		}
		if l.Object("gs", otherBucket, key) == nil {
			t.Errorf("key %q of another scheme is allowed", key)
		}
	})
}

// A file is allowed if its path, cleaned, is below that of the prefix, and has no
// "..".
func FuzzFile(f *testing.F) {
	for _, p := range []string{"/srv/deploy", "/srv/deploy/a", "/srv/deploy/../a", "/srv//deploy/./a", "/srv/deploy-evil", "/", "//srv/deploy", "/srv/deploy/..a"} {
		f.Add("/srv/deploy", p)
		f.Add("/", p)
	}
	f.Fuzz(func(t *testing.T, prefix, file string) {
		l, err := Parse([]string{"file://" + strings.ReplaceAll(url.PathEscape(prefix), "%2F", "/")})
		if err != nil || !path.IsAbs(file) || !path.IsAbs(prefix) {
			return
		}
		rel := strings.TrimPrefix(path.Clean(file)+"/", strings.TrimSuffix(path.Clean(prefix), "/")+"/")
		want := len(rel) < len(path.Clean(file)+"/") && !slices.Contains(strings.Split(file, "/"), "..")
		if got := l.File(file) == nil; got != want {
			t.Errorf("%q under %q: got %v, the oracle says %v", file, prefix, got, want)
		}
	})
}

// webOracle is Web, written for simplicity: it tries all readings of the path.
func webOracle(base, u *url.URL) bool {
	if base.Scheme != u.Scheme || u.Host == "" || u.Opaque != "" || portOf(base) != portOf(u) {
		return false
	}
	if a, err := canonicalHost(base.Hostname()); err != nil || u.Hostname() == "" {
		return false
	} else if b, err := canonicalHost(u.Hostname()); err != nil || a != b {
		return false
	}
	prefix, segments := segmentsOf(base), segmentsOf(u)
	if n := len(prefix); n > 0 && prefix[n-1] == "" {
		prefix = prefix[:n-1]
	}
	if len(segments) < len(prefix) {
		return false
	}
	for i, p := range prefix {
		if !equivalent(p, segments[i]) {
			return false
		}
	}
	return !escapes(segments[len(prefix):])
}

func portOf(u *url.URL) string {
	port := strings.TrimLeft(u.Port(), "0")
	switch {
	case u.Port() != "" && port == "":
		return "0"
	case port == "" && u.Scheme == "https":
		return "443"
	case port == "":
		return "80"
	case len(port) > 5 || len(port) == 5 && port > "65535":
		return "invalid " + u.String()
	}
	return port
}

func segmentsOf(u *url.URL) []string {
	p := strings.TrimPrefix(u.EscapedPath(), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// equivalent reports whether two encoded segments mean the same to every server.
func equivalent(a, b string) bool {
	plainA, errA := url.PathUnescape(a)
	plainB, errB := url.PathUnescape(b)
	if errA != nil || errB != nil || plainA != plainB {
		return false
	}
	// They differ in what is encoded. That is of no importance but for
	// characters that mean something else unless they are encoded.
	for _, c := range "$&+,;=:@/?#%\\[]\"<>^`{|} " {
		if strings.Count(a, string(c)) != strings.Count(b, string(c)) && c != '%' {
			return false
		}
	}
	return true
}

// escapes reports whether a server may read a path as one that leaves its start.
func escapes(segments []string) bool {
	levels := map[int]bool{0: true} // at which the path may be
	for _, s := range segments {
		next := map[int]bool{}
		for _, r := range readings(s) {
			for level := range levels {
				for _, name := range r {
					switch name {
					case "", ".":
					case "..":
						level--
					default:
						level++
					}
					if level < 0 {
						return true
					}
				}
				next[level] = true
			}
		}
		if len(next) == 0 {
			return true
		}
		levels = next
	}
	return false
}

// readings returns the lists of names that servers may read a segment as: none
// where the segment must not be used at all.
func readings(segment string) [][]string {
	var all [][]string
	for {
		for _, separators := range []string{"", "/", `/\`} {
			names := strings.FieldsFunc(segment, func(r rune) bool { return strings.ContainsRune(separators, r) })
			var cut, windows []string
			for _, n := range names {
				c := n
				if i := strings.IndexAny(n, ";?#"); i >= 0 {
					c = n[:i]
				}
				cut = append(cut, c)
				w := c
				if strings.TrimLeft(c, ". ") == "" {
					w = strings.Repeat(".", min(2, strings.Count(c, ".")))
				}
				windows = append(windows, w)
			}
			for _, list := range [][]string{names, cut, windows} {
				if slices.Contains(list, "..") && len(segment) > len(names[slices.Index(list, "..")]) {
					return nil
				}
				all = append(all, list)
			}
		}
		decoded := decodeOnce(segment)
		if decoded == segment {
			break
		}
		segment = decoded
	}
	if !utf8.ValidString(segment) || strings.ContainsFunc(segment, func(r rune) bool { return unicode.IsControl(r) && r < 0x80 }) {
		return nil
	}
	return all
}

// decodeOnce decodes the valid percent escapes of s.
func decodeOnce(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 3 {
			if plain, err := url.PathUnescape(s[:3]); err == nil && s[0] == '%' {
				b.WriteString(plain)
				s = s[3:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}
