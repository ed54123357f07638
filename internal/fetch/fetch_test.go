package stretcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// faulty is a web server with one object. It serves it well, or as a fault of
// the test's choice has it.
type faulty struct {
	*httptest.Server
	// fault sees request n, from 0 on, and says whether it has answered it.
	// It may change the object first.
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

// writeFile writes a file for a test, and returns its path.
func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
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

// change puts another object in the place.
func (f *faulty) change(content []byte, tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content, f.tag = content, tag
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

// counter counts the bytes of a body.
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

// limited is a body that ends, or waits once, after some bytes.
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

// cut serves n bytes of what was asked for, and closes the connection.
func (f *faulty) cut(n int, w http.ResponseWriter, r *http.Request) {
	f.serve(&limited{w, n, abort}, r)
}

// reset closes a connection so that its client sees a reset, and loses what
// it has not read.
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

// withoutRanges makes r a request for the whole.
func withoutRanges(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	return r
}

// random returns bytes that differ from place to place and from seed to seed.
func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// set sets a variable for the time of a test.
func set[T any](t *testing.T, variable *T, value T) {
	t.Helper()
	old := *variable
	*variable = value
	t.Cleanup(func() { *variable = old })
}

// downloadLog is what the current download has logged.
var downloadLog recorder

type recorder struct {
	mu   sync.Mutex
	text strings.Builder
	hook func(line string) // what to do then
}

func (r *recorder) Write(line []byte) (int, error) {
	r.mu.Lock()
	hook := r.hook
	r.text.Write(line)
	r.mu.Unlock()
	if hook != nil {
		hook(string(line))
	}
	return len(line), nil
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.Reset()
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// download is fetchSrc, with a reader that follows. It returns what the spool
// holds in the end and what has been logged.
func download(t *testing.T, conf Config, url string) ([]byte, string, error) {
	t.Helper()
	return downloadContext(t, t.Context(), conf, url)
}

func downloadContext(t *testing.T, ctx context.Context, conf Config, url string) ([]byte, string, error) {
	t.Helper()
	downloadLog.reset()
	defer log.SetOutput(log.Writer())
	log.SetOutput(&downloadLog)
	defer captureLog("DEBUG")()

	m := &memory{}
	s := newSpool(m, 0)
	var read []byte
	var readErr error
	var reader sync.WaitGroup
	reader.Go(func() {
		readErr = s.read(false, func(r io.Reader) (err error) {
			read, err = io.ReadAll(r)
			return err
		})
	})
	err := fetchSrc(ctx, conf, url, s)
	reader.Wait()
	if readErr != err {
		t.Errorf("the reader of the spool got error %v, the download %v", readErr, err)
	}
	if err == nil && !bytes.Equal(read, m.data) {
		t.Errorf("the reader of the spool got other bytes than it holds")
	}
	return m.data, downloadLog.String(), err
}

// same fails the test where a download is not what it should be.
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

// quick is a config for downloads that fail at once.
func quick(retry int) Config { return Config{Retry: retry, RetryWait: time.Millisecond} }

func TestFetchRetriesAndResumes(t *testing.T) {
	const size = 1 << 17
	content := random(1, size)
	other := random(2, size)
	status := func(until, code int) func(*faulty, int, http.ResponseWriter, *http.Request) bool {
		return func(_ *faulty, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n < until {
				w.WriteHeader(code)
			}
			return n < until
		}
	}
	// cutAnd cuts the first answer, and leaves the second to a fault.
	cutAnd := func(second func(*faulty, http.ResponseWriter, *http.Request) bool) func(*faulty, int, http.ResponseWriter, *http.Request) bool {
		return func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			switch n {
			case 0:
				f.cut(size/2, w, r)
				return true
			case 1:
				return second(f, w, r)
			}
			return false
		}
	}
	// partial answers a request for the second half by hand.
	partial := func(contentRange string, body []byte, headers ...string) func(*faulty, http.ResponseWriter, *http.Request) bool {
		return func(_ *faulty, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", contentRange)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(http.StatusPartialContent)
			w.Write(body)
			return true
		}
	}
	secondHalf := fmt.Sprintf("bytes %d-%d/%d", size/2, size-1, size)
	resumed := []string{"", fmt.Sprintf("bytes=%d- if \"v1\"", size/2)}
	startedOver := append(resumed[:2:2], "")

	for _, test := range []struct {
		name  string
		fault func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool
		tag   string // of the object; "" is "v1", "none" none
		retry int

		want     []byte   // content where it is nil
		wantErr  string   // the whole error after the URL
		requests []string // their Range and If-Range; nil is one whole
		logged   string
	}{
		{name: "plain"},
		{name: "another version, which the server names by its time only", tag: "none", retry: 1,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
				switch n {
				case 0:
					f.cut(size/2, w, r)
				case 1:
					f.change(other, "none")
					return partial(secondHalf, other[size/2:], "Last-Modified", time.Now().UTC().Format(http.TimeFormat))(f, w, r)
				}
				return n == 0
			},
			requests: []string{"", fmt.Sprintf("bytes=%d- if Sun, 09 Sep 2001 01:46:40 GMT", size/2), ""},
			want:     other},
		{name: "another version, named by a weak tag", retry: 1,
			fault: cutAnd(func(f *faulty, w http.ResponseWriter, r *http.Request) bool {
				f.change(other, `W/"v2"`)
				return partial(secondHalf, other[size/2:], "ETag", `W/"v2"`)(f, w, r)
			}),
			requests: startedOver,
			want:     other},
		{name: "cut without retry",
			fault:   cutAnd(nil),
			wantErr: "after 65536 of 131072 bytes: unexpected EOF"},
		{name: "cut once",
			fault: cutAnd(func(*faulty, http.ResponseWriter, *http.Request) bool { return false }),
			retry: 1, requests: resumed,
			logged: "attempt 1 of 2 failed: after 65536 of 131072 bytes: unexpected EOF; next in "},
		{name: "cut again and again",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				f.cut(size/4, w, r)
				return true
			},
			retry: 4, requests: []string{"", `bytes=32768- if "v1"`, `bytes=65536- if "v1"`, `bytes=98304- if "v1"`}},
		{name: "cut too often",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				f.cut(1000, w, r)
				return true
			},
			retry: 2, requests: []string{"", `bytes=1000- if "v1"`, `bytes=2000- if "v1"`},
			wantErr: "after 3000 of 131072 bytes: unexpected EOF (given up after 3 attempts)"},
		{name: "cut before the first byte",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 {
					w.Header().Set("Content-Length", fmt.Sprint(size))
					w.WriteHeader(http.StatusOK)
					http.NewResponseController(w).Flush()
					abort()
				}
				return false
			},
			retry: 1, requests: []string{"", ""}},
		{name: "reset instead of an answer",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 {
					resetBy(w)
				}
				return n == 0
			},
			retry: 1, requests: []string{"", ""}, logged: "connection reset by peer"},
		{name: "500", fault: status(2, 500), retry: 2, requests: []string{"", "", ""}, logged: "attempt 2 of 3 failed: 500 Internal Server Error"},
		{name: "503 for too long", fault: status(9, 503), retry: 2, requests: []string{"", "", ""}, wantErr: "503 Service Unavailable (given up after 3 attempts)"},
		{name: "408", fault: status(1, 408), retry: 1, requests: []string{"", ""}},
		{name: "429", fault: status(1, 429), retry: 1, requests: []string{"", ""}},
		{name: "404 then there", fault: status(2, 404), retry: 2, requests: []string{"", "", ""}, logged: "404 Not Found"},
		{name: "400", fault: status(9, 400), retry: 2, wantErr: "400 Bad Request"},
		{name: "401", fault: status(9, 401), retry: 2, wantErr: "401 Unauthorized"},
		{name: "403", fault: status(9, 403), retry: 2, wantErr: "403 Forbidden"},
		{name: "410", fault: status(9, 410), retry: 2, wantErr: "410 Gone"},
		{name: "304", fault: status(9, 304), retry: 2, wantErr: "304 Not Modified"},
		{name: "300", fault: status(9, 300), retry: 2, wantErr: "300 Multiple Choices"},
		{name: "206 unasked", fault: status(9, 206), retry: 2, wantErr: "206 Partial Content"},

		{name: "changed after a cut",
			fault: cutAnd(func(f *faulty, _ http.ResponseWriter, _ *http.Request) bool {
				f.change(other, `"v2"`)
				return false
			}),
			retry: 1, want: other, requests: resumed, logged: "starting over"},
		{name: "changed to a shorter one after a cut",
			fault: cutAnd(func(f *faulty, _ http.ResponseWriter, _ *http.Request) bool {
				f.change(other[:1000], `"v2"`)
				return false
			}),
			retry: 1, want: other[:1000], requests: resumed, logged: "starting over"},
		{name: "changed after a cut, and If-Range ignored",
			fault: cutAnd(func(f *faulty, w http.ResponseWriter, r *http.Request) bool {
				f.change(other, `"v2"`)
				r.Header.Del("If-Range")
				return false
			}),
			retry: 1, want: other, requests: startedOver, logged: "starting over"},
		{name: "changed to a shorter one, and If-Range ignored",
			fault: cutAnd(func(f *faulty, w http.ResponseWriter, r *http.Request) bool {
				f.change(other[:1000], `"v2"`)
				r.Header.Del("If-Range")
				return false // 416
			}),
			retry: 1, want: other[:1000], requests: startedOver},
		{name: "changed after a cut to one of another size, which nothing else tells",
			fault: cutAnd(func(f *faulty, w http.ResponseWriter, r *http.Request) bool {
				f.change(other[:size-1], `"v2"`)
				return partial(fmt.Sprintf("bytes %d-%d/%d", size/2, size-2, size-1), other[size/2:size-1])(f, w, r)
			}),
			retry: 1, want: other[:size-1], requests: startedOver},
		{name: "changed all the time",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				f.change(other, fmt.Sprintf(`"v%d"`, n))
				f.cut(1000, w, r)
				return true
			},
			retry: 2, requests: []string{"", `bytes=1000- if "v0"`, `bytes=1000- if "v1"`},
			wantErr: "after 1000 of 131072 bytes: unexpected EOF (given up after 3 attempts)"},
		{name: "gone after a cut, then back",
			fault: cutAnd(func(_ *faulty, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusNotFound)
				return true
			}),
			retry: 2, requests: []string{"", resumed[1], resumed[1]}},

		{name: "ranges ignored",
			fault: cutAnd(func(f *faulty, w http.ResponseWriter, r *http.Request) bool {
				f.serve(w, withoutRanges(r))
				return true
			}),
			retry: 1, requests: resumed, logged: "starting over"},
		{name: "no validator", tag: "none",
			fault: cutAnd(func(*faulty, http.ResponseWriter, *http.Request) bool { return false }),
			retry: 1, requests: []string{"", ""}, logged: "starting over"},
		{name: "weak validator", tag: `W/"v1"`,
			fault: cutAnd(func(*faulty, http.ResponseWriter, *http.Request) bool { return false }),
			retry: 1, requests: []string{"", ""}},
		{name: "206 without ETag", retry: 1, requests: resumed,
			fault: cutAnd(partial(secondHalf, content[size/2:]))},
		{name: "206 with Last-Modified alone", retry: 1, requests: resumed,
			fault: cutAnd(partial(secondHalf, content[size/2:], "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"))},
		{name: "206 of unknown size", retry: 1, requests: resumed,
			fault: cutAnd(partial(fmt.Sprintf("bytes %d-%d/*", size/2, size-1), content[size/2:]))},
		{name: "206 from elsewhere", retry: 2, requests: []string{"", resumed[1], resumed[1]},
			fault:  cutAnd(partial(fmt.Sprintf("bytes 1000-%d/%d", size-1, size), content[1000:], "ETag", `"v1"`)),
			logged: "asked for the bytes from 65536 on, got those from 1000 on"},
		{name: "206 from the beginning", retry: 1, requests: resumed,
			fault: cutAnd(partial(fmt.Sprintf("bytes 0-%d/%d", size-1, size), content, "ETag", `"v1"`))},
		{name: "206 without Content-Range", retry: 2, requests: []string{"", resumed[1], resumed[1]},
			fault:  cutAnd(partial("", content[size/2:])),
			logged: `bad Content-Range ""`},
		{name: "206 that is too short", retry: 2, requests: []string{"", resumed[1], `bytes=66536- if "v1"`},
			fault: cutAnd(partial(secondHalf, content[size/2:size/2+1000], "ETag", `"v1"`))},

		{name: "no length",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				for at := 0; at < size; at += 1 << 14 {
					w.Write(content[at : at+1<<14])
				}
				return true
			}},
		{name: "no length, and a cut",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 {
					w.Header().Set("ETag", f.tag)
					w.Write(content[:size/2])
					http.NewResponseController(w).Flush()
					abort()
				}
				return false
			},
			retry: 1, requests: resumed, logged: "after 65536 bytes: unexpected EOF"},
		{name: "stored as gzip",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if e := r.Header.Get("Accept-Encoding"); e != "" {
					t.Errorf("Accept-Encoding is %q", e)
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Length", "12")
				w.Write([]byte("\x1f\x8bno gzip..."[:12]))
				return true
			},
			want: []byte("\x1f\x8bno gzip..."[:12])},
		{name: "empty",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Length", "0")
				return true
			},
			want: []byte{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
				return test.fault != nil && test.fault(f, n, w, r)
			})
			switch test.tag {
			case "":
			case "none":
				f.tag = ""
			default:
				f.tag = test.tag
			}
			got, logged, err := download(t, quick(test.retry), f.URL+"/object")

			want := "<nil>"
			if test.wantErr != "" {
				want = "fetch " + f.URL + "/object: " + test.wantErr
			}
			if fmt.Sprint(err) != want {
				t.Errorf("error %v, want %s", err, want)
			}
			if err == nil && test.want == nil {
				same(t, got, content)
			} else if err == nil {
				same(t, got, test.want)
			}
			var requests []string
			for _, r := range f.asked() {
				s := r.Header.Get("Range")
				if v := r.Header.Get("If-Range"); v != "" {
					s += " if " + v
				}
				requests = append(requests, s)
			}
			if test.requests == nil {
				test.requests = []string{""}
			}
			if fmt.Sprintf("%q", requests) != fmt.Sprintf("%q", test.requests) {
				t.Errorf("requests %q, want %q", requests, test.requests)
			}
			if !strings.Contains(logged, test.logged) {
				t.Errorf("log without %q:\n%s", test.logged, logged)
			}
		})
	}
}

