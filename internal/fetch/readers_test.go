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
