package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

func TestFetchRetriesAndResumes(t *testing.T) {
	t.Parallel()
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
				if e := r.Header.Get("Accept-Encoding"); e != "identity" {
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
			t.Parallel()
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
	t.Parallel()
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
	f.Close() // waits for the last handler, which may not have counted its bytes yet
	if sent := f.sentBytes(); sent != int64(len(content)) {
		t.Errorf("%d bytes were sent, want %d", sent, len(content))
	}
}

func TestFetchAfterRefusal(t *testing.T) {
	t.Parallel()
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

func TestFetchTimeout(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool { return test.fault(f, n, w, r) })
			o := inParts(quick(math.MaxInt))
			o.Timeout = 200 * time.Millisecond
			if test.name == "redirects" {
				o.Timeout = 5 * time.Millisecond
			}
			start := time.Now()
			_, _, err := download(t, o, f.URL)
			if err == nil || err.Error() != "fetch "+f.URL+": timeout: the download took longer than "+o.Timeout.String() {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			nothingLeft(t)
		})
	}
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		url, wantClosed := blackHole(t)
		o := quick(math.MaxInt)
		o.Timeout = 200 * time.Millisecond
		_, _, err := download(t, o, url)
		if err == nil || err.Error() != "fetch "+url+": timeout: the download took longer than 200ms" {
			t.Errorf("error %v", err)
		}
		wantClosed()
		nothingLeft(t)
	})
}

// A timeout also ends the decompression of what has arrived by then, here 6 GB
// of zeros.
func TestTimeoutEndsReaders(t *testing.T) {
	t.Parallel()
	packed := bytes.Repeat(tartest.PipeThrough(t, make([]byte, 64<<20), "gzip", "-1c"), 100)
	hanging := make(chan struct{})
	f := serve(t, packed, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(packed)+1))
		w.Write(packed)
		http.NewResponseController(w).Flush()
		<-hanging
		return true
	})
	t.Cleanup(func() { close(hanging) })
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var unpacked int64
	var readErr error
	o := Options{Timeout: 100 * time.Millisecond}.logTo(&recorder{})
	_, err = Download(t.Context(), f.URL, file, o, func(r io.Reader) error {
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		unpacked, readErr = io.Copy(io.Discard, z)
		return readErr
	})
	if err == nil || err.Error() != "fetch "+f.URL+": timeout: the download took longer than 100ms" || readErr != err {
		t.Errorf("error %v, that of the reader %v", err, readErr)
	}
	if unpacked > 5<<30 {
		t.Errorf("%d bytes were unpacked", unpacked)
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

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	url, wantClosed := blackHole(t)
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
		_, _, err := downloadContext(t, ctx, Options{Retries: 3, RetryWait: wait}, target)
		if !errors.Is(err, interrupted) {
			t.Errorf("retry wait %s: error %v", wait, err)
		}
	}
	wantClosed()
}

func TestFetchStall(t *testing.T) {
	t.Parallel()
	stalling := func(retries int, timeout time.Duration) Options {
		o := quick(retries)
		o.stallTimeout = timeout
		return o
	}
	content := random(5, 1<<17)
	stallAt := func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
		f.serve(&limited{w, n, func() {
			<-r.Context().Done()
			abort()
		}}, r)
	}
	t.Run("without retry", func(t *testing.T) {
		t.Parallel()
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			stallAt(f, 1000, w, r)
			return true
		})
		_, _, err := download(t, stalling(0, 300*time.Millisecond), f.URL)
		if !errors.Is(err, errStalled) || !strings.HasSuffix(err.Error(), ": after 1000 of 131072 bytes: stalled: no byte for 300ms") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("then on", func(t *testing.T) {
		t.Parallel()
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				stallAt(f, 1000, w, r)
			}
			return n == 0
		})
		got, _, err := download(t, stalling(1, 2*time.Second), f.URL) // a loaded machine may stall us too
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, content)
	})
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		url, _ := blackHole(t)
		_, logged, err := download(t, stalling(1, 300*time.Millisecond), url)
		if err == nil || !strings.Contains(err.Error(), "stalled: no byte for 300ms (given up after 2 attempts)") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}

