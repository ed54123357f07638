package stretcher

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/pack"
)

// packTree packs a directory, and returns the archive with a manifest for it.
func packTree(t *testing.T, dir, strategy string, bases ...string) ([]byte, Manifest) {
	t.Helper()
	var o pack.Options
	for _, dir := range bases {
		base, err := pack.DirBase(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		o.Bases = append(o.Bases, base)
	}
	var file bytes.Buffer
	r, err := pack.Dir(t.Context(), dir, &file, o)
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), Manifest{CheckSum: hex.EncodeToString(r.Sum[:]), SyncStrategy: strategy,
		Index: Index{Offset: r.Index.Offset, Size: r.Index.Size, SHA256: hex.EncodeToString(r.Index.Sum[:])}}
}

// randomTree makes a directory with files, links and modes at random. Where from is
// not "", it is a changed copy of that.
func randomTree(t *testing.T, rng *rand.Rand, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if from == "" {
		from = t.TempDir()
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	random := func(size int) []byte {
		b := make([]byte, 0, size+10)
		for len(b) < size {
			b = strconv.AppendInt(b, rng.Int64N(1e8), 16)
		}
		return b[:size]
	}
	must(exec.CommandContext(t.Context(), "cp", "-a", from, dir).Run())
	var names []string
	must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	}))
	for _, name := range names {
		b, err := os.ReadFile(name)
		must(err)
		at := rng.IntN(len(b) + 1)
		switch rng.IntN(16) {
		case 0:
			must(os.Remove(name))
		case 1:
			must(os.Rename(name, name+"-moved"))
		case 2:
			must(os.WriteFile(name, append(b[:at:at], append(random(rng.IntN(500)), b[at:]...)...), 0o644))
		case 3:
			must(os.WriteFile(name, b[:at], 0o644))
		case 4:
			must(os.Chmod(name, fs.FileMode(0o400+rng.IntN(0o200))))
		case 5:
			must(os.Remove(name))
			must(os.Symlink("../"+filepath.Base(name), name))
		case 6:
			must(os.Remove(name))
			must(os.Mkdir(name, 0o755))
		case 7:
			must(os.Link(name, name+"-link"))
		}
	}
	for i := range 3 + rng.IntN(20) {
		sub := filepath.Join(dir, fmt.Sprint("dir", rng.IntN(4)))
		must(os.MkdirAll(sub, 0o755))
		size := rng.IntN(6000)
		if rng.IntN(12) == 0 {
			size = 200_000 + rng.IntN(600_000)
		}
		name := filepath.Join(sub, fmt.Sprint("file", rng.Uint32(), "-", i))
		must(os.WriteFile(name, random(size), 0o644))
	}
	return dir
}

// listing returns what is below a directory: types, modes, owners, times, links and
// digests.
func listing(t *testing.T, dir string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-c", `find . -mindepth 1 -printf '%P %y %m %U %G %n %Ts %l\n' | sed 's/^\(.* d .*\) [0-9]* $/\1/' | sort; find . -type f -print0 | sort -z | xargs -0r sha256sum`)
	c.Dir, _ = filepath.EvalSymlinks(dir)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// From any older tree, every strategy makes the same of an incremental deployment as
// of a whole one. STRETCHER_TEST_ROUNDS is how many trees are tried.
func TestIncrementalRoundTrip(t *testing.T) {
	rounds := 3
	if s := os.Getenv("STRETCHER_TEST_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for n := range rounds {
		if os.Getenv("STRETCHER_TEST_ROUNDS") == "" && time.Since(start) > 20*time.Second {
			t.Logf("%d of %d rounds", n, rounds)
			return
		}
		seed := rand.Uint64()
		if s := os.Getenv("STRETCHER_TEST_SEED"); s != "" {
			var err error
			if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		for _, strategy := range []string{"builtin", "rsync", "symlink"} {
			t.Run(fmt.Sprintf("%s/seed=%d", strategy, seed), func(t *testing.T) { roundTrip(t, strategy, seed) })
		}
	}
}

func roundTrip(t *testing.T, strategy string, seed uint64) {
	if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
		t.Skip("there is no rsync(1)")
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	older := randomTree(t, rng, "")
	newer := randomTree(t, rng, older)
	dir := t.TempDir()
	deploy := func(tree, dest string, conf Config, bases ...string) string {
		t.Helper()
		archive, m := packTree(t, tree, strategy, bases...)
		src := filepath.Join(dir, "archive")
		if err := os.WriteFile(src, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		m.Src, m.Dest = "file://"+src, filepath.Join(dir, dest)
		var err error
		said := logOf(func() { err = m.DeployContext(t.Context(), conf) })
		if err != nil || strings.Contains(said, "WARN") {
			t.Fatalf("%v: %s", err, said)
		}
		return said
	}
	for _, dest := range []string{"whole", "incremental"} {
		deploy(older, dest, Config{Whole: true})
	}
	deploy(newer, "whole", Config{Whole: true})
	var bases []string
	if rng.IntN(3) > 0 {
		bases = append(bases, older)
	}
	said := deploy(newer, "incremental", Config{}, bases...)
	if !strings.Contains(said, "Fetched ") && !strings.Contains(said, "Not incrementally") {
		t.Errorf("log: %s", said)
	}
	if want, got := listing(t, filepath.Join(dir, "whole")), listing(t, filepath.Join(dir, "incremental")); got != want {
		t.Errorf("incremental:\n%s\nwhole:\n%s", got, want)
	}
}

// Whatever the server does to ranges, dest gets the archive, or the error says why not,
// and nothing waits for longer than the timeout.
func TestIncrementalFaults(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	older := randomTree(t, rng, "")
	if err := os.WriteFile(filepath.Join(older, "kept"), bytes.Repeat([]byte("as it was\n"), 20), 0o644); err != nil {
		t.Fatal(err)
	}
	newer := randomTree(t, rng, older)
	archive, m := packTree(t, newer, "builtin", older)
	_, old := packTree(t, older, "builtin")
	oldArchive, _ := packTree(t, older, "builtin")

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
			before := listing(t, dest)
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
			case test.err != "" && listing(t, dest) != before:
				t.Error("dest was changed")
			case test.err == "":
				if out, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", newer, dest).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
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
