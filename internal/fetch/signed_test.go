package fetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSignatureURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://h/app.yml":               "https://h/app.yml.minisig",
		"https://h/app.yml?x=1":           "https://h/app.yml.minisig?x=1",
		"https://h/app.yml#x?y":           "https://h/app.yml.minisig#x?y",
		"https://h/a%3Fb?c?d":             "https://h/a%3Fb.minisig?c?d",
		"https://h?x=/":                   "https://h/.minisig?x=/",
		"https://h:81":                    "https://h:81/.minisig",
		"https://user:pw@h":               "https://user:pw@h/.minisig",
		"https://h/":                      "https://h/.minisig",
		"s3://bucket/app.yml":             "s3://bucket/app.yml.minisig",
		"s3://bucket/app.yml?versionId=1": "s3://bucket/app.yml.minisig",
		"gs://bucket/app.yml#1":           "gs://bucket/app.yml.minisig",
		"file:///srv/app.yml":             "file:///srv/app.yml.minisig",
		"file:/srv/app.yml":               "file:/srv/app.yml.minisig",
	} {
		if got := SignatureURL(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

// The signature of a URL is on the same server, at a path that ends in .minisig.
func FuzzSignatureURL(f *testing.F) {
	for _, url := range []string{"https://h/app.yml?x=1", "http://h", "http://h?/", "https://u:p@h:1#/?", "s3://b/k?", "file:/x", "HTTP://h//a;b"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		manifest, err := newSource(url, Options{})
		if err != nil {
			return
		}
		signature, err := newSource(SignatureURL(url), Options{})
		if err != nil {
			t.Fatalf("%q: %v", SignatureURL(url), err)
		}
		switch m := manifest.(type) {
		case *httpSource:
			of := func(s source) *http.Request {
				req, err := http.NewRequest(http.MethodGet, s.(*httpSource).url, nil)
				if err != nil {
					t.Skip(err)
				}
				return req
			}
			a, b := of(m).URL, of(signature).URL
			if a.Scheme != b.Scheme || a.Host != b.Host || a.RawQuery != b.RawQuery || a.User.String() != b.User.String() || strings.TrimPrefix(a.Path, "/")+".minisig" != b.Path[1:] {
				t.Errorf("%q: %q", url, b)
			}
		case *s3Source:
			if s := signature.(*s3Source); s.bucket != m.bucket || unescape(m.key) == m.key && s.key != m.key+".minisig" {
				t.Errorf("%q: %q", url, s.key)
			}
		case *gcsSource:
			if s := signature.(*gcsSource); s.bucket != m.bucket {
				t.Errorf("%q: %q", url, s.key)
			}
		case fileSource:
			if s := signature.(fileSource); unescape(m.path) == m.path && s.path != m.path+".minisig" {
				t.Errorf("%q: %q", url, s.path)
			}
		}
	})
}

// matching is a verify for tests: the signature has to be "sig:" and the manifest.
func matching(manifest, signature []byte) error {
	if string(signature) != "sig:"+string(manifest) {
		return errors.New("the signature does not match")
	}
	return nil
}

// pair is a fault that serves a manifest and its signature in the version that the
// numbers of the attempt say: 0 is a missing object.
func pair(manifests, signatures []int) func(int, http.ResponseWriter, *http.Request) bool {
	return func(n int, w http.ResponseWriter, r *http.Request) bool {
		text, versions := "manifest", &manifests
		if strings.HasSuffix(r.URL.Path, ".minisig") {
			text, versions = "sig:manifest", &signatures
		}
		version := (*versions)[0]
		if len(*versions) > 1 {
			*versions = (*versions)[1:]
		}
		if version == 0 {
			http.NotFound(w, r)
			return true
		}
		io.WriteString(w, text+strings.Repeat("'", version))
		return true
	}
}

// While a deployer replaces a manifest and its signature, an agent may get one of
// them from before. With retries, both are fetched again.
func TestSignedManifest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                  string
		manifests, signatures []int
		retries               int
		want                  string // the manifest, or the error with URL for that of the manifest
		requests              int
	}{
		{"matches", []int{1}, []int{1}, 0, "manifest'", 2},
		{"mismatch", []int{1}, []int{2}, 0, "URL: the signature does not match", 2},
		{"missing signature", []int{1}, []int{0}, 0, "fetch URL.minisig?x=1: 404 Not Found: 404 page not found: the manifest has to be signed, by minisign -S, and its signature published there", 2},
		{"missing manifest", []int{0}, []int{1}, 0, "fetch URL?x=1: 404 Not Found: 404 page not found", 1},
		{"old signature at first", []int{2}, []int{1, 2}, 1, "manifest''", 4},
		{"old manifest at first", []int{1, 2}, []int{2}, 1, "manifest''", 4},
		{"no signature at first", []int{1, 2}, []int{0, 2}, 1, "manifest''", 4},
		{"no manifest at first", []int{0, 1}, []int{1}, 1, "manifest'", 3},
		{"never matches", []int{1}, []int{2}, 2, "URL: the signature does not match (given up after 3 attempts)", 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			web := serve(t, nil, pair(test.manifests, test.signatures))
			record := &recorder{}
			data, err := SignedManifest(t.Context(), web.URL+"/app.yml?x=1", quick(test.retries).logTo(record), matching)
			got := string(data)
			if err != nil {
				got = strings.Replace(err.Error(), web.URL+"/app.yml", "URL", 1)
				got = strings.Replace(got, "URL?x=1: the signature", "URL: the signature", 1)
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if n := len(web.asked()); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
			if failed := strings.Count(record.String(), "[WARN] Fetch the signed manifest: attempt "); failed != min(test.retries, 2) {
				t.Errorf("log:\n%s", record)
			}
		})
	}
}

