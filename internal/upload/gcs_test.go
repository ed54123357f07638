package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/fetch"
)

// bucket is a server with one resumable upload, which fails as a test wants.
type bucket struct {
	data   []byte
	begun  int
	puts   int
	taken  bool // something is stored there already
	fault  func(put int, w http.ResponseWriter) bool
	stored bool
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost:
		if b.begun++; b.begun == 1 {
			w.WriteHeader(503)
		} else if r.URL.Query().Get("ifGenerationMatch") != "0" || r.URL.Query().Get("name") != "app/a b" {
			w.WriteHeader(400)
		} else if b.taken {
			w.WriteHeader(412)
		} else {
			w.Header().Set("Location", "http://"+r.Host+"/session?upload_id=s3cret")
		}
	case r.URL.Path == "/session":
		b.puts++
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if b.fault != nil && b.fault(b.puts, w) {
			return
		}
		rest, _ := io.ReadAll(r.Body)
		var start, end, size int
		if n, _ := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/%d", &start, &end, &size); n == 3 {
			if start != len(b.data) {
				w.WriteHeader(400)
				return
			}
			b.data = append(append(b.data, body...), rest...)
		} else {
			fmt.Sscanf(r.Header.Get("Content-Range"), "bytes */%d", &size)
		}
		if len(b.data) == size {
			b.stored = true
			return
		}
		if len(b.data) > 0 {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(b.data)-1))
		}
		w.WriteHeader(308)
	default:
		w.WriteHeader(404)
	}
}

// The checksum of a large file, which is computed first, can be interrupted.
func TestGCSInterrupted(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 40
	if err := f.Truncate(size); err != nil {
		t.Skip(err)
	}
	place, err := fetch.NewPlace("gs://bucket/key", fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := newGCS(place.GCS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted by a test")
	cancel(interrupted)
	if err := o.put(ctx, f, size, func(int64) {}); err != interrupted {
		t.Errorf("got %v", err)
	}
}

func TestGCSPut(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), (2*gcsChunk+1000)/16)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, test := range map[string]struct {
		fault func(put int, w http.ResponseWriter) bool
		size  int
		taken bool
		want  string // of the error
	}{
		"plain": {size: len(content)},
		"empty": {},
		"taken": {size: 100, taken: true, want: errExists.Error()},
		"taken meanwhile": {size: 100, want: errExists.Error(), fault: func(_ int, w http.ResponseWriter) bool {
			w.WriteHeader(412)
			return true
		}},
		"cut": {size: len(content), fault: func(put int, w http.ResponseWriter) bool {
			if put == 2 || put == 3 { // a chunk, and the question how much has arrived
				panic(http.ErrAbortHandler)
			}
			return false
		}},
		"busy": {size: len(content), want: "503 Service Unavailable: too busy (given up after 4 attempts)", fault: func(put int, w http.ResponseWriter) bool {
			if put > 1 {
				http.Error(w, "too busy", http.StatusServiceUnavailable)
			}
			return put > 1
		}},
		"forbidden": {size: 100, want: "403 Forbidden", fault: func(_ int, w http.ResponseWriter) bool {
			w.WriteHeader(403)
			return true
		}},
		"takes nothing": {size: 100, want: "does not take more than the first 0 bytes", fault: func(_ int, w http.ResponseWriter) bool {
			w.WriteHeader(308)
			return true
		}},
		"has too much": {size: 100, want: "has more than was sent", fault: func(_ int, w http.ResponseWriter) bool {
			w.Header().Set("Range", "bytes=0-100")
			w.WriteHeader(308)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bucket{taken: test.taken, fault: test.fault}
			server := httptest.NewServer(b)
			defer server.Close()
			t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
			place, err := fetch.NewPlace("gs://bucket/app/a%20b", fetch.Options{Retries: 3, RetryWait: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			o, err := newGCS(place.GCS)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.size(t.Context()); err != errMissing {
				t.Errorf("size: %v", err)
			}
			sent := int64(0)
			err = o.put(t.Context(), f, int64(test.size), func(n int64) { sent += n })
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") || errors.Is(err, errExists) != (test.want == errExists.Error()) {
					t.Errorf("got error %v", err)
				}
				return
			}
			if err != nil || !b.stored || sha256.Sum256(b.data) != sha256.Sum256(content[:test.size]) {
				t.Errorf("%v, stored %v, %d bytes of %d", err, b.stored, len(b.data), test.size)
			}
			if sent != int64(test.size) {
				t.Errorf("%d bytes were sent of %d", sent, test.size)
			}
			if b.begun != 2 {
				t.Errorf("the session was begun %d times", b.begun)
			}
		})
	}
}
