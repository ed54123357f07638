package fetch

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, want string }{
		{"", `"" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"/path/to/manifest.yml", `"/path/to/manifest.yml" is not a URL: did you mean "file:///path/to/manifest.yml"?`},
		{"user:s3cret@host/a?token=s3cret", `"user:REDACTED@host/a?token=REDACTED" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"a\x1b[2J", `"a\x1b[2J" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"x://\x1b[2J", `x://\x1b[2J: unknown scheme "x": expected s3, gs, http, https or file`},
		{"file:a", `"file:a" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"ftp://host/a", `ftp://host/a: unknown scheme "ftp": expected s3, gs, http, https or file`},
		{"s3://bucket", "s3://bucket: expected a bucket and a key, as in s3://bucket/key"},
		{"s3://bucket/", "s3://bucket/: expected a bucket and a key, as in s3://bucket/key"},
		{"gs:///key", "gs:///key: expected a bucket and a key, as in gs://bucket/key"},
		{"gs://bucket//", "gs://bucket//: expected a bucket and a key, as in gs://bucket/key"},
		{"s3://bucket/?a", "s3://bucket/?a: expected a bucket and a key, as in s3://bucket/key"},
		{"http://", "http://: the URL names no host"},
		{"http:///a", "http:///a: the URL names no host"},
		{"http://:80/a", "http://:80/a: the URL names no host"},
		{"http://host:99999/a", "http://host:99999/a: 99999 is not a valid port"},
		{"http://host:port/a", "http://host:port/a: malformed URL: special characters have to be percent-encoded"},
		{"http://host/%zz", "http://host/%zz: malformed URL: special characters have to be percent-encoded"},
	} {
		err := CheckURL(test.url, nil)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: error %v, want %s", test.url, err, test.want)
		}
		_, logged, err := download(t, quick(3), test.url)
		if err == nil || err.Error() != test.want || logged != "" {
			t.Errorf("%s: error %v, log:\n%s", test.url, err, logged)
		}
	}
}

func FuzzNewSource(f *testing.F) {
	for _, u := range []string{"s3://bucket/a%20b", "gs://b/%zz", "http://u:p@h:80/a?b#c", "https://[::1]/", "file:///a%00", "file:/a?b", "file:/", "file://localhost/a", "a://b", "://", "HTTP://ÄÖ/"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		s, err := newSource(u, Options{})
		if err != nil {
			return
		}
		switch s := s.(type) {
		case fileSource:
			if !filepath.IsAbs(s.path) || strings.ContainsRune(s.path, 0) {
				t.Errorf("%q: path %q", u, s.path)
			}
		case *s3Source:
			if s.bucket == "" || s.key == "" || strings.Contains(s.bucket, "/") {
				t.Errorf("%q: bucket %q, key %q", u, s.bucket, s.key)
			}
		case *gcsSource:
			if s.bucket == "" || s.key == "" || strings.Contains(s.bucket, "/") {
				t.Errorf("%q: bucket %q, key %q", u, s.bucket, s.key)
			}
		case *httpSource:
			r, err := http.NewRequest(http.MethodGet, s.url, nil)
			if err != nil || r.URL.Hostname() == "" || r.URL.Scheme != "http" && r.URL.Scheme != "https" {
				t.Errorf("%q: request %v, %v", u, r, err)
			}
			// What is compared with Options.Allow is what is sent.
			if c := s.parsed; c.Scheme != r.URL.Scheme || c.Hostname() != r.URL.Hostname() || c.Port() != r.URL.Port() || c.RequestURI() != r.URL.RequestURI() {
				t.Errorf("%q: %v is checked, %v sent", u, c, r.URL)
			}
		}
	})
}