func TestFetchRetryAfter(t *testing.T) {
	t.Parallel()
	for _, code := range []int{408, 429, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
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

// Every request is an attempt of ours, and logged. net/http would silently retry
// a request that fails on a reused connection.
func TestFetchCountsAttempts(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	f := serve(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(500)
		return true
	})
	start := time.Now()
	download(t, Options{Retries: 3, RetryWait: 100 * time.Millisecond}, f.URL)
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("three waits took %s", took)
	}
	if n := len(f.asked()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

func TestBandwidth(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
			content := random(6, test.size)
			f := serve(t, content, nil)
			url := f.URL
			if test.file {
				url = "file://" + writeFile(t, content)
			}
			start := time.Now()
			got, _, err := download(t, Options{MaxBandwidth: test.limit, Connections: test.connections, partSize: 1000, parallelSize: 2000}, url)
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, content)
			// The time before the first byte may add a burst, which is a tenth
			// of a second's bytes at most.
			if took < test.least-100*time.Millisecond {
				t.Errorf("it took %s, want at least %s", took, test.least)
			}
			// Without a limit, the first connection may be done before the
			// others have begun.
			if n := len(f.asked()); test.connections == 4 && test.least > 0 && n < 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestBandwidthBeyondTimeout(t *testing.T) {
	t.Parallel()
	f := serve(t, random(7, 10_000), nil)
	start := time.Now()
	_, _, err := download(t, Options{MaxBandwidth: 100, Timeout: 200 * time.Millisecond}, f.URL)
	if err == nil || !strings.HasSuffix(err.Error(), ": timeout: the download took longer than 200ms") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
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

// TestFetchTorture downloads from a server with random faults. Every download has
// to end with one whole version of the object.
func TestFetchTorture(t *testing.T) {
	t.Parallel()
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
		got, logged, err := download(t, Options{
			Retries: 30, RetryWait: time.Microsecond, Connections: 1 + chance(6),
			partSize: 1 << 15, parallelSize: 1 << 16, slowLeast: 50 * time.Millisecond, stallTimeout: time.Second,
		}, f.URL)
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

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, want string }{
		{"", `"" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"/path/to/manifest.yml", `"/path/to/manifest.yml" is not a URL: did you mean "file:///path/to/manifest.yml"?`},
		{"user:s3cret@host/a?token=s3cret", `"user:REDACTED@host/a?token=REDACTED" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"a\x1b[2J", `"a\x1b[2J" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"x://\x1b[2J", `x://\x1b[2J: unknown scheme "x": expected s3, gs, http, https or file`},
		{"file:a", `"file:a" is not a URL: expected s3://, gs://, http://, https:// or file://`},
		{"ftp://host/a", `ftp://host/a: unknown scheme "ftp": expected s3, gs, http, https or file`},
		{"s3://bucket", "s3://bucket: expected a bucket and a key, as in s3://bucket/key"},
		{"s3://bucket/", "s3://bucket/: expected a bucket and a key, as in s3://bucket/key"},
		{"gs:///key", "gs:///key: expected a bucket and a key, as in gs://bucket/key"},
		{"gs://bucket//", "gs://bucket//: expected a bucket and a key, as in gs://bucket/key"},
		{"s3://bucket/?a", "s3://bucket/?a: expected a bucket and a key, as in s3://bucket/key"},
		{"http://", "http://: the URL names no host"},
		{"http:///a", "http:///a: the URL names no host"},
		{"http://:80/a", "http://:80/a: the URL names no host"},
		{"http://host:99999/a", "http://host:99999/a: 99999 is not a valid port"},
		{"http://host:port/a", "http://host:port/a: malformed URL: special characters have to be percent-encoded"},
		{"http://host/%zz", "http://host/%zz: malformed URL: special characters have to be percent-encoded"},
	} {
		err := CheckURL(test.url, nil)
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
	for _, u := range []string{"s3://bucket/a%20b", "gs://b/%zz", "http://u:p@h:80/a?b#c", "https://[::1]/", "file:///a%00", "file:/a?b", "file:/", "file://localhost/a", "a://b", "://", "HTTP://ÄÖ/"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		s, err := newSource(u, Options{})
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
			// What is compared with Options.Allow is what is sent.
			if c := s.parsed; c.Scheme != r.URL.Scheme || c.Hostname() != r.URL.Hostname() || c.Port() != r.URL.Port() || c.RequestURI() != r.URL.RequestURI() {
				t.Errorf("%q: %v is checked, %v sent", u, c, r.URL)
			}
		}
	})
}
