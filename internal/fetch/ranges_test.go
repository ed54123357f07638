package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fetchRanges fetches ranges of the content that a server should have.
func fetchRanges(t *testing.T, url string, content []byte, o Options, ranges ...Range) error {
	t.Helper()
	object, err := OpenObject(url, o)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	var mu sync.Mutex
	got := map[Range][]byte{}
	err = object.Fetch(t.Context(), ranges, func(_ context.Context, r Range, body io.Reader) error {
		b, err := io.ReadAll(body)
		mu.Lock()
		defer mu.Unlock()
		got[r] = b
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if !bytes.Equal(got[r], content[r.Offset:][:r.Size]) {
			t.Errorf("wrong bytes for %+v", r)
		}
	}
	return nil
}

func TestRanges(t *testing.T) {
	t.Parallel()
	content := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	ranges := []Range{{0, 1}, {1, 1 << 20}, {2 << 20, 1<<20 - 1}, {3<<20 - 1, 1}, {5, 0}}

	t.Run("file", func(t *testing.T) {
		t.Parallel()
		if err := fetchRanges(t, "file://"+writeFile(t, content), content, Options{}, ranges...); err != nil {
			t.Error(err)
		}
	})
	t.Run("http", func(t *testing.T) {
		t.Parallel()
		if err := fetchRanges(t, serve(t, content, nil).URL, content, Options{}, ranges...); err != nil {
			t.Error(err)
		}
	})
	// Each answer ends after 100,000 bytes, but for as many as there are retries.
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		var cuts atomic.Int32
		server := serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n%3 == 2 {
				return false
			}
			cuts.Add(1)
			http.ServeContent(&shortWriter{ResponseWriter: w, left: 100_000}, r, "", time.Time{}, bytes.NewReader(content))
			panic(http.ErrAbortHandler)
		})
		o := Options{Retries: 2, RetryWait: time.Millisecond}
		if err := fetchRanges(t, server.URL, content, o, Range{10, 2 << 20}); err != nil || cuts.Load() != 2 {
			t.Errorf("%v after %d cuts", err, cuts.Load())
		}
	})
	t.Run("without retries", func(t *testing.T) {
		t.Parallel()
		server := serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			http.ServeContent(&shortWriter{ResponseWriter: w, left: 100_000}, r, "", time.Time{}, bytes.NewReader(content))
			panic(http.ErrAbortHandler)
		})
		err := fetchRanges(t, server.URL, content, Options{}, Range{10, 2 << 20})
		if err == nil || !strings.Contains(err.Error(), "of 3145728 bytes") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no ranges", func(t *testing.T) {
		t.Parallel()
		server := serve(t, content, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Write(content)
			return true
		})
		if err := fetchRanges(t, server.URL, content, Options{Retries: 3}, Range{10, 20}); !errors.Is(err, errNoRanges) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("changed", func(t *testing.T) {
		t.Parallel()
		server := serve(t, content, nil)
		object, err := OpenObject(server.URL, Options{Retries: 3, RetryWait: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer object.Close()
		discard := func(_ context.Context, _ Range, body io.Reader) error {
			_, err := io.Copy(io.Discard, body)
			return err
		}
		if err := object.Fetch(t.Context(), ranges[:1], discard); err != nil {
			t.Fatal(err)
		}
		server.mu.Lock()
		server.tag = `"v2"`
		server.mu.Unlock()
		if err := object.Fetch(t.Context(), ranges[1:2], discard); !errors.Is(err, errChanged) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("error of the reader", func(t *testing.T) {
		t.Parallel()
		object, err := OpenObject(serve(t, content, nil).URL, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer object.Close()
		want := errors.New("enough")
		got := object.Fetch(t.Context(), ranges, func(_ context.Context, _ Range, body io.Reader) error {
			body.Read(make([]byte, 1))
			return want
		})
		if got != want {
			t.Errorf("got %v", got)
		}
	})
}

// shortWriter discards what is beyond a number of bytes.
type shortWriter struct {
	http.ResponseWriter
	left int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	if _, err := w.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, errors.New("cut off")
	}
	return n, nil
}