func TestFetchSendsNoByteTwice(t *testing.T) {
	content := random(3, 1<<20)
	var f *faulty
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		f.cut(100_000, w, r)
		return true
	})
	got, _, err := download(t, quick(20), f.URL)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, content)
	if sent := f.sentBytes(); sent != int64(len(content)) {
		t.Errorf("%d bytes were sent, want %d", sent, len(content))
	}
}

func TestFetchAfterRefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // so that nobody is there
	_, logged, err := download(t, quick(2), "http://"+l.Addr().String()+"/")
	if err == nil || !strings.Contains(err.Error(), "connection refused (given up after 3 attempts)") {
		t.Errorf("error %v", err)
	}
	if n := strings.Count(logged, "connection refused; next in"); n != 2 {
		t.Errorf("%d attempts in the log, want 2:\n%s", n, logged)
	}
}

// blackHole accepts connections and never answers.
func blackHole(t *testing.T) (url string, closed <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ends := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, c) // until the client closes it
				c.Close()
				ends <- struct{}{}
			}()
		}
	}()
	return "http://" + l.Addr().String() + "/", ends
}

// nothingLeft fails the test where a goroutine of a download outlives it.
func nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left := ""
		for _, stack := range strings.Split(string(stacks), "\n\n") {
			for _, ours := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "stretcher.(*fetcher)", "stretcher.(*parts)", "stretcher.(*transfer)", "stretcher.(*progress)", "net.(*sysDialer)"} {
				if strings.Contains(stack, ours) {
					left = stack
				}
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

func TestFetchTimeout(t *testing.T) {
	set(t, &partSize, 1<<13)
	set(t, &parallelSize, 1<<14)
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
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool { return test.fault(f, n, w, r) })
			conf := quick(math.MaxInt)
			conf.Timeout = 200 * time.Millisecond
			if test.name == "redirects" {
				conf.Timeout = 5 * time.Millisecond
			}
			start := time.Now()
			_, _, err := download(t, conf, f.URL)
			if err == nil || err.Error() != "fetch "+f.URL+": timeout: the download took longer than "+conf.Timeout.String() {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			f.CloseClientConnections() // of the server: its goroutines are not what we look for
			nothingLeft(t)
		})
	}
	t.Run("no answer", func(t *testing.T) {
		url, closed := blackHole(t)
		conf := quick(math.MaxInt)
		conf.Timeout = 200 * time.Millisecond
		_, _, err := download(t, conf, url)
		if err == nil || !strings.Contains(err.Error(), "timeout") || !errors.Is(err, errTimeout) {
			t.Errorf("error %v", err)
		}
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Error("the connection is still open")
		}
		nothingLeft(t)
	})
}

