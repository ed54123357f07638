package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// An archive that cannot be deployed whatever follows is not downloaded to its
// end, and the download is not retried. The server sends the first 4 MiB, and the
// rest never.
func TestHopelessDownload(t *testing.T) {
	t.Parallel()
	const first = 4 << 20
	large := tartest.RawHeader("large", '0', 1<<30)
	var zeros bytes.Buffer
	z, _ := gzip.NewWriterLevel(&zeros, gzip.BestSpeed)
	z.Write(tartest.RawHeader("zeros", '0', 128<<20))
	for range 128 {
		z.Write(make([]byte, 1<<20))
	}
	z.Flush()
	const stopped = ": the download was stopped, so the checksum was not verified$"
	for _, test := range []struct {
		name   string
		data   []byte // what the archive begins with
		size   int64
		ranges bool // whether it is downloaded over several connections
		tmpfs  bool // whether TMPDIR is small
		want   string
	}{
		{"not a tar", []byte("<html>"), 12 << 20, false, false, `not a tar archive, nor one compressed by gzip, bzip2, xz or zstd` + stopped},
		{"not a tar, in parts", []byte("<html>"), 64 << 20, true, false, `not a tar archive, nor one compressed by gzip, bzip2, xz or zstd` + stopped},
		{"too large", large, 12 << 20, false, false, `archive unpacks to more than the 512 MiB that -max-size allows` + stopped},
		{"too large, in parts", large, 64 << 20, true, false, `archive unpacks to more than the 512 MiB that -max-size allows` + stopped},
		{"name with dots", tartest.RawHeader("../x", '0', 0), 12 << 20, false, false, `archive entry "../x": the name has ".." in it` + stopped},
		{"full TMPDIR", zeros.Bytes(), 12 << 20, false, true, `archive entry "zeros": unpack the archive: what it unpacks to needs at least .* in .*: no space left on device` + stopped},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var variables []string
			if test.tmpfs {
				variables = []string{"TMPDIR=" + tartest.MountTmpfs(t, "size=20m")}
			}
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				start, end := int64(0), test.size-1
				if test.ranges {
					rw.Header().Set("ETag", `"1"`)
					rw.Header().Set("Accept-Ranges", "bytes")
				}
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &start, &end)
				rw.Header().Set("Content-Length", fmt.Sprint(end+1-start))
				if start > 0 {
					rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end, test.size))
					rw.WriteHeader(http.StatusPartialContent)
				} else {
					rw.Write(slices.Concat(test.data, make([]byte, first-len(test.data))))
				}
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
			}))
			defer server.Close()
			w.write("manifest.yml", fmt.Sprintf("src: %s/app.tar\nchecksum: %s\ndest: %s\nsync_strategy: builtin\n", server.URL, strings.Repeat("0", 64), w.path("dest")))
			a := w.start("manifest.yml", variables, "-max-size", "512MiB", "-retry", "3", "-retry-wait", "0.1", "-timeout", "60")
			a.exits(1)
			a.logged(`\[ERROR\] Deploy manifest failed: Get src failed: ` + server.URL + `/app.tar: ` + test.want)
			if n := requests.Load(); n > 1 && !test.ranges || n > 4 {
				t.Errorf("%d requests", n)
			}
			if _, err := os.Stat(w.path("dest")); err == nil {
				t.Error("dest exists")
			}
			w.clean()
		})
	}
}

// Of an archive that is nearly complete when it turns out to be none, the checksum
// is verified.
func TestHopelessAndWrongChecksum(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("page.html", "<html>")
	w.write("manifest.yml", fmt.Sprintf("src: %s\nchecksum: %s\ndest: %s\n", w.url("page.html"), strings.Repeat("0", 64), w.path("dest")))
	a := w.start("manifest.yml", nil)
	a.exits(1)
	a.logged(`\[ERROR\] Deploy manifest failed: Get src failed: Checksum mismatch: the manifest says 0{64}, the archive has`)
}
