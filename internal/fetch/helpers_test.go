package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// faulty is a web server with one object, which it serves with the faults that a
// test chooses.
type faulty struct {
	*httptest.Server
	// fault is called with request n, counted from 0, and reports whether it
	// has answered it. Otherwise the object is served as it should be, so
	// fault may change the object first.
	fault func(n int, w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	content  []byte
	tag      string // the ETag
	requests []*http.Request
	sent     int64 // bytes of all bodies
	conns    []net.Conn
}

func serve(t *testing.T, content []byte, fault func(n int, w http.ResponseWriter, r *http.Request) bool) *faulty {
	t.Helper()
	f := &faulty{content: content, tag: `"v1"`, fault: fault}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.conns = append(f.conns, c)
		}
	}
	f.Start()
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	n := len(f.requests)
	f.requests = append(f.requests, r.Clone(context.Background()))
	f.mu.Unlock()
	w = &counter{ResponseWriter: w, of: f}
	if f.fault == nil || !f.fault(n, w, r) {
		f.serve(w, r)
	}
}

// serve serves the object as it should be.
func (f *faulty) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	content, tag := f.content, f.tag
	f.mu.Unlock()
	if tag != "" && w.Header().Get("ETag") == "" {
		w.Header().Set("ETag", tag)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// change replaces the object.
func (f *faulty) change(content []byte, tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content, f.tag = content, tag
}

func (f *faulty) etag() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tag
}

func (f *faulty) asked() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func (f *faulty) sentBytes() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// counter counts the bytes of a body in faulty.sent.
type counter struct {
	http.ResponseWriter
	of *faulty
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.sent += int64(n)
	return n, err
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// limited is a body that calls then, which may wait or panic, after left bytes.
type limited struct {
	http.ResponseWriter
	left int
	then func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left == 0 {
		return l.ResponseWriter.Write(p)
	}
	n, err := l.ResponseWriter.Write(p[:min(len(p), l.left)])
	l.left -= n
	if err != nil || l.left > 0 {
		return n, err
	}
	http.NewResponseController(l.ResponseWriter).Flush()
	l.then()
	m, err := l.ResponseWriter.Write(p[n:])
	return n + m, err
}

func (l *limited) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func abort() { panic(http.ErrAbortHandler) }

// cut serves n bytes of what was asked for and closes the connection.
func (f *faulty) cut(n int, w http.ResponseWriter, r *http.Request) {
	f.serve(&limited{w, n, abort}, r)
}

// reset closes a connection with a reset, which makes the client lose the bytes
// that it has not read.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// resetBy closes the connection that w answers on.
func resetBy(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	reset(conn)
}

// resetAll closes all connections there have been.
func (f *faulty) resetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		reset(c)
	}
}

// withoutRanges returns r as a request for the whole object.
func withoutRanges(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	return r
}

// random returns random bytes, the same ones for the same seed.
func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// writeFile writes a temporary file and returns its path.
func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// quietServer returns a server, not yet started, that logs nothing.
func quietServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// blackHole accepts connections and never answers. wantClosed checks that the client
// closes all of them; on a busy machine, it may not have come to open one.
func blackHole(t *testing.T) (url string, wantClosed func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var open atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				io.Copy(io.Discard, c) // until the client closes it
				c.Close()
				open.Add(-1)
			}()
		}
	}()
	return "http://" + l.Addr().String() + "/", func() {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); open.Load() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the connection is still open")
			}
		}
	}
}

// recorder is the log of a download.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
	hook func(line string) // called with each line, unless it is nil
}

func (r *recorder) Write(line []byte) (int, error) {
	r.mu.Lock()
	r.text.Write(line)
	r.mu.Unlock()
	if r.hook != nil {
		r.hook(string(line))
	}
	return len(line), nil
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// logTo returns o with r as the log.
func (o Options) logTo(r *recorder) Options {
	o.logger = log.New(r, "", 0)
	return o
}

const testVersion = "1.2.3-test"

const testUserAgent = "Stretcher/" + testVersion

// withTimeout returns a context that ends after a time, with the cause that the agent's
// -timeout has.
func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("timeout: the download took longer than %s", d))
	t.Cleanup(cancel)
	return ctx
}

// download downloads to a temporary file with two readers. It fails the test
// where a reader does not get the content of the file, or the error of the
// download, and returns that content, the log and that error.
func download(t *testing.T, o Options, url string) ([]byte, string, error) {
	t.Helper()
	return downloadContext(t, t.Context(), o, url)
}

func downloadContext(t *testing.T, ctx context.Context, o Options, url string) ([]byte, string, error) {
	t.Helper()
	if o.logger == nil {
		o = o.logTo(&recorder{})
	}
	o.Debug = true
	o.Version = testVersion
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var read [2][]byte
	var readErrs [2]error
	readAll := func(i int) func(io.Reader) error {
		return func(r io.Reader) error {
			read[i], readErrs[i] = io.ReadAll(r)
			return readErrs[i]
		}
	}
	pprof.Do(ctx, pprof.Labels("download", t.Name()), func(ctx context.Context) {
		_, err = Download(ctx, url, file, o, readAll(0), readAll(1))
	})
	content, contentErr := io.ReadAll(file)
	if contentErr != nil {
		t.Fatal(contentErr)
	}
	for i := range read {
		if readErrs[i] != err {
			t.Errorf("reader %d got error %v, the download %v", i, readErrs[i], err)
		}
		if err == nil && !bytes.Equal(read[i], content) {
			t.Errorf("reader %d got other bytes than the file has", i)
		}
	}
	return content, o.logger.Writer().(*recorder).String(), err
}

// nothingLeft fails the test where a goroutine that one of its downloads has
// started outlives it.
func nothingLeft(t *testing.T) {
	t.Helper()
	label := fmt.Sprintf("%q:%q", "download", t.Name())
	deadline := time.Now().Add(10 * time.Second)
	for {
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			t.Fatal(err)
		}
		left := ""
		for stack := range strings.SplitSeq(profile.String(), "\n\n") {
			if strings.Contains(stack, label) {
				left = stack
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// same fails the test where the bytes of a download differ from those wanted.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("got %d bytes, want %d; the first other one is at %d", len(got), len(want), at)
}

// quick returns the options of downloads whose retries do not wait.
func quick(retries int) Options { return Options{Retries: retries, RetryWait: time.Millisecond} }

// inParts returns o with small parts, so that an object of 1<<17 bytes has 16.
func inParts(o Options) Options {
	o.partSize, o.parallelSize = 1<<13, 1<<14
	return o
}
