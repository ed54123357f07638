package fetch

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// serveGCS is serve with the API of GCS, and makes the environment name it as the
// emulator. It has the bucket "bucket", with the object under any key.
func serveGCS(t *testing.T, content []byte, fault func(n int, w http.ResponseWriter, r *http.Request) bool) *faulty {
	t.Helper()
	var f *faulty
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if bucket, ok := strings.CutPrefix(r.URL.Path, "/storage/v1/b/"); ok {
			if bucket == "bucket" {
				w.WriteHeader(403) // few accounts may read the attributes of a bucket
			} else {
				w.WriteHeader(404)
			}
			return true
		}
		if fault != nil && fault(n, w, r) {
			return true
		}
		generation := strings.Trim(f.etag(), `"v`)
		if g := r.URL.Query().Get("generation"); !strings.HasPrefix(r.URL.Path, "/bucket/") || g != "" && g != generation {
			w.WriteHeader(404)
			return true
		}
		w.Header().Set("X-Goog-Generation", generation)
		return false
	})
	gcsEnvironment(t, strings.TrimPrefix(f.URL, "http://"))
	return f
}

func gcsEnvironment(t *testing.T, emulator string) {
	t.Helper()
	t.Setenv("STORAGE_EMULATOR_HOST", emulator)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("GOOGLE_CLOUD_PROJECT", "")
	t.Setenv("GCE_METADATA_HOST", "")
	t.Setenv("HOME", t.TempDir()) // of the credentials of gcloud
}

func TestGCSRequest(t *testing.T) {
	for _, test := range []struct{ url, path string }{
		{"gs://bucket/key", "/bucket/key"},
		{"gs://bucket/a/b/c.tar.gz", "/bucket/a/b/c.tar.gz"},
		{"gs://bucket//key", "/bucket/key"},
		{"gs://bucket///a//b", "/bucket/a//b"},
		{"gs://bucket/a b", "/bucket/a b"},
		{"gs://bucket/a%20b", "/bucket/a b"},
		{"gs://bucket/größe/日本", "/bucket/größe/日本"},
		{"gs://bucket/a+b%2Bc", "/bucket/a+b+c"},
		{"gs://bucket/a%23b%3Fc", "/bucket/a#b?c"},
		{"gs://bucket/a#b?c", "/bucket/a"},
		{"gs://bucket/a?b#c", "/bucket/a"},
	} {
		f := serveGCS(t, []byte("content"), nil)
		if _, _, err := download(t, Options{}, test.url); err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		r := f.asked()[0]
		if r.URL.Path != test.path {
			t.Errorf("%s: asked for %s, want %s", test.url, r.URL.Path, test.path)
		}
		if got := r.Header.Get("User-Agent"); got != testUserAgent {
			t.Errorf("User-Agent is %q", got)
		}
	}
}

func TestGCSErrors(t *testing.T) {
	const retried, once = 3, 1
	for _, test := range []struct {
		status   int
		requests int
	}{{400, once}, {401, once}, {403, once}, {408, retried}, {429, retried}, {500, retried}, {503, retried}} {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			f := serveGCS(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(test.status)
				fmt.Fprint(w, "<?xml version='1.0'?><Error><Code>SomeCode</Code></Error>")
				return true
			})
			_, _, err := download(t, quick(2), "gs://bucket/key")
			if err == nil || !strings.Contains(err.Error(), fmt.Sprint(test.status)) || !strings.Contains(err.Error(), "SomeCode") {
				t.Errorf("error %v", err)
			}
			if n := len(f.asked()); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
	t.Run("missing object", func(t *testing.T) {
		f := serveGCS(t, []byte("content"), func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n < 4 { // every second request is for the bucket
				w.WriteHeader(404)
			}
			return n < 4
		})
		got, logged, err := download(t, quick(2), "gs://bucket/key")
		if err != nil || string(got) != "content" {
			t.Errorf("got %q, %v after %d requests\n%s", got, err, len(f.asked()), logged)
		}
	})
	t.Run("missing bucket", func(t *testing.T) {
		serveGCS(t, nil, nil)
		_, logged, err := download(t, quick(2), "gs://nobucket/key")
		if !errors.Is(err, errNoBucket) || strings.Contains(logged, "attempt") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
	t.Run("credentials that are no file", func(t *testing.T) {
		gcsEnvironment(t, "")
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
		_, logged, err := download(t, quick(2), "gs://bucket/key")
		if err == nil || !strings.Contains(err.Error(), "GCP credentials: ") || !strings.Contains(err.Error(), "set GOOGLE_APPLICATION_CREDENTIALS") || strings.Contains(logged, "attempt") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}

// TestGCSServiceAccount has a token server that refuses, and one that hangs.
func TestGCSServiceAccount(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, want string }{
		{"/refuse", "invalid_grant"},
		{"/hang", "timeout: the download took longer than 500ms"},
	} {
		t.Run(test.path, func(t *testing.T) {
			released := make(chan struct{})
			tokens := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
				if test.path == "/hang" {
					<-released
					return
				}
				w.WriteHeader(400)
				fmt.Fprint(w, `{"error":"invalid_grant"}`)
			})
			t.Cleanup(func() { close(released) }) // before the server is closed, which waits for it
			tokens.Start()
			account, err := json.Marshal(map[string]string{
				"type": "service_account", "client_email": "deploy@example.invalid", "private_key_id": "1",
				"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
				"token_uri":   tokens.URL + test.path,
			})
			if err != nil {
				t.Fatal(err)
			}
			gcsEnvironment(t, "")
			os.Unsetenv("STORAGE_EMULATOR_HOST")
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", writeFile(t, account))
			start := time.Now()
			_, _, err = downloadContext(t, withTimeout(t, 500*time.Millisecond), Options{}, "gs://bucket/key")
			if err == nil || !strings.Contains(err.Error(), test.want) || time.Since(start) > 10*time.Second {
				t.Errorf("error %v after %s", err, time.Since(start))
			}
		})
	}
}