// When the time is over, so is the decompression of what has come: this archive
// has 6 GB of zeros after its end.
func TestFetchTimeoutEndsIndexing(t *testing.T) {
	packed := pipeThrough(t, makeTar(t, member{name: "a", body: "a"}), "gzip", "-c")
	packed = append(packed, bytes.Repeat(pipeThrough(t, make([]byte, 64<<20), "gzip", "-1c"), 100)...)
	hanging := make(chan struct{})
	f := serve(t, packed, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(packed)+1))
		w.Write(packed)
		http.NewResponseController(w).Flush()
		<-hanging
		return true
	})
	t.Cleanup(func() { close(hanging) })
	m := &Manifest{Src: f.URL, CheckSum: strings.Repeat("0", 32)}
	file, err := tempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := time.Now()
	_, err = m.getSrc(t.Context(), Config{Timeout: 100 * time.Millisecond}, file)
	if took := time.Since(start); !errors.Is(err, errTimeout) || took > 2*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

func TestFetchCancelled(t *testing.T) {
	url, closed := blackHole(t)
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
		_, _, err := downloadContext(t, ctx, Config{Retry: 3, RetryWait: wait}, target)
		if !errors.Is(err, interrupted) {
			t.Errorf("retry wait %s: error %v", wait, err)
		}
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestFetchStall(t *testing.T) {
	set(t, &stallTimeout, 300*time.Millisecond)
	content := random(5, 1<<17)
	stallAt := func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
		f.serve(&limited{w, n, func() {
			<-r.Context().Done()
			abort()
		}}, r)
	}
	t.Run("without retry", func(t *testing.T) {
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			stallAt(f, 1000, w, r)
			return true
		})
		_, _, err := download(t, quick(0), f.URL)
		if !errors.Is(err, errStalled) || !strings.HasSuffix(err.Error(), ": after 1000 of 131072 bytes: stalled: no byte for 300ms") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("then on", func(t *testing.T) {
		set(t, &stallTimeout, 2*time.Second) // a loaded machine may stall us too
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				stallAt(f, 1000, w, r)
			}
			return n == 0
		})
		got, _, err := download(t, quick(1), f.URL)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, content)
	})
	t.Run("no answer", func(t *testing.T) {
		url, _ := blackHole(t)
		_, logged, err := download(t, quick(1), url)
		if err == nil || !strings.Contains(err.Error(), "stalled: no byte for 300ms (given up after 2 attempts)") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}

func TestFetchRetryAfter(t *testing.T) {
	for _, code := range []int{408, 429, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			f := serve(t, []byte("x"), func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n == 0 {
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(code)
				}
				return n == 0
			})
			start := time.Now()
			_, logged, err := download(t, quick(1), f.URL)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < time.Second {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(logged, "next in 1s") {
				t.Errorf("log:\n%s", logged)
			}
		})
	}
}

