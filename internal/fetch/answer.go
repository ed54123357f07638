package fetch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fujiwara/stretcher/internal/redact"
)

const (
	// maxErrorBody is how many bytes of the body of an error are read.
	maxErrorBody = 64 << 10
	// errorBodyTime is how long that may take.
	errorBodyTime = 2 * time.Second
	// maxReason is how many bytes of a reason are shown.
	maxReason = 200
)

// readError reads the body of an error, within bounds of size and time, and
// puts what it has read in the body's place. What has arrived before the body
// broke off is still worth showing.
func readError(resp *http.Response) []byte {
	late := time.AfterFunc(errorBodyTime, func() { resp.Body.Close() })
	defer late.Stop()
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body, resp.ContentLength = errorBody{bytes.NewReader(body), body}, int64(len(body))
	return body
}

// errorBody is the body of an error that has been read.
type errorBody struct {
	*bytes.Reader
	all []byte
}

func (errorBody) Close() error { return nil }

// readReason returns the reason that the body of an error gives, "" where it
// gives none. The body may have been read by boundedErrors and its client.
func readReason(resp *http.Response) string {
	body, read := resp.Body.(errorBody)
	if !read {
		body.all = readError(resp)
	}
	return reason(resp.Header.Get("Content-Type"), body.all)
}

// boundedErrors is a transport for the clients of the vendors, which would read
// the body of an error to its end, whatever its size and however long it takes.
type boundedErrors struct{ http.RoundTripper }

func (t boundedErrors) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode >= 300 {
		readError(resp)
	}
	return resp, err
}

// withReason adds to the error of a request the reason that its answer gives.
func withReason(err error, reason string) error {
	if reason == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, reason)
}

// reason returns what the body of an error says: its code and message, where it
// is XML or JSON of a usual form, the title of an HTML page, or the first line
// of a text.
func reason(contentType string, body []byte) string {
	text := strings.TrimSpace(strings.TrimPrefix(string(body), "\ufeff"))
	kind, _, _ := mime.ParseMediaType(contentType)
	switch {
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "["):
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			return ""
		}
		text = jsonReason(value)
	case strings.HasPrefix(text, "<"):
		text = markupReason(text)
	case kind != "" && !strings.HasPrefix(kind, "text/"):
		return "" // not meant to be read
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return ""
	default:
		text, _, _ = strings.Cut(text, "\n")
	}
	return textReason(text)
}

// textReason returns a text from elsewhere as one short line without secrets. Servers
// repeat the path and the query of a request, which redact.Text does not find.
func textReason(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if path, _, ok := strings.Cut(word, "?"); ok && !strings.Contains(path, "://") {
			words[i] = redact.URL(word)
		}
	}
	return shorten(redact.Printable(redact.Text(strings.Join(words, " "))))
}

// markupReason returns the code and message of the XML of S3, GCS and Azure, or
// the title of an HTML page.
func markupReason(text string) string {
	var answer struct {
		XMLName xml.Name
		Code    string
		Message string
		Details string
	}
	if xml.Unmarshal([]byte(text), &answer) == nil && answer.XMLName.Local == "Error" {
		return joinReason(answer.Code, cmp.Or(answer.Message, answer.Details))
	}
	if title := htmlTitle().FindStringSubmatch(text); title != nil {
		return title[1]
	}
	return ""
}

// htmlTitle is compiled when it is needed, to start faster.
var htmlTitle = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?is)<title[^>]*>([^<]*)</title>`) })

// jsonReason returns the code and message of an error in JSON: in the value
// itself, in its member "error" or "errors", or in the first element of a list.
func jsonReason(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case []any:
		if len(value) > 0 {
			return jsonReason(value[0])
		}
	case map[string]any:
		// The names of members are compared without regard to case.
		members := map[string]any{}
		for name, member := range value {
			members[strings.ToLower(name)] = member
		}
		code, _ := members["code"].(string)
		short, _ := members["error"].(string) // beside a longer message (RFC 6749, section 5.2)
		for _, name := range []string{"message", "error_description", "detail", "error", "errors", "title"} {
			if message := jsonReason(members[name]); message != "" {
				return joinReason(cmp.Or(code, short), message)
			}
		}
		return code
	}
	return ""
}

func joinReason(code, message string) string {
	if code == "" || message == "" || strings.HasPrefix(message, code) {
		return cmp.Or(message, code)
	}
	return code + ": " + message
}

// shorten cuts a text to maxReason bytes, between characters.
func shorten(text string) string {
	if len(text) <= maxReason {
		return text
	}
	const dots = "..."
	end := maxReason - len(dots)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// httpStatusError returns the error for an answer. It is permanent unless
// another attempt may get a better one: after 408, 429 and 5xx, and after 404,
// because an event may arrive before the upload of its object is complete.
func httpStatusError(err error, code int, h http.Header) error {
	switch {
	case code == http.StatusNotFound:
		return missingError{err}
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return busyError{err, retryAfter(h.Get("Retry-After"))}
	}
	return permanent(err)
}

// retryAfter reads a Retry-After header, which has seconds or a date (RFC 9110,
// section 10.2.3). It returns 0 where that is missing, malformed or in the past.
func retryAfter(s string) time.Duration {
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) { // out of range: seconds is the largest value
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
