package fetch

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rangeOfPart returns the Range header that asks for part n of inParts, counted
// from 0, without its first skip bytes.
func rangeOfPart(n, skip int) string { return httpRange(int64(n<<13+skip), int64(1<<13-skip)) }

// hold serves the whole object, but waits after 1000 bytes for a condition.
// Otherwise the object could be complete before another connection begins.
func (f *faulty) hold(until func() bool, w http.ResponseWriter, r *http.Request) {
	f.serve(&limited{w, 1000, func() {
		for r.Context().Err() == nil && !until() {
			time.Sleep(time.Millisecond)
		}
	}}, r)
}

// endsPart reports whether r asks for the end of part n of inParts.
func endsPart(r *http.Request, n int) bool {
	return strings.HasSuffix(r.Header.Get("Range"), fmt.Sprintf("-%d", (n+1)<<13-1))
}

func TestParallel(t *testing.T) {
	t.Parallel()
	content := random(10, 1<<17)
	for _, test := range []struct {
		name        string
		size        int
		connections int // of Options
		requests    int
		conns       int // about
		ranges      bool
	}{
		{"default", 1 << 17, 0, 16, 4, true},
		{"one connection", 1 << 17, 1, 1, 1, true},
		{"eight connections", 1 << 17, 8, 16, 8, true},
		{"more connections than parts", 1<<14 + 1, 100, 3, 3, true},
		{"small object", 1 << 14, 4, 1, 1, true},
		{"no ranges", 1 << 17, 4, 1, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var f *faulty
			f = serve(t, content[:test.size], func(n int, w http.ResponseWriter, r *http.Request) bool {
				if test.ranges && n == 0 {
					f.hold(func() bool { return len(f.asked()) == test.requests }, w, r)
					return true
				} else if test.ranges {
					return false
				}
				w.Header().Set("ETag", `"v1"`)
				w.Header().Set("Content-Length", fmt.Sprint(test.size))
				w.Write(content[:test.size])
				return true
			})
			got, _, err := download(t, inParts(Options{Connections: test.connections}), f.URL)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, content[:test.size])
			requests := f.asked()
			if len(requests) != test.requests {
				t.Errorf("%d requests, want %d", len(requests), test.requests)
			}
			if r := requests[0].Header.Get("Range"); r != "" {
				t.Errorf("the first request has range %q", r)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			// net/http may open a connection and then use another one that has
			// become idle.
			if n := len(f.conns); n > 2*test.conns || test.conns == 1 && n > 1 {
				t.Errorf("%d connections, want about %d", n, test.conns)
			}
		})
	}
}

