package fetch

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	f := serve(t, []byte("content"), nil)
	if _, _, err := download(t, Options{}, f.URL); err != nil {
		t.Fatal(err)
	}
	h := f.asked()[0].Header
	if got := h.Get("User-Agent"); got != "Stretcher/"+testVersion {
		t.Errorf("User-Agent is %q", got)
	}
	if got := h.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("Accept-Encoding is %q", got)
	}
	for _, name := range []string{"Range", "If-Range", "Referer", "Authorization"} {
		if v, ok := h[name]; ok {
			t.Errorf("%s is %q", name, v)
		}
	}
}

func TestHTTPURLs(t *testing.T) {
	t.Parallel()
	f := serve(t, []byte("content"), nil)
	host := strings.TrimPrefix(f.URL, "http://")
	for _, test := range []struct{ url, requestURI, user, password string }{
		{"http://HOST", "/", "", ""},
		{"http://HOST?q", "/?q", "", ""},
		{"HTTP://HOST/a.tar.gz", "/a.tar.gz", "", ""},
		{"http://HOST/a b.tar", "/a%20b.tar", "", ""},
		{"http://HOST/a%20b.tar", "/a%20b.tar", "", ""},
		{"http://HOST/größe/日本", "/gr%C3%B6%C3%9Fe/%E6%97%A5%E6%9C%AC", "", ""},
		{"http://HOST/a+b%2Bc%2Fd", "/a+b%2Bc%2Fd", "", ""},
		{"http://HOST/a#fragment", "/a", "", ""},
		{"http://HOST/a%23b%3Fc", "/a%23b%3Fc", "", ""},
		{"http://HOST/a?b=c%2Bd+e&f", "/a?b=c%2Bd+e&f", "", ""},
		{"http://user:p%40ss%2F@HOST/a", "/a", "user", "p@ss/"},
		{"http://user@HOST/a", "/a", "user", ""},
	} {
		f.mu.Lock()
		f.requests = nil
		f.mu.Unlock()
		if _, _, err := download(t, Options{}, strings.Replace(test.url, "HOST", host, 1)); err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		r := f.asked()[0]
		if r.RequestURI != test.requestURI {
			t.Errorf("%s: asked for %s, want %s", test.url, r.RequestURI, test.requestURI)
		}
		if user, password, _ := r.BasicAuth(); user != test.user || password != test.password {
			t.Errorf("%s: user %q, password %q", test.url, user, password)
		}
	}
}

