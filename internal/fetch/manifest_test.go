package fetch

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A server that sends a byte now and then, so that the transfer never stalls,
// does not hold up a manifest for ever.
func TestManifestDeadline(t *testing.T) {
	drip := func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			return false // the second attempt gets it at once
		}
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("X-Goog-Generation", "1")
		w.Header().Set("Content-Length", "1000000")
		for r.Context().Err() == nil {
			io.WriteString(w, "#")
			http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
		return true
	}
	content := []byte(strings.Repeat("#", 1000000))
	web := serve(t, content, drip)
	serveS3(t, content, drip)
	serveGCS(t, content, drip)
	for _, url := range []string{web.URL, "s3://bucket/key", "gs://bucket/key"} {
		record := &recorder{}
		o := quick(1).logTo(record)
		o.attemptTime = 3 * time.Second
		if data, err := Manifest(t.Context(), url, o); err != nil || len(data) != len(content) {
			t.Errorf("%s: %d bytes, %v\n%s", url, len(data), err, record)
		}
		if !strings.Contains(record.String(), "[WARN] Fetch "+url+": attempt 1 of 2 failed: after ") ||
			!strings.Contains(record.String(), "timeout: the object was not complete after 3s; next in ") {
			t.Errorf("%s: log:\n%s", url, record)
		}
	}
	url, _ := blackHole(t)
	o := quick(1).logTo(&recorder{})
	o.attemptTime = 200 * time.Millisecond
	if _, err := Manifest(t.Context(), url, o); err == nil || err.Error() != "fetch "+url+": timeout: the object was not complete after 200ms (given up after 2 attempts)" {
		t.Errorf("error %v", err)
	}
}

func TestFetchManifestSize(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{most, most + 1} {
			content := random(8, size)
			f := serve(t, content, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if chunked {
					for ; len(content) > 1000; content = content[1000:] {
						w.Write(content[:1000])
					}
					w.Write(content)
				}
				return chunked
			})
			whole := content
			data, err := Manifest(t.Context(), f.URL, quick(3).logTo(&recorder{}))
			switch {
			case size == most && err != nil:
				t.Errorf("chunked %v: error %v", chunked, err)
			case size == most:
				same(t, data, whole)
			case err == nil || err.Error() != "fetch "+f.URL+": larger than 1.0 MiB":
				t.Errorf("chunked %v: error %v", chunked, err)
			}
			if n := len(f.asked()); n != 1 {
				t.Errorf("chunked %v, %d bytes: %d requests", chunked, size, n)
			}
		}
	}
}

func TestFetchManifestResumes(t *testing.T) {
	t.Parallel()
	content := random(9, 10_000)
	var f *faulty
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			w.WriteHeader(404)
		} else {
			f.cut(4000, w, r)
		}
		return true
	})
	data, err := Manifest(t.Context(), f.URL, quick(3).logTo(&recorder{}))
	if err != nil {
		t.Fatal(err)
	}
	same(t, data, content)
}