func TestParallelFaults(t *testing.T) {
	t.Parallel()
	content := random(10, 1<<17)
	other := random(11, 1<<17)
	for _, test := range []struct {
		name     string
		retry    int
		free     bool // the first request does not wait for others
		fault    func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool
		want     []byte // content where it is nil
		wantErr  string
		logged   string
		unlogged string
		check    func(t *testing.T, f *faulty)
	}{
		{name: "answers of less than was asked for", free: true,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if from, to, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); ok && to != "" {
					start, _ := strconv.Atoi(from)
					end, _ := strconv.Atoi(to)
					r.Header.Set("Range", httpRange(int64(start), int64(min(end-start+1, 1000))))
				}
				return false
			},
			unlogged: "attempt"},
		{name: "only one connection allowed",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 {
					return false
				}
				w.WriteHeader(503)
				return true
			},
			logged: "continuing with one connection less: 503 Service Unavailable"},
		{name: "only whole objects allowed",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					return false
				}
				w.WriteHeader(403)
				return true
			},
			logged: "continuing with one connection less: 403 Forbidden"},
		{name: "only one connection answered", free: true,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 {
					return false
				}
				<-r.Context().Done()
				return true
			}},
		{name: "ranges announced and ignored",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				f.serve(w, withoutRanges(r))
				return true
			},
			logged:   "continuing with one connection less: the server ignores ranges",
			unlogged: "starting over"},
		{name: "ranges ignored later on",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n > 5 {
					r = withoutRanges(r)
				}
				f.serve(w, r)
				return true
			}},
		{name: "a part is cut", retry: 1,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") != rangeOfPart(5, 0) {
					return false
				}
				f.cut(1000, w, r)
				return true
			},
			logged: "after 41960 of 131072 bytes: unexpected EOF; next in",
			check: func(t *testing.T, f *faulty) {
				again := 0
				for _, r := range f.asked() {
					if r.Header.Get("Range") == rangeOfPart(5, 1000) {
						again++
					}
				}
				if again != 1 {
					t.Errorf("%d requests for the rest of the part, want 1", again)
				}
			}},
		{name: "a part is cut too often", retry: 1,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if !endsPart(r, 5) {
					return false
				}
				f.cut(1000, w, r)
				return true
			},
			wantErr: "after 42960 of 131072 bytes: unexpected EOF (given up after 2 attempts)"},
		{name: "the first connection is cut", free: true, retry: 1,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n > 0 {
					return false
				}
				f.cut(1000, w, r)
				return true
			}},
		{name: "all are cut all the time", free: true, retry: 9,
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				f.cut(1000, w, r)
				return true
			}},
		{name: "changed",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 5 {
					f.change(other, `"v2"`)
				}
				return false
			},
			want: other},
		{name: "changed, and If-Range ignored",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 5 {
					f.change(other, `"v2"`)
				}
				r.Header.Del("If-Range")
				return false
			},
			want: other},
		{name: "changed to a shorter one, and If-Range ignored",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 5 {
					f.change(other[:1000], `"v2"`)
				}
				r.Header.Del("If-Range")
				return false
			},
			want: other[:1000]},
		{name: "mirrors that differ in their ETags",
			fault: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("ETag", fmt.Sprintf(`"mirror %d"`, n))
				return false
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			record := &recorder{}
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 0 && !test.free {
					f.hold(func() bool {
						return len(f.asked()) > 8 || strings.Count(record.String(), "one connection less") == 3
					}, w, r)
					return true
				}
				return test.fault(f, n, w, r)
			})
			got, logged, err := download(t, inParts(quick(test.retry)).logTo(record), f.URL)
			want := "<nil>"
			if test.wantErr != "" {
				want = "fetch " + f.URL + ": " + test.wantErr
			}
			switch {
			case fmt.Sprint(err) != want:
				t.Errorf("error %v, want %s", err, want)
			case err != nil:
			case test.want != nil:
				same(t, got, test.want)
			default:
				same(t, got, content)
			}
			if !strings.Contains(logged, test.logged) {
				t.Errorf("log without %q:\n%s", test.logged, logged)
			}
			if test.unlogged != "" && strings.Contains(logged, test.unlogged) {
				t.Errorf("log with %q:\n%s", test.unlogged, logged)
			}
			if test.check != nil {
				test.check(t, f)
			}
		})
	}
}

// TestParallelSlowPart has a server that is slow to send one part, or does not
// send it at all. Replacing that connection is not a retry, of which there is none.
func TestParallelSlowPart(t *testing.T) {
	t.Parallel()
	content := random(10, 1<<17)
	for _, mode := range []string{"drips", "stands still", "does not answer"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32 // for the last part
			asked := make(chan struct{})
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
				switch {
				case n == 0: // so that it does not bring the last part
					f.serve(&limited{w, 1000, func() { <-asked }}, r)
				case !endsPart(r, 15):
					return false
				case requests.Add(1) > 1:
					return false
				case mode == "drips":
					close(asked)
					f.serve(&dripping{w, r}, r)
				case mode == "stands still":
					close(asked)
					f.serve(&limited{w, 1000, func() { <-r.Context().Done() }}, r)
				default:
					close(asked)
					<-r.Context().Done()
				}
				return true
			})
			got, logged, err := download(t, inParts(Options{slowLeast: 100 * time.Millisecond}), f.URL)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, content)
			if !strings.Contains(logged, "part 16 of "+f.URL+": ") || !strings.Contains(logged, errSlow.Error()+": using a new connection") {
				t.Errorf("log:\n%s", logged)
			}
			if strings.Contains(logged, "failed") || requests.Load() < 2 {
				t.Errorf("%d requests for the last part, log:\n%s", requests.Load(), logged)
			}
		})
	}
}