func TestHTTPRedirects(t *testing.T) {
	t.Parallel()
	other := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "Cookie", "Referer"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("another host was sent %s: %s", name, v)
			}
		}
		if got := r.Header.Get("User-Agent"); got != testUserAgent {
			t.Errorf("another host was sent User-Agent %q", got)
		}
		if r.URL.Path == "/missing" {
			w.WriteHeader(404)
			return
		}
		fmt.Fprint(w, "other")
	})
	other.Start()
	same := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		left := 0
		if n, err := fmt.Sscan(r.URL.Query().Get("left"), &left); n == 1 && err == nil && left > 0 {
			to = fmt.Sprintf("/?left=%d", left-1)
		}
		if to == "" {
			user, password, _ := r.BasicAuth()
			fmt.Fprintf(w, "same %s %s%s", user, password, r.Header.Get("Referer"))
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "secret"})
		http.Redirect(w, r, to, http.StatusFound)
	})
	same.Start()
	plain := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
		t.Error("https went to http")
	})
	plain.Start()
	secure := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+"/?token=secret", http.StatusFound)
	})
	secure.StartTLS()

	login := strings.Replace(same.URL, "://", "://user:password@", 1)
	to := func(to string) string { return login + "/?to=" + url.QueryEscape(to) }
	for _, test := range []struct{ name, url, want, wantErr string }{
		{"same host", to("/elsewhere"), "same user password", ""},
		{"ten", login + "/?left=10", "same user password", ""},
		{"eleven", login + "/?left=11", "", "more than 10 redirects"},
		{"in a circle", to("?to=%3Fto"), "same user password", ""},
		{"other host", to(other.URL), "other", ""},
		{"other name of the host", to(strings.Replace(same.URL, "127.0.0.1", "localhost", 1)), "same  ", ""},
		{"missing", to(other.URL + "/missing?token=secret"), "", "404 Not Found (redirected to " + other.URL + "/missing?token=REDACTED)"},
		{"file", to("file:///etc/passwd"), "", `redirected to a URL of scheme "file"`},
		{"s3", to("s3://bucket/key"), "", `redirected to a URL of scheme "s3"`},
		{"malformed", to("/%zz?token=secret"), "", "redirected to a malformed URL"},
		{"https to http", secure.URL, "", "redirected from https to http: " + plain.URL + "/?token=REDACTED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, err := newSource(test.url, Options{Version: testVersion})
			if err != nil {
				t.Fatal(err)
			}
			s.(*httpSource).transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			defer s.close()
			o, err := s.open(t.Context(), 0, -1, "")
			if err != nil {
				if err.Error() != test.wantErr {
					t.Errorf("error %v, want %s", err, test.wantErr)
				}
				return
			}
			defer o.body.Close()
			got, err := io.ReadAll(o.body)
			if err != nil || string(got) != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
	t.Run("not retried", func(t *testing.T) {
		t.Parallel()
		_, logged, err := download(t, quick(5), to("file:///etc/passwd?token=secret"))
		if err == nil || strings.Contains(logged, "attempt") {
			t.Errorf("error %v, log:\n%s", err, logged)
		}
	})
}

// TestHTTPNoSecrets looks for secrets of URLs in errors and in the log.
func TestHTTPNoSecrets(t *testing.T) {
	t.Parallel()
	f := serve(t, []byte("content"), func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/503":
			w.WriteHeader(503)
		case "/redirect":
			http.Redirect(w, r, "http://user:s3cret@127.0.0.1:1/?X-Amz-Signature=s3cret", http.StatusFound)
		case "/location":
			w.Header().Set("Location", "http://user:s3cret@[::1/%zz?sig=s3cret")
			w.WriteHeader(302)
		case "/relative":
			w.Header().Set("Location", "/%zz?sig=s3cret")
			w.WriteHeader(302)
		case "/cut":
			w.Header().Set("Content-Length", "10")
			http.NewResponseController(w).Flush()
			abort()
		default:
			return false
		}
		return true
	})
	host := strings.TrimPrefix(f.URL, "http://")
	for _, u := range []string{
		"http://user:s3cret@HOST/503?token=s3cret&X-Amz-Signature=s3cret",
		"http://s3cret@HOST/503",
		"http://user:s3cret@HOST/redirect#access_token=s3cret",
		"http://user:s3cret@HOST/location",
		"http://user:s3cret@HOST/relative",
		"http://user:s3cret@HOST/cut?X-Goog-Signature=s3cret",
		"http://user:s3cret@HOST/",
		"http://user:s3cret@127.0.0.1:1/?sig=s3cret",
		"http://user:s3cret@127.0.0.1:99999/?sig=s3cret",
		"http://user:s3cret@/",
		"http://user:s3cret/@HOST/",
		"http://user:s3cret@HOST/%zz",
		"http://user:s3cret\"@HOST/",
		"http://user:s3cret@HOST/a b?sig=s3cret",
		"http://user:s3cret@HOST/a\"b?sig=s3cret",
		"http://user:s3cret@HOST/\x7f",
		"ftp://user:s3cret@HOST/?sig=s3cret",
		"s3://user:s3cret@HOST",
		"gs://user:s3cret@?token=s3cret",
		"file://user:s3cret@HOST/?token=s3cret",
	} {
		_, logged, err := download(t, quick(1), strings.Replace(u, "HOST", host, 1))
		if strings.Contains(fmt.Sprint(err), "s3cret") {
			t.Errorf("%s: error %v", u, err)
		}
		if strings.Contains(logged, "s3cret") {
			t.Errorf("%s: log:\n%s", u, logged)
		}
	}
}