// Each attempt is one of ours, and logged: net/http would repeat a request that
// fails on a connection that it has used before.
func TestFetchCountsAttempts(t *testing.T) {
	f := serve(t, nil, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n%2 == 1 {
			abort()
		}
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(503)
		return true
	})
	_, logged, err := download(t, quick(5), f.URL)
	if err == nil || len(f.asked()) != 6 || strings.Count(logged, "attempt ") != 5 {
		t.Errorf("%d requests, error %v, log:\n%s", len(f.asked()), err, logged)
	}
}

func TestFetchRetryWait(t *testing.T) {
	f := serve(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(500)
		return true
	})
	start := time.Now()
	download(t, Config{Retry: 3, RetryWait: 100 * time.Millisecond}, f.URL)
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("three waits took %s", took)
	}
	if n := len(f.asked()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

func TestBandwidth(t *testing.T) {
	set(t, &partSize, 1000)
	set(t, &parallelSize, 2000)
	for _, test := range []struct {
		name        string
		size        int
		limit       uint64
		connections int
		file        bool
		least       time.Duration
	}{
		{name: "10 KB at 5 KB/s", size: 10_000, limit: 5_000, connections: 1, least: 2 * time.Second},
		{name: "over four connections", size: 10_000, limit: 5_000, connections: 4, least: 2 * time.Second},
		{name: "file", size: 10_000, limit: 5_000, file: true, least: 2 * time.Second},
		{name: "1 B/s", size: 2, limit: 1, least: 2 * time.Second},
		{name: "no end of bandwidth", size: 20_000, limit: math.MaxUint64},
		{name: "much bandwidth", size: 20_000, limit: math.MaxInt64, connections: 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := random(6, test.size)
			f := serve(t, content, nil)
			url := f.URL
			if test.file {
				url = "file://" + writeFile(t, content)
			}
			start := time.Now()
			got, _, err := download(t, Config{MaxBandWidth: test.limit, Connections: test.connections}, url)
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, content)
			// What came before the first byte gives a credit of a tenth of a
			// second at most.
			if took < test.least-100*time.Millisecond {
				t.Errorf("it took %s, want at least %s", took, test.least)
			}
			// Where nothing slows it down, the first may bring all.
			if n := len(f.asked()); test.connections == 4 && test.least > 0 && n < 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestBandwidthBeyondTimeout(t *testing.T) {
	f := serve(t, random(7, 10_000), nil)
	start := time.Now()
	_, _, err := download(t, Config{MaxBandWidth: 100, Timeout: 200 * time.Millisecond}, f.URL)
	if !errors.Is(err, errTimeout) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestFetchManifestSize(t *testing.T) {
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
			data, err := fetchManifest(t.Context(), quick(3), f.URL)
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
	data, err := fetchManifest(t.Context(), quick(3), f.URL)
	if err != nil {
		t.Fatal(err)
	}
	same(t, data, content)
}

// TestFetchTorture downloads from a server that does what it likes: what
// arrives is one of the versions of the object, whole, or an error.
func TestFetchTorture(t *testing.T) {
	set(t, &partSize, 1<<15)
	set(t, &parallelSize, 1<<16)
	set(t, &slowLeast, 50*time.Millisecond)
	set(t, &stallTimeout, time.Second)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex // of rnd
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	failed := 0
	for round := range 30 {
		versions := [][]byte{random(uint64(round), chance(1<<19))}
		maxFaults := chance(20)
		tags := chance(4) > 0
		faults := 0
		var f *faulty
		f = serve(t, versions[0], func(n int, w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			faults++
			good := faults > maxFaults
			mu.Unlock()
			if good {
				return false
			}
			switch chance(12) {
			case 0:
				w.WriteHeader([]int{404, 408, 429, 500, 503}[chance(5)])
			case 1:
				resetBy(w)
			case 2, 3, 4:
				f.serve(&limited{w, 1 + chance(1<<17), abort}, r)
			case 5:
				f.serve(&limited{w, 1 + chance(1<<17), func() { resetBy(w) }}, r)
			case 6:
				f.serve(w, withoutRanges(r))
			case 7:
				if !tags {
					return false
				}
				mu.Lock()
				v := random(uint64(1000*round+n), rnd.IntN(1<<19))
				versions = append(versions, v)
				f.change(v, fmt.Sprintf(`"v%d"`, len(versions)))
				mu.Unlock()
				r.Header.Del("If-Range")
				return false
			case 8: // chunked
				w.Header().Set("ETag", f.etag())
				f.mu.Lock()
				content := f.content
				f.mu.Unlock()
				w.Write(content[:len(content)/2])
				http.NewResponseController(w).Flush()
				w.Write(content[len(content)/2:])
			case 9:
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
			case 10:
				f.serve(&limited{w, 1 + chance(1<<16), func() { time.Sleep(100 * time.Millisecond) }}, r)
				abort()
			default:
				return false
			}
			return true
		})
		if !tags {
			f.tag = ""
		}
		got, logged, err := download(t, Config{Retry: 30, RetryWait: time.Microsecond, Connections: 1 + chance(6)}, f.URL)
		f.Close()
		if err != nil {
			failed++
			continue
		}
		whole := false
		for _, v := range versions {
			whole = whole || bytes.Equal(got, v)
		}
		if !whole {
			t.Fatalf("round %d: the %d bytes are none of the %d versions of the object:\n%s", round, len(got), len(versions), logged)
		}
	}
	if failed > 0 {
		t.Errorf("%d downloads failed in spite of their retries", failed)
	}
	nothingLeft(t)
}

func (f *faulty) etag() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tag
}

func TestNewSourceErrors(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"", `"" is no URL: expected s3://, gs://, http://, https:// or file://`},
		{"/path/to/manifest.yml", `"/path/to/manifest.yml" is no URL: expected s3://, gs://, http://, https:// or file://`},
		{"ftp://host/a", `ftp://host/a: unknown scheme "ftp": expected s3, gs, http, https or file`},
		{"s3://bucket", "s3://bucket: expected a bucket and a key, as in s3://bucket/key"},
		{"s3://bucket/", "s3://bucket/: expected a bucket and a key, as in s3://bucket/key"},
		{"gs:///key", "gs:///key: expected a bucket and a key, as in gs://bucket/key"},
		{"http://", "http://: the URL names no host"},
		{"http:///a", "http:///a: the URL names no host"},
		{"http://:80/a", "http://:80/a: the URL names no host"},
		{"http://host:99999/a", "http://host:99999/a: the URL's port 99999 is none"},
		{"http://host:port/a", "http://host:port/a: malformed URL: special characters have to be percent-encoded"},
		{"http://host/%zz", "http://host/%zz: malformed URL: special characters have to be percent-encoded"},
	} {
		_, err := newSource(test.url)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: error %v, want %s", test.url, err, test.want)
		}
		_, logged, err := download(t, quick(3), test.url)
		if err == nil || err.Error() != test.want || logged != "" {
			t.Errorf("%s: error %v, log:\n%s", test.url, err, logged)
		}
	}
}