// dripping is a body that is sent a byte at a time.
type dripping struct {
	http.ResponseWriter
	r *http.Request
}

func (d *dripping) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.ResponseWriter.Write(p[i : i+1]); err != nil {
			return i, err
		}
		http.NewResponseController(d.ResponseWriter).Flush()
		select {
		case <-d.r.Context().Done():
			return i, d.r.Context().Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return len(p), nil
}

func (d *dripping) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// The parts of an object are the whole object, and not too many, whatever size a
// server claims.
func TestParts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		offset, size int64
		parts        int
	}{
		{0, 1, 1}, {5, 5 + 8<<20, 1}, {5, 6 + 8<<20, 2}, {0, 1 << 40, 1 << 17}, {1000, math.MaxInt64, maxParts + 1},
	} {
		offset := test.offset
		ps := newParts(test.offset, test.size, 8<<20)
		for _, p := range ps.list {
			if p.offset != offset || p.size <= 0 {
				t.Fatalf("%+v: a part at %d of %d bytes, want one at %d", test, p.offset, p.size, offset)
			}
			offset += p.size
		}
		if offset != test.size || len(ps.list) != test.parts {
			t.Errorf("%+v: %d parts, which end at %d", test, len(ps.list), offset)
		}
	}
}

func TestPatience(t *testing.T) {
	t.Parallel()
	const partSize = 8 << 20
	p := &parts{slowLeast: 10 * time.Second}
	if got := p.patience(partSize); got < time.Hour {
		t.Errorf("nothing to compare with: %s", got)
	}
	p.timed(partSize, 5*time.Second)
	if got := p.patience(partSize); got != slowFactor*5*time.Second {
		t.Errorf("a part: %s", got)
	}
	if got := p.patience(partSize / 2); got != slowFactor*5*time.Second/2 {
		t.Errorf("half a part: %s", got)
	}
	p.timed(3*partSize, 0)
	if got := p.patience(partSize); got != p.slowLeast {
		t.Errorf("on a fast connection: %s", got)
	}
}

// TestParallelSendsLittleTwice resets all connections at once, while most of a
// large part has been sent over each.
func TestParallelSendsLittleTwice(t *testing.T) {
	t.Parallel()
	const partSize = 2 << 20
	const size = 8 << 20
	content := random(12, size)
	var f *faulty
	cut := sync.OnceFunc(func() { f.resetAll() })
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		w = &tripwire{w, f, size / 2, cut}
		if n == 0 {
			f.hold(func() bool { return len(f.asked()) >= defaultConnections }, w, r)
		} else {
			f.serve(w, r)
		}
		return true
	})
	o := quick(1)
	o.partSize, o.parallelSize = partSize, 2*partSize
	got, logged, err := download(t, o, f.URL)
	if err != nil {
		t.Fatalf("%v\n%s", err, logged)
	}
	same(t, got, content)
	if n := strings.Count(logged, "failed: "); n == 0 || n > defaultConnections {
		t.Errorf("%d connections were cut:\n%s", n, logged)
	}
	again := f.sentBytes() - size
	t.Logf("%d of %d bytes were sent again", again, size)
	if most := int64(defaultConnections * partSize); again > most {
		t.Errorf("%d bytes were sent again, want at most %d", again, most)
	}
}

// tripwire calls spring when the server has sent more than at bytes in total.
type tripwire struct {
	http.ResponseWriter
	of     *faulty
	at     int64
	spring func()
}

func (t *tripwire) Write(p []byte) (int, error) {
	n, err := t.ResponseWriter.Write(p)
	if t.of.sentBytes() > t.at {
		t.spring()
	}
	return n, err
}

func (t *tripwire) Unwrap() http.ResponseWriter { return t.ResponseWriter }