func TestHTTPTimings(t *testing.T) {
	t.Parallel()
	f := serve(t, random(13, 1000), nil)
	_, logged, err := download(t, Options{}, f.URL+"/?token=secret")
	if err != nil {
		t.Fatal(err)
	}
	line := ""
	for l := range strings.Lines(logged) {
		if strings.Contains(l, "[DEBUG]") {
			line = l
		}
	}
	_, line, _ = strings.Cut(line, "[DEBUG] ")
	var dns, connect, handshake, first, transfer, total time.Duration
	line = strings.NewReplacer(", ", " ", "µ", "u").Replace(strings.TrimSpace(line))
	fields := strings.Fields(line)
	var durations []time.Duration
	for _, f := range fields {
		if d, err := time.ParseDuration(f); err == nil {
			durations = append(durations, d)
		}
	}
	if len(durations) != 6 || !strings.HasPrefix(line, "GET "+f.URL+"/?token=REDACTED: 200 OK: DNS ") {
		t.Fatalf("the log has %q", line)
	}
	dns, connect, handshake, first, transfer, total = durations[0], durations[1], durations[2], durations[3], durations[4], durations[5]
	if sum := dns + connect + handshake + first + transfer; sum > total || total > time.Minute || connect <= 0 || first <= 0 || transfer <= 0 {
		t.Errorf("the log has %q", line)
	}
}

// TestHTTPEnvironment runs itself in new processes, since net/http and
// crypto/x509 read the environment only once.
func TestHTTPEnvironment(t *testing.T) {
	t.Parallel()
	if urls, ok := os.LookupEnv("STRETCHER_TEST_URLS"); ok {
		for _, u := range strings.Fields(urls) {
			got, _, err := download(t, Options{}, u)
			fmt.Printf("%s: %q, %v\n", u, got, err)
		}
		return
	}
	proxy := quietServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprintf(w, "proxied %s", r.RequestURI)
	})
	proxy.Start()
	secure := quietServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "secure %s", r.Proto) })
	secure.EnableHTTP2 = true
	secure.StartTLS()
	direct := quietServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "direct %s", r.RequestURI) })
	direct.Start()
	// net/http never uses a proxy for 127.0.0.1.
	directURL := strings.Replace(direct.URL, "127.0.0.1", "0.0.0.0", 1)
	ca := writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))

	for _, test := range []struct {
		name string
		env  []string
		want map[string]string
	}{
		{"all", []string{"HTTP_PROXY=" + proxy.URL, "HTTPS_PROXY=" + proxy.URL, "NO_PROXY=0.0.0.0", "SSL_CERT_FILE=" + ca}, map[string]string{
			"http://stretcher.invalid/a":  `"proxied http://stretcher.invalid/a", <nil>`,
			"https://stretcher.invalid/a": `"", fetch https://stretcher.invalid/a: proxy: 418 I'm a teapot`,
			directURL:                     `"direct /", <nil>`,
			secure.URL:                    `"secure HTTP/1.1", <nil>`,
		}},
		{"bad", []string{"HTTP_PROXY=http://user:s3cret@127.0.0.1:1"}, map[string]string{
			"http://stretcher.invalid/a": `"", fetch http://stretcher.invalid/a: proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused`,
			secure.URL:                   `"", fetch ` + secure.URL + `: tls: failed to verify certificate: x509: certificate signed by unknown authority`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHTTPEnvironment$")
			for _, e := range os.Environ() {
				if name, _, _ := strings.Cut(strings.ToUpper(e), "="); !strings.HasSuffix(name, "_PROXY") && name != "SSL_CERT_FILE" {
					cmd.Env = append(cmd.Env, e)
				}
			}
			urls := slices.Collect(maps.Keys(test.want))
			cmd.Env = append(append(cmd.Env, "STRETCHER_TEST_URLS="+strings.Join(urls, " ")), test.env...)
			out, err := cmd.CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("s3cret")) {
				t.Errorf("%v, output:\n%s", err, out)
			}
			for u, want := range test.want {
				if !bytes.Contains(out, []byte(u+": "+want)) {
					t.Errorf("want %s: %s, got:\n%s", u, want, out)
				}
			}
		})
	}
}

