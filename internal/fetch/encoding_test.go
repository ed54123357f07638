package fetch

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecode(t *testing.T) {
	t.Parallel()
	plain := []byte("src: größe\n")
	packed := gzipped(t, plain)
	most := bytes.Repeat([]byte{'#'}, MaxManifest)
	for _, test := range []struct {
		encoding string
		data     []byte
		want     []byte
		err      string
	}{
		{"", plain, plain, ""},
		{"identity", plain, plain, ""},
		{"gzip", packed, plain, ""},
		{"GZIP", packed, plain, ""},
		{"x-gzip", packed, plain, ""},
		{"gzip, identity", packed, plain, ""},
		{"identity,gzip", packed, plain, ""},
		{"aws-chunked,gzip", packed, plain, ""}, // of S3-compatible servers
		{" , gzip ,", packed, plain, ""},
		{"gzip, gzip", gzipped(t, packed), plain, ""},
		{"utf-8", plain, plain, ""}, // a frequent mistake, which other clients ignore
		{"utf-8, gzip", packed, plain, ""},
		{"", packed, packed, ""},
		{"gzip", gzipped(t, most), most, ""},
		{"gzip", append(gzipped(t, plain), packed...), bytes.Repeat(plain, 2), ""},
		{"gzip", gzipped(t, append(most, '#')), nil, "decode Content-Encoding gzip: larger than 1.0 MiB"},
		{"gzip", plain, nil, "decode Content-Encoding gzip: gzip: invalid header"},
		{"x-gzip", nil, nil, "decode Content-Encoding x-gzip: unexpected EOF"},
		{"gzip", packed[:len(packed)-9], nil, "decode Content-Encoding gzip: unexpected EOF"},
		{"gzip", append(packed[:len(packed)-8:len(packed)-8], make([]byte, 8)...), nil, "decode Content-Encoding gzip: gzip: invalid checksum"},
		{"br", []byte{0x8b, 0x80, 0xff}, nil, "the Content-Encoding br is not supported: store the manifest without it, or with gzip"},
		{"zstd\x1b", []byte{0x28, 0xb5, 0x2f, 0xfd}, nil, `the Content-Encoding zstd\x1b is not supported: store the manifest without it, or with gzip`},
		{"gzip,gzip,gzip,gzip,gzip,gzip", packed, nil, "more than 5 content codings"},
	} {
		got, err := encoding{sent: test.encoding}.decode(test.data, MaxManifest)
		if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err || !bytes.Equal(got, test.want) {
			t.Errorf("%q, %.20q: got %.20q, error %v", test.encoding, test.data, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	packed := gzipped(f, []byte("src: x\n"))
	for _, s := range []string{"", "gzip", "x-gzip, identity", "gzip,gzip", "br"} {
		f.Add(s, packed)
	}
	f.Fuzz(func(t *testing.T, sent string, data []byte) {
		e := encoding{sent: sent}
		if got, err := e.decode(data, MaxManifest); err != nil && (got != nil || strings.ContainsAny(err.Error(), "\n\x1b")) || len(got) > max(len(data), MaxManifest) {
			t.Errorf("%q: %d bytes, error %v", sent, len(got), err)
		}
		if strings.ContainsAny(e.hint(), "\n\x1b") {
			t.Errorf("%q: %q", sent, e.hint())
		}
	})
}

// A manifest that is stored with Content-Encoding gzip is decoded, by all sources
// with headers. An archive is taken as it is stored, and Download says so.
func TestContentEncoding(t *testing.T) {
	plain := random(30, 1<<17)
	packed := gzipped(t, plain)
	var answered atomic.Pointer[string] // handlers may outlive a request
	answer := func(n int, w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" && got != "gzip" { // gzip makes GCS send what is stored
			t.Errorf("%s: Accept-Encoding is %q", r.URL, got)
		}
		w.Header().Set("Content-Encoding", *answered.Load())
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", fmt.Sprint(len(packed))) // http.ServeContent omits it for encoded content
		}
		return false
	}
	web := serve(t, packed, answer)
	serveS3(t, packed, answer)
	serveGCS(t, packed, answer)
	for _, url := range []string{web.URL, "s3://bucket/key", "gs://bucket/key"} {
		for _, encoding := range []string{"gzip", "x-gzip", "gzip, identity"} {
			answered.Store(&encoding)
			got, err := Manifest(t.Context(), url, quick(0).logTo(&recorder{}))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: a manifest of %d bytes, %v", url, encoding, len(got), err)
			}
			for _, o := range []Options{quick(1), inParts(quick(1))} {
				file, err := unixfs.TempFile()
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				hint, err := Download(t.Context(), url, file, o.logTo(&recorder{}))
				stored := make([]byte, len(packed))
				file.ReadAt(stored, 0)
				if err != nil || !bytes.Equal(stored, packed) {
					t.Errorf("%s, %s: not the stored bytes, %v", url, encoding, err)
				}
				if want := ": the server sent it with Content-Encoding " + encoding + ", "; !strings.HasPrefix(hint, want) {
					t.Errorf("%s: hint %q", url, hint)
				}
			}
		}
		none := "identity"
		answered.Store(&none)
		if got, err := Manifest(t.Context(), url, quick(0).logTo(&recorder{})); err != nil || !bytes.Equal(got, packed) {
			t.Errorf("%s: %d bytes, %v", url, len(got), err)
		}
	}
}

// The encoding stays known where the answer to a range does not repeat it, and
// does not outlive the object that had it.
func TestContentEncodingOfRetries(t *testing.T) {
	t.Parallel()
	plain := random(31, 1<<15)
	packed := gzipped(t, plain)
	for _, changed := range []bool{false, true} {
		var f *faulty
		f = serve(t, packed, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				w.Header().Set("Content-Encoding", "gzip")
				f.cut(1000, w, r)
			}
			if n == 1 && changed {
				f.change(plain, `"v2"`)
			}
			return n == 0
		})
		got, err := Manifest(t.Context(), f.URL, quick(1).logTo(&recorder{}))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("changed %v: %d bytes, %v", changed, len(got), err)
		}
	}
}

func TestCorruptEncoding(t *testing.T) {
	t.Parallel()
	f := serve(t, []byte("src: http://localhost/\n"), func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header()["Content-Encoding"] = []string{"identity", "gzip"}
		return false
	})
	_, err := Manifest(t.Context(), f.URL, quick(2).logTo(&recorder{}))
	if fmt.Sprint(err) != "fetch "+f.URL+": decode Content-Encoding gzip: gzip: invalid header" || len(f.asked()) != 1 {
		t.Errorf("error %v after %d requests", err, len(f.asked()))
	}
}

// Google Cloud Storage decodes an object for a client that does not ask for gzip.
func TestEncodingDecodedByServer(t *testing.T) {
	t.Parallel()
	plain := []byte("src: x\n")
	f := serve(t, plain, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("X-Goog-Stored-Content-Encoding", "gzip")
		return false
	})
	o := quick(0).logTo(&recorder{})
	if got, err := Manifest(t.Context(), f.URL, o); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %q, %v", got, err)
	}
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hint, err := Download(t.Context(), f.URL, file, o)
	if err != nil || !strings.HasPrefix(hint, ": it is stored with Content-Encoding gzip, which the server decoded: ") {
		t.Errorf("hint %q, %v", hint, err)
	}
}
