package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// The error of a reader ends the transfer at once, with all sources and also over
// several connections, and is not retried.
func TestReaderEndsTransfer(t *testing.T) {
	broken := errors.New("broken")
	content := random(40, 1<<17)
	var f *faulty
	// Every answer stops after 1000 bytes until the client has gone.
	hang := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/bucket/") || r.URL.Path == "/web" {
			w.Header().Set("X-Goog-Generation", "1")
			w.Header().Set("Content-Encoding", "gzip")
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", fmt.Sprint(len(content))) // http.ServeContent omits it for encoded content
			}
			f.serve(&limited{w, 1000, func() { <-r.Context().Done() }}, r)
			return true
		}
		return false
	}
	for _, test := range []struct {
		name string
		url  func(t *testing.T) string
	}{
		{"http", func(t *testing.T) string { f = serve(t, content, hang); return f.URL + "/web" }},
		{"s3", func(t *testing.T) string { f = serveS3(t, content, hang); return "s3://bucket/key" }},
		{"gs", func(t *testing.T) string { f = serveGCS(t, content, hang); return "gs://bucket/key" }},
		{"file", func(t *testing.T) string { f = nil; return "file://" + writeFile(t, content) }},
	} {
		for name, o := range map[string]Options{"one connection": {Connections: 1}, "parallel": inParts(Options{Connections: 4})} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				url := test.url(t)
				if f == nil {
					o.MaxBandwidth = 1000 // a file does not hang
				}
				o.Retries, o.RetryWait = 3, time.Hour
				file, err := unixfs.TempFile()
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				record := &recorder{}
				hint, start := "", time.Now()
				pprof.Do(t.Context(), pprof.Labels("download", t.Name()), func(ctx context.Context) {
					hint, err = Download(ctx, url, file, o.logTo(record), func(r io.Reader) error {
						if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
							return err
						}
						return broken
					})
				})
				if err != broken || time.Since(start) > 10*time.Second || strings.Contains(record.String(), "attempt") {
					t.Errorf("error %v after %s, log:\n%s", err, time.Since(start), record)
				}
				if strings.Contains(hint, "Content-Encoding gzip") != (f != nil) {
					t.Errorf("hint %q", hint)
				}
				if f != nil && len(f.asked()) > o.withDefaults().Connections {
					t.Errorf("%d requests", len(f.asked()))
				}
				nothingLeft(t)
			})
		}
	}
}

// A reader that fails ends the other reader, and a download that would take an
// hour.
func TestReaderFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	f := serve(t, random(7, 100_000), nil)
	for failing := range 2 {
		for _, limit := range []uint64{28, 0} { // while bytes arrive, and after the download
			file, err := unixfs.TempFile()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			var otherErr error
			readers := make([]func(io.Reader) error, 2)
			readers[failing] = func(r io.Reader) error {
				if limit == 0 {
					io.Copy(io.Discard, r)
				}
				return broken
			}
			readers[1-failing] = func(r io.Reader) error {
				_, otherErr = io.Copy(io.Discard, r)
				return otherErr
			}
			record := &recorder{}
			pprof.Do(t.Context(), pprof.Labels("download", t.Name()), func(ctx context.Context) {
				_, err = Download(ctx, f.URL, file, Options{MaxBandwidth: limit}.logTo(record), readers...)
			})
			if err != broken {
				t.Errorf("reader %d, limit %d: error %v", failing, limit, err)
			}
			if limit > 0 && (otherErr != broken || strings.Contains(record.String(), "Downloaded")) {
				t.Errorf("reader %d: the other reader got %v, log:\n%s", failing, otherErr, record)
			}
		}
	}
	nothingLeft(t)
}

// When the object has changed, Download calls the readers again with the bytes
// of the new one, including a reader that has already returned.
func TestReadersAfterRestart(t *testing.T) {
	t.Parallel()
	content, other := random(8, 1<<17), random(9, 1<<17)
	begun := make(chan struct{})
	var f *faulty
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			f.serve(&limited{w, 1 << 16, func() {
				<-begun
				abort()
			}}, r)
		} else {
			f.change(other, `"v2"`)
		}
		return n == 0
	})
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var led, followed []byte
	calls := 0
	_, err = Download(t.Context(), f.URL, file, quick(1).logTo(&recorder{}), func(r io.Reader) error {
		calls++
		led = make([]byte, 1<<15)
		if _, err := io.ReadFull(r, led); err != nil {
			return err
		}
		if calls == 1 {
			close(begun)
		}
		return nil // without the rest
	}, func(r io.Reader) (err error) {
		followed, err = io.ReadAll(r)
		return err
	})
	if err != nil || calls != 2 {
		t.Fatalf("error %v after %d calls", err, calls)
	}
	same(t, led, other[:1<<15])
	same(t, followed, other)
}