func TestGCSResumesAndNeverMixes(t *testing.T) {
	content, other := random(10, 1<<17), random(21, 1<<17)
	for _, connections := range []int{1, 4} {
		for _, changed := range []bool{false, true} {
			t.Run(fmt.Sprintf("connections %d, changed %v", connections, changed), func(t *testing.T) {
				var f *faulty
				f = serveGCS(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
					if changed && n == 3 {
						f.change(other, `"v2"`)
					}
					return false
				})
				inner := f.fault
				f.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
					if n < 10 {
						w = &limited{w, 1000, abort}
					}
					if !inner(n, w, r) {
						f.serve(w, r)
					}
					return true
				}
				got, logged, err := download(t, inParts(Options{Retries: 20, RetryWait: time.Millisecond, Connections: connections}), "gs://bucket/key")
				if err != nil {
					t.Fatal(err)
				}
				if changed {
					same(t, got, other)
				} else {
					same(t, got, content)
				}
				if strings.Contains(logged, "starting over") != changed {
					t.Errorf("log:\n%s", logged)
				}
				// The client has not requested the rest on its own.
				if n := strings.Count(logged, "unexpected EOF; next in"); n == 0 || !changed && n < 9 {
					t.Errorf("log:\n%s", logged)
				}
			})
		}
	}
}

// TestGCSStored downloads an object that is stored compressed: the checksum of a
// manifest is that of the stored bytes.
func TestGCSStored(t *testing.T) {
	serveGCS(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Accept-Encoding"); got != "gzip" {
			t.Errorf("Accept-Encoding is %q", got) // without it, GCS unpacks
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("X-Goog-Stored-Content-Encoding", "gzip")
		w.Header().Set("Content-Length", "12")
		w.Write([]byte("\x1f\x8bno gzip...."[:12]))
		return true
	})
	got, _, err := download(t, Options{}, "gs://bucket/key")
	if err != nil || string(got) != "\x1f\x8bno gzip...."[:12] {
		t.Errorf("got %q, %v", got, err)
	}
}

// A server that ignores ranges is not taken for one whose object has changed: what it
// sends to the request for the rest is used.
func TestGCSWithoutRanges(t *testing.T) {
	content := random(22, 1<<17)
	var f *faulty
	f = serveGCS(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		if n == 0 {
			w.Header().Set("X-Goog-Generation", "1")
			f.cut(1000, w, r)
		}
		return n == 0
	})
	got, logged, err := download(t, quick(1), "gs://bucket/key")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, content)
	if n := len(f.asked()); n != 2 {
		t.Errorf("%d requests, log:\n%s", n, logged)
	}
	if err := fetchRanges(t, "gs://bucket/key", content, quick(3), Range{10, 20}); !errors.Is(err, errNoRanges) {
		t.Errorf("a range: error %v", err)
	}
}
