package fetch

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
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
