package eventinput

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const someURL = "s3://example.com/deploy.yml"

// pretty is a list of events as a person would write it, with all that makes it
// hard to find its end.
const pretty = "[\n  {\"ID\": \"]}\", \"Name\": \"\\\"]\\\\\"},\n  {\"Payload\": [[{}], []]}\n]"

// open is an input whose sender keeps it open: after text, it blocks until the
// test ends.
func open(t *testing.T, text string) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return io.MultiReader(strings.NewReader(text), r)
}

// An event is complete before the end of stdin.
func TestReadFromOpenInput(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		someURL + "\n":                 someURL,
		someURL + "\r\n":               someURL,
		"\n \t\r\n\n" + someURL + "\n": someURL,
		"\ufeff" + someURL + "\n":      someURL,
		"null\n":                       "null",
		"[]":                           "[]",
		" []\n":                        "[]",
		"\ufeff\n[]":                   "[]",
		pretty:                         pretty,
		"\n\n" + pretty + "\n":         pretty,
		"[}":                           "[}", // not JSON, which its parser will say
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for name, r := range map[string]io.Reader{"at once": open(t, in), "byte by byte": iotest.OneByteReader(open(t, in))} {
			if got, err := Read(ctx, r); err != nil || got != want {
				t.Errorf("%q, %s: got %q, %v, expected %q", in, name, got, err, want)
			}
		}
		cancel()
	}
}

// What has no newline is complete at the end of stdin.
func TestReadToEnd(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "\n \n": "", "\ufeff": "", "\xef\xbb": "\xef\xbb",
		someURL: someURL, " " + someURL + " ": someURL, `[{"ID":`: `[{"ID":`,
	} {
		if got, err := Read(t.Context(), strings.NewReader(in)); err != nil || got != want {
			t.Errorf("%q: got %q, %v, expected %q", in, got, err, want)
		}
	}
}

// What follows the event is ignored, with a warning where it arrived with it.
func TestReadFollowed(t *testing.T) {
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&logged)
	for in, warns := range map[string]bool{
		someURL + "\nfile:///b.yml\n":     true,
		someURL + "\n" + "x":              true,
		someURL + "\n\r\n \n":             false,
		someURL + "\n":                    false,
		"[] []":                           true,
		"[]\n\n":                          false,
		pretty + "]":                      true,
		"\n\n" + someURL + "\r\nsecond\n": true,
	} {
		logged.Reset()
		if _, err := Read(t.Context(), strings.NewReader(in)); err != nil || strings.Contains(logged.String(), "[WARN] ignored what follows") != warns {
			t.Errorf("%q: got error %v, logged %q", in, err, logged.String())
		}
		if strings.Contains(logged.String(), "file:") {
			t.Errorf("%q: the log quotes it: %s", in, logged.String())
		}
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if _, err := Read(t.Context(), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken stdin: got %v", err)
	}
	for _, first := range []string{"[", "a", ""} {
		endless := io.MultiReader(strings.NewReader(first), blanks{})
		if _, err := Read(t.Context(), endless); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
			t.Errorf("endless stdin after %q: got %v", first, err)
		}
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if _, err := Read(ctx, open(t, "")); !errors.Is(err, stopped) {
		t.Errorf("cancelled: got %v", err)
	}
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte(" "), len(p))), nil }

func TestMistake(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "stdin is empty: expected a manifest URL, as in: echo s3://bucket/app.yml | stretcher",
		`{"ID":"x","Payload":""}`: "an event has to be a list of Consul events, [ {...} ], or a URL",
		"{":                       "an event has to be a list of Consul events",
		"commands:":               "stdin holds a manifest, expected its URL: echo file:///path/to/it.yml | stretcher",
		"src: s3://b/S3CR3T.tar":  "stdin holds a manifest",
		"src:\ts3://b/S3CR3T.tar": "stdin holds a manifest",
		`"dest" : /srv/S3CR3T`:    "stdin holds a manifest",
		"sync_strategy: mv":       "stdin holds a manifest",
		"# S3CR3T":                "stdin holds a manifest",
		"---":                     "stdin holds a manifest",
		"--- # S3CR3T":            "stdin holds a manifest",
		"%YAML 1.1":               "stdin holds a manifest",
	} {
		if err := Mistake(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "S3CR3T") {
			t.Errorf("%q: got error %v, expected one with %q", in, err, want)
		}
	}
	for _, in := range []string{someURL, "file:///a", "file:/a", "HTTPS://h/?a: b", "/srv/app.yml", "hello world", "s3:b", "---x", "[]", "null"} {
		if err := Mistake(in); err != nil {
			t.Errorf("%q: got error %v", in, err)
		}
	}
}

// The end of an array is where a JSON decoder finds it.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{someURL, someURL + "\r\nx", "[]", "[] []", "null", "\ufeff[", pretty, "\n{}", `["\u005d\\\"]"] ]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text, _, err := scan(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		byBytes, _, err := scan(iotest.OneByteReader(bytes.NewReader(data)))
		if err != nil || byBytes != text {
			t.Fatalf("got %q, but %q, %v byte by byte", text, byBytes, err)
		}
		if text != strings.TrimSpace(text) {
			t.Errorf("got %q with white space around it", text)
		}
		rest := bytes.TrimLeft(bytes.TrimPrefix(data, []byte(byteOrderMark)), " \t\r\n")
		if !bytes.Contains(data, []byte(text)) {
			t.Errorf("made %q of %q", text, data)
		}
		if !bytes.HasPrefix(rest, []byte("[")) {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			if want := strings.TrimSpace(string(line)); text != want {
				t.Errorf("got %q, expected the line %q", text, want)
			}
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(rest))
		var value json.RawMessage
		if decoder.Decode(&value) == nil && text != string(value) {
			t.Errorf("got %q, expected the array %q", text, value)
		}
	})
}

func FuzzMistake(f *testing.F) {
	for _, seed := range []string{"", "{", "a: b", "---", someURL, "# x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// The errors are three fixed ones, so that they cannot quote the input.
		if err := Mistake(text); err != nil && !strings.HasPrefix(err.Error(), "stdin ") {
			t.Errorf("%q: %v", text, err)
		}
		if err := Mistake(text); strings.HasPrefix(text, "file://") && err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