// Every kind of source tells a missing signature from other errors.
func TestSignatureMissing(t *testing.T) {
	missing := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, ".minisig") {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	content := []byte("manifest")
	serveS3(t, content, missing)
	serveGCS(t, content, missing)
	for _, url := range []string{serve(t, content, missing).URL + "/app.yml", "s3://bucket/key", "gs://bucket/key", "file://" + writeFile(t, content)} {
		_, err := SignedManifest(t.Context(), url, quick(0).logTo(&recorder{}), matching)
		if err == nil || !strings.HasPrefix(err.Error(), "fetch "+url+".minisig: ") || !strings.HasSuffix(err.Error(), ": the manifest has to be signed, by minisign -S, and its signature published there") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// What is read of a signature is bounded, and so is what its encoding expands to.
func TestSignatureBound(t *testing.T) {
	t.Parallel()
	large := []byte(strings.Repeat("x", maxSignatureSize+1))
	path := writeFile(t, []byte("manifest"))
	if err := os.WriteFile(path+".minisig", large, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := SignedManifest(t.Context(), "file://"+path, quick(3).logTo(&recorder{}), matching)
	if want := "fetch file://" + path + ".minisig: larger than 16 KiB"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	web := serve(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".minisig") {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(gzipped(t, large))
			return true
		}
		return false
	})
	_, err = SignedManifest(t.Context(), web.URL+"/app.yml", quick(0).logTo(&recorder{}), matching)
	if want := "fetch " + web.URL + "/app.yml.minisig: decode Content-Encoding gzip: larger than 16 KiB"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// What cannot be fetched is an error before any request, and not retried: a URL that
// is none, and a signature that is not allowed.
func TestSignedManifestRefused(t *testing.T) {
	t.Parallel()
	web := serve(t, []byte("manifest"), nil)
	o := quick(3).logTo(&recorder{})
	o.RetryWait = time.Hour
	o.Allow = []string{web.URL + "/app.yml"}
	for url, want := range map[string]string{
		web.URL + "/app.yml":   web.URL + "/app.yml.minisig: ",
		web.URL + "/other.yml": web.URL + "/other.yml: ",
		"ftp://h/app.yml":      "ftp://h/app.yml: unknown scheme",
	} {
		if _, err := SignedManifest(t.Context(), url, o, matching); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "attempt") {
			t.Errorf("%s: error %v", url, err)
		}
	}
	if n := len(web.asked()); n > 0 {
		t.Errorf("%d requests", n)
	}
}

// A cancelled run ends while it waits for the next attempt.
func TestSignedManifestCancelled(t *testing.T) {
	t.Parallel()
	web := serve(t, nil, pair([]int{1}, []int{2}))
	ctx, cancel := context.WithCancelCause(t.Context())
	o := quick(3).logTo(&recorder{})
	o.RetryWait = time.Hour
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("interrupted by a test")) })
	if _, err := SignedManifest(ctx, web.URL+"/app.yml", o, matching); err == nil || err.Error() != "interrupted by a test" {
		t.Errorf("error %v", err)
	}
}
