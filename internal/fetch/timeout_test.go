package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

func TestFetchTimeout(t *testing.T) {
	t.Parallel()
	content := random(4, 1<<17)
	hang := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, test := range []struct {
		name  string
		fault func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool
	}{
		{"headers alone", func(_ *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "5")
			hang(w, r)
			return true
		}},
		{"in the middle", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			f.tag = "" // for one connection
			f.serve(&limited{w, 1000, func() { hang(w, r) }}, r)
			return true
		}},
		{"in all parts", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			f.serve(&limited{w, 1000, func() { hang(w, r) }}, r)
			return true
		}},
		{"in one part", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 { // so that it does not bring that part too
				f.serve(&limited{w, 1000, func() { <-r.Context().Done() }}, r)
			} else if r.Header.Get("Range") == httpRange(1<<13, 1<<13) {
				<-r.Context().Done()
			} else {
				return false
			}
			return true
		}},
		{"drip", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				w.Write([]byte("x"))
				http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
			return true
		}},
		{"storm", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(503)
			return true
		}},
		{"come back in an hour", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
			return true
		}},
		{"redirects", func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			time.Sleep(time.Millisecond)
			http.Redirect(w, r, fmt.Sprintf("/%d", n), http.StatusFound)
			return true
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool { return test.fault(f, n, w, r) })
			timeout := 200 * time.Millisecond
			if test.name == "redirects" {
				timeout = 5 * time.Millisecond
			}
			start := time.Now()
			_, _, err := downloadContext(t, withTimeout(t, timeout), inParts(quick(math.MaxInt)), f.URL)
			if err == nil || err.Error() != "fetch "+f.URL+": timeout: the download took longer than "+timeout.String() {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			nothingLeft(t)
		})
	}
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		url, wantClosed := blackHole(t)
		_, _, err := downloadContext(t, withTimeout(t, 200*time.Millisecond), quick(math.MaxInt), url)
		if err == nil || err.Error() != "fetch "+url+": timeout: the download took longer than 200ms" {
			t.Errorf("error %v", err)
		}
		wantClosed()
		nothingLeft(t)
	})
}

// A timeout also ends the decompression of what has arrived by then, here 6 GB
// of zeros.
func TestTimeoutEndsReaders(t *testing.T) {
	t.Parallel()
	packed := bytes.Repeat(tartest.PipeThrough(t, make([]byte, 64<<20), "gzip", "-1c"), 100)
	hanging := make(chan struct{})
	f := serve(t, packed, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(packed)+1))
		w.Write(packed)
		http.NewResponseController(w).Flush()
		<-hanging
		return true
	})
	t.Cleanup(func() { close(hanging) })
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var unpacked int64
	var readErr error
	o := Options{}.logTo(&recorder{})
	_, err = Download(withTimeout(t, 100*time.Millisecond), f.URL, file, o, func(r io.Reader) error {
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		unpacked, readErr = io.Copy(io.Discard, z)
		return readErr
	})
	if err == nil || err.Error() != "fetch "+f.URL+": timeout: the download took longer than 100ms" || readErr != err {
		t.Errorf("error %v, that of the reader %v", err, readErr)
	}
	if unpacked > 5<<30 {
		t.Errorf("%d bytes were unpacked", unpacked)
	}
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	url, wantClosed := blackHole(t)
	interrupted := errors.New("interrupted by SIGTERM")
	for _, wait := range []time.Duration{0, time.Hour} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := serve(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			if wait == 0 { // cancel while the answer is awaited
				http.NewResponseController(w).Flush()
			}
			cancel(interrupted)
			if wait != 0 {
				w.WriteHeader(503)
			}
			return true
		})
		target := f.URL
		if wait == 0 {
			target = url
			time.AfterFunc(50*time.Millisecond, func() { cancel(interrupted) })
		}
		_, _, err := downloadContext(t, ctx, Options{Retries: 3, RetryWait: wait}, target)
		if !errors.Is(err, interrupted) {
			t.Errorf("retry wait %s: error %v", wait, err)
		}
	}
	wantClosed()
}

func TestFetchStall(t *testing.T) {
	t.Parallel()
	stalling := func(retries int, timeout time.Duration) Options {
		o := quick(retries)
		o.stallTimeout = timeout
		return o
	}
	content := random(5, 1<<17)
	stallAt := func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
		f.serve(&limited{w, n, func() {
			<-r.Context().Done()
			abort()
		}}, r)
	}
	t.Run("without retry", func(t *testing.T) {
		t.Parallel()
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			stallAt(f, 1000, w, r)
			return true
		})
		_, _, err := download(t, stalling(0, 300*time.Millisecond), f.URL)
		if !errors.Is(err, errStalled) || !strings.HasSuffix(err.Error(), ": after 1000 of 131072 bytes: stalled: no byte for 300ms") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("then on", func(t *testing.T) {
		t.Parallel()
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				stallAt(f, 1000, w, r)
			}
			return n == 0
		})
		got, _, err := download(t, stalling(1, 2*time.Second), f.URL) // a loaded machine may stall us too
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, content)
	})
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		url, _ := blackHole(t)
		_, logged, err := download(t, stalling(1, 300*time.Millisecond), url)
		if err == nil || !strings.Contains(err.Error(), "stalled: no byte for 300ms (given up after 2 attempts)") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}
