package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
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
	object, err := OpenObject(url, o.logTo(&recorder{}))
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
	content := random(60, 3<<20)
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
	// Two answers end after 100,000 bytes. One retry is enough, because each retry brings
	// some bytes.
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		var cuts atomic.Int32
		var server *faulty
		server = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n%3 == 2 {
				return false
			}
			cuts.Add(1)
			server.cut(100_000, w, r)
			return true
		})
		if err := fetchRanges(t, server.URL, content, quick(1), Range{10, 2 << 20}); err != nil || cuts.Load() != 2 {
			t.Errorf("%v after %d cuts", err, cuts.Load())
		}
	})
	t.Run("without retries", func(t *testing.T) {
		t.Parallel()
		var server *faulty
		server = serve(t, content, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			server.cut(100_000, w, r)
			return true
		})
		err := fetchRanges(t, server.URL, content, Options{}, Range{10, 2 << 20})
		if want := "fetch " + server.URL + ": after 100010 of 3145728 bytes: unexpected EOF"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	// The end of the range is not in the object, or nothing of it. That is not retried.
	t.Run("too short", func(t *testing.T) {
		t.Parallel()
		for _, url := range []string{serve(t, content, nil).URL, "file://" + writeFile(t, content)} {
			for r, want := range map[Range]string{
				{3<<20 - 1, 2}: "the object has only 3145728 bytes, and not the bytes 3145727 to 3145728",
				{3 << 20, 1}:   "the object has ",
			} {
				err := fetchRanges(t, url, content, Options{Retries: 3, RetryWait: time.Hour}, r)
				if err == nil || !strings.HasPrefix(err.Error(), "fetch "+url+": "+want) {
					t.Errorf("%s, %+v: got %v, want %s", url, r, err, want)
				}
			}
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
