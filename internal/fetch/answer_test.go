package fetch

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fujiwara/stretcher/internal/redact"
)

func TestReason(t *testing.T) {
	t.Parallel()
	const dots = "..."
	for _, test := range []struct{ contentType, body, want string }{
		{"", "", ""},
		{"application/xml", `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message><X-Amz-Expires>60</X-Amz-Expires></Error>", "AccessDenied: Request has expired"},
		{"", "<Error><Code>SignatureDoesNotMatch</Code></Error>", "SignatureDoesNotMatch"},
		{"", "\ufeff<Error><Code>AuthenticationFailed</Code><Message>Server failed.\nRequestId:1</Message></Error>", "AuthenticationFailed: Server failed. RequestId:1"},
		{"", "<Error><Code>AccessDenied</Code><Details>No access.</Details></Error>", "AccessDenied: No access."},
		{"text/xml", "<Error><Code>A", ""},
		{"application/json", `{"error":{"code":403,"message":"no access","status":"PERMISSION_DENIED"}}`, "no access"},
		{"application/json", `{"error":{"code":"E1","message":"no access"}}`, "E1: no access"},
		{"application/json", `{"error":"invalid_grant","error_description":"expired"}`, "invalid_grant: expired"},
		{"application/json", `{"error":"invalid_grant"}`, "invalid_grant"},
		{"application/json", `{"message":"401 Unauthorized"}`, "401 Unauthorized"},
		{"application/json", `{"Message":"User is not authorized"}`, "User is not authorized"},
		{"application/json", `{"errors":[{"status":404,"message":"Not found."}]}`, "Not found."},
		{"application/problem+json", `{"title":"Gone","detail":"It was removed."}`, "It was removed."},
		{"application/json", `[{"error":{"message":"first"}},{"error":{"message":"second"}}]`, "first"},
		{"application/json", `["plain"]`, "plain"},
		{"application/json", `{"message":`, ""},
		{"application/json", `{"stack":"trace"}`, ""},
		{"application/json", `[]`, ""},
		{"text/plain; charset=utf-8", "\n  the first line \r\nthe second", "the first line"},
		{"", "sniffed\n", "sniffed"},
		{"", "binary\x00", ""},
		{"text/plain", "not \xff UTF-8", ""},
		{"application/octet-stream", "data", ""},
		{"image/png", "data", ""},
		{"text/html", "<html><head><title>\n 502 Bad\n Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway"},
		{"text/html", "<p>no title", ""},
		{"text/plain", "a\x1b[2J\u202eb\u0085c", `a\x1b[2J\u202eb c`},
		{"text/plain", "see https://u:s3cret@h/?sig=s3cret.", "see https://u:REDACTED@h/?sig=REDACTED."},
		{"text/plain", `Cannot GET "/app.yml?a=1&token=s3cret&next=http://h"`, `Cannot GET "/app.yml?a=1&token=REDACTED&next=http://h"`},
		{"text/html", "<title>/app.yml?sig=s3cret not found: why?</title>", "/app.yml?sig=REDACTED not found: why?"},
		{"text/xml", "<Error><Code>C</Code><Message>no (https://u:s3cret@h/a?x-amz-signature=s3cret)</Message></Error>", "C: no (https://u:REDACTED@h/a?x-amz-signature=REDACTED)"},
		{"text/plain", strings.Repeat("ü", 100), strings.Repeat("ü", 100)},
		{"text/plain", strings.Repeat("ü", 101), strings.Repeat("ü", 98) + dots},
		{"text/plain", "x" + strings.Repeat("日", 100), "x" + strings.Repeat("日", 65) + dots},
		{"application/json", `{"message":"` + strings.Repeat("x", 300) + `"}`, strings.Repeat("x", 197) + dots},
	} {
		if got := reason(test.contentType, []byte(test.body)); got != test.want {
			t.Errorf("%s %.100q: got %q, want %q", test.contentType, test.body, got, test.want)
		}
	}
}

func FuzzReason(f *testing.F) {
	for _, s := range []string{`{"error":{"message":"m"}}`, `[["a"]]`, "<Error><Code>C</Code></Error>", "<title>t</title>", "text\x1b[2J", "\xff", strings.Repeat("ü", 200)} {
		f.Add("", s)
		f.Add("text/plain", s)
	}
	f.Fuzz(func(t *testing.T, contentType, body string) {
		got := reason(contentType, []byte(body))
		if len(got) > maxReason || !utf8.ValidString(got) || got != redact.Printable(got) {
			t.Errorf("%q", got)
		}
	})
}

// TestErrorReason shows what an answer says, in an error that stays as permanent
// as its status is.
func TestErrorReason(t *testing.T) {
	t.Parallel()
	f := serve(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/expired":
			s3Answer(w, 403, "AccessDenied")
		case "/redirected":
			http.Redirect(w, r, "/expired?X-Amz-Signature=s3cret", http.StatusFound)
		case "/missing":
			http.NotFound(w, r)
		case "/endless":
			w.WriteHeader(500)
			fmt.Fprintln(w, "out of order")
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					break
				}
			}
		}
		return true
	})
	for path, want := range map[string]string{
		"/expired":    "403 Forbidden: AccessDenied, in words.",
		"/redirected": "403 Forbidden: AccessDenied, in words. (redirected to " + f.URL + "/expired?X-Amz-Signature=REDACTED)",
		"/missing":    "404 Not Found: 404 page not found (given up after 2 attempts)",
		"/endless":    "500 Internal Server Error (given up after 2 attempts)", // the zeros make it binary
	} {
		_, _, err := download(t, quick(1), f.URL+path)
		if fmt.Sprint(err) != "fetch "+f.URL+path+": "+want {
			t.Errorf("%s: error %v, want %s", path, err, want)
		}
	}
}

// Errors do not show more than the beginning of a status line, and headers are bounded.
func TestLongHeader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxHeader)
	f := serve(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		if r.URL.Path == "/status" {
			fmt.Fprintf(conn, "HTTP/1.1 403 %s\r\nContent-Length: 0\r\n\r\n", long[1000:])
		} else {
			fmt.Fprintf(conn, "HTTP/1.1 206 %s\r\nContent-Length: 0\r\n\r\n", long)
		}
		return true
	})
	for path, want := range map[string]string{
		"/status": ": 403 xxx",
		"/header": ": net/http: server response headers exceeded 262144 bytes; aborted",
	} {
		_, logged, err := download(t, quick(0), f.URL+path)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 || len(logged) > 1000 {
			t.Errorf("%s: error %.500v, %d bytes of log", path, err, len(logged))
		}
	}
}

// A body of an error that never ends delays the error by 2 seconds, with all
// sources.
func TestErrorBodyThatHangs(t *testing.T) {
	hang := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/storage/") {
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(403)
		io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>late</Message></Error>")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	web := serve(t, nil, hang)
	serveS3(t, nil, hang)
	serveGCS(t, nil, hang)
	start := time.Now()
	t.Run("sources", func(t *testing.T) {
		for _, url := range []string{web.URL, "s3://bucket/key", "gs://bucket/key"} {
			t.Run(url, func(t *testing.T) {
				_, _, err := download(t, Options{}, url)
				if err == nil || !strings.Contains(err.Error(), "AccessDenied: late") || !strings.Contains(err.Error(), "403") {
					t.Errorf("error %v", err)
				}
			})
		}
	})
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}