func FuzzNewSource(f *testing.F) {
	for _, u := range []string{"s3://bucket/a%20b", "gs://b/%zz", "http://u:p@h:80/a?b#c", "https://[::1]/", "file:///a%00", "file://localhost/a", "a://b", "://", "HTTP://ÄÖ/"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		s, err := newSource(u)
		if err != nil {
			return
		}
		switch s := s.(type) {
		case fileSource:
			if !filepath.IsAbs(s.path) || strings.ContainsRune(s.path, 0) {
				t.Errorf("%q: path %q", u, s.path)
			}
		case *s3Source:
			if s.bucket == "" || s.key == "" || strings.Contains(s.bucket, "/") {
				t.Errorf("%q: bucket %q, key %q", u, s.bucket, s.key)
			}
		case *gcsSource:
			if s.bucket == "" || s.key == "" || strings.Contains(s.bucket, "/") {
				t.Errorf("%q: bucket %q, key %q", u, s.bucket, s.key)
			}
		case *httpSource:
			r, err := http.NewRequest(http.MethodGet, s.url, nil)
			if err != nil || r.URL.Hostname() == "" || r.URL.Scheme != "http" && r.URL.Scheme != "https" {
				t.Errorf("%q: request %v, %v", u, r, err)
			}
		}
	})
}
