package stretcher

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// Whatever the server does to ranges, dest gets the archive, or the error says why not,
// and nothing waits for longer than the timeout.
func TestIncrementalFaults(t *testing.T) {
	f := newForest(t, 1)
	older, newer := t.TempDir(), filepath.Join(t.TempDir(), "newer")
	must(t, os.WriteFile(filepath.Join(older, "kept"), bytes.Repeat([]byte("as it was\n"), 20), 0o644))
	f.grow(older, 30)
	f.settle(older)
	f.copy(older, newer)
	f.change(newer, 5)
	f.grow(newer, 5)
	f.settle(newer)
	base, err := pack.DirBase(t.Context(), older)
	must(t, err)
	archive, m := packed(t, newer, pack.Options{Bases: []*pack.Base{base}})
	oldArchive, old := packed(t, older, pack.Options{})
	old.SyncStrategy, m.SyncStrategy = "builtin", "builtin"

	for _, test := range []struct {
		name string
		// fault answers a request for a range, or returns false. n counts them.
		fault     func(n int, w http.ResponseWriter, r *http.Request) bool
		whole     func(w http.ResponseWriter, r *http.Request) bool // likewise, for the whole
		conf      Config
		warn, err string
	}{
		{name: "200", warn: "ranges", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Write(archive)
			return true
		}},
		{name: "416", warn: "has no bytes", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(416)
			return true
		}},
		{name: "403 for ranges", warn: "403", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(403)
			return true
		}},
		{name: "403", warn: "403", err: "403", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(403)
			return true
		}, whole: func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(403)
			return true
		}},
		{name: "other range", warn: "ranges", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-2/%d", len(archive)))
			w.WriteHeader(206)
			w.Write(archive[1:3])
			return true
		}},
		{name: "other bytes", warn: "SHA-256", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			broken := bytes.Clone(archive)
			for i := range broken {
				broken[i] ^= 1
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(broken))
			return true
		}},
		{name: "cut", warn: "EOF", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", m.Index.Offset, m.Index.Offset+m.Index.Size-1, len(archive)))
			w.Header().Set("Content-Length", fmt.Sprint(m.Index.Size))
			w.WriteHeader(206)
			w.Write(archive[m.Index.Offset:][:10])
			panic(http.ErrAbortHandler)
		}},
		{name: "replaced", warn: "", fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				return false
			}
			w.Header().Set("ETag", `"other"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bytes.Repeat([]byte("x"), len(archive))))
			return true
		}},
		{name: "hangs", err: "timeout: the download took longer than 300ms", conf: Config{Timeout: 300 * time.Millisecond}, fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}},
		{name: "refused", err: "refused by -allow", conf: Config{Allow: []string{"http://127.0.0.1/"}}, fault: func(int, http.ResponseWriter, *http.Request) bool { return false }},
		{name: "redirected to what is refused", err: "refused by -allow", fault: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
			return true
		}, whole: func(w http.ResponseWriter, r *http.Request) bool {
			t.Error("the whole was requested, too")
			return false
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var ranges atomic.Int64 // requests may come over several connections at once
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					if test.whole != nil && test.whole(w, r) {
						return
					}
					w.Write(archive)
					return
				}
				if test.fault(int(ranges.Add(1))-1, w, r) {
					return
				}
				w.Header().Set("ETag", `"one"`)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(archive))
			}))
			defer server.Close()
			dest := filepath.Join(t.TempDir(), "dest")
			src := filepath.Join(t.TempDir(), "old")
			if err := os.WriteFile(src, oldArchive, 0o644); err != nil {
				t.Fatal(err)
			}
			first := old
			first.Src, first.Dest = "file://"+src, dest
			if err := first.DeployContext(context.Background(), Config{}); err != nil {
				t.Fatal(err)
			}
			before := tartest.Snapshot(t, dest)
			next := m
			next.Src, next.Dest = server.URL+"/archive", dest
			conf := test.conf
			if test.name == "redirected to what is refused" {
				conf.Allow = []string{server.URL + "/"}
			}
			var err error
			said := logOf(func() { err = next.DeployContext(context.Background(), conf) })
			switch {
			case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("%v: %s", err, said)
			case test.err != "":
				tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
			default:
				wantTree(t, newer, dest, "builtin")
			}
			if test.warn != "" {
				lines := 0
				for line := range strings.Lines(said) {
					if strings.Contains(line, "[WARN] Incremental download: ") && strings.Contains(line, test.warn) && strings.HasSuffix(line, ": downloading the whole archive\n") {
						lines++
					}
				}
				if lines != 1 {
					t.Errorf("log: %s", said)
				}
			}
		})
	}
}