func TestParseContentRange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in           string
		offset, size int64
		ok           bool
	}{
		{"bytes 0-9/10", 0, 10, true},
		{"bytes 5-9/10", 5, 10, true},
		{"bytes 5-7/10", 5, 10, true},
		{"bytes 5-9/*", 5, -1, true},
		{"bytes 9223372036854775806-9223372036854775806/9223372036854775807", 1<<63 - 2, 1<<63 - 1, true},
		{"", 0, 0, false},
		{"bytes", 0, 0, false},
		{"bytes */10", 0, 0, false},
		{"bytes 5-10/10", 0, 0, false},
		{"bytes 5-4/10", 0, 0, false},
		{"bytes -5-9/10", 0, 0, false},
		{"bytes 5-9", 0, 0, false},
		{"bytes 5/10", 0, 0, false},
		{"bytes 5-9/10 ", 0, 0, false},
		{"bytes 5-9/99999999999999999999", 0, 0, false},
		{"items 5-9/10", 0, 0, false},
	} {
		offset, size, err := parseContentRange(test.in)
		if offset != test.offset || size != test.size || (err == nil) != test.ok {
			t.Errorf("%q: %d, %d, %v", test.in, offset, size, err)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 5-9/10", "bytes 5-9/*", "bytes */10", "bytes 5-9/-1", "bytes 0-0/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		offset, size, err := parseContentRange(s)
		if err != nil {
			if offset != 0 || size != 0 {
				t.Errorf("%q: %d, %d, %v", s, offset, size, err)
			}
			return
		}
		if offset < 0 || size < -1 || size >= 0 && offset >= size {
			t.Errorf("%q: offset %d, size %d", s, offset, size)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in          string
		least, most time.Duration
	}{
		{"", 0, 0},
		{"0", 0, 0},
		{"5", 5 * time.Second, 5 * time.Second},
		{"-5", 0, 0},
		{"1.5", 0, 0},
		{"soon", 0, 0},
		{"99999999999999999999", maxRetryAfter, math.MaxInt64},
		{"Mon, 02 Jan 2006 15:04:05 GMT", 0, 0},
		{time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 58 * time.Minute, time.Hour},
	} {
		if got := retryAfter(test.in); got < test.least || got > test.most {
			t.Errorf("%q: %s, want between %s and %s", test.in, got, test.least, test.most)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"5", "-1", "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 9999 15:04:05 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s); d < 0 {
			t.Errorf("%q: %s", s, d)
		}
	})
}

func TestHTTPValidator(t *testing.T) {
	t.Parallel()
	const modified, second, minute = "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 2006 15:04:06 GMT", "Mon, 02 Jan 2006 15:05:05 GMT"
	for _, test := range []struct{ tag, modified, date, want string }{
		{`"strong"`, modified, minute, `"strong"`},
		{`W/"weak"`, modified, minute, modified},
		{``, modified, minute, modified},
		{``, modified, second, modified},
		{``, modified, modified, ``},
		{``, minute, modified, ``},
		{``, modified, ``, ``},
		{``, `yesterday`, minute, ``},
		{`W/"weak"`, ``, minute, ``},
		{`unquoted`, ``, minute, ``},
	} {
		h := http.Header{}
		h.Set("ETag", test.tag)
		h.Set("Last-Modified", test.modified)
		h.Set("Date", test.date)
		if got := httpValidator(h); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// TestHTTPLastModified resumes with the date as the validator, because the ETag
// is weak.
func TestHTTPLastModified(t *testing.T) {
	t.Parallel()
	content := random(14, 10_000)
	for _, changed := range []bool{false, true} {
		want := content
		modified := time.Now().Add(-time.Hour)
		f := serve(t, nil, func(n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("ETag", `W/"weak"`)
			if n == 0 {
				w = &limited{w, 4000, abort}
			} else if changed {
				want, modified = random(15, 10_000), modified.Add(time.Minute)
			}
			http.ServeContent(w, r, "", modified, bytes.NewReader(want))
			return true
		})
		got, _, err := download(t, quick(1), f.URL)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, want)
		if r := f.asked()[1].Header; r.Get("Range") != "bytes=4000-" || r.Get("If-Range") == "" {
			t.Errorf("second request: %v", r)
		}
	}
}
