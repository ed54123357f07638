package stretcher

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

const someURL = "s3://example.com/deploy.yml"

func TestParseEvent(t *testing.T) {
	payload := base64.StdEncoding.EncodeToString([]byte(someURL + "\n"))
	for _, test := range []struct {
		name, in string
		env      map[string]string
		id       string
	}{
		{"bare", someURL, nil, ""},
		{"newline", someURL + "\n", nil, ""},
		{"CRLF", someURL + "\r\n", nil, ""},
		{"blanks", "\n \t" + someURL + " \n\n", nil, ""},
		{"byte order mark", "\ufeff" + someURL + "\n", nil, ""},
		{"Serf", someURL + "\n", map[string]string{"SERF_EVENT": "user", "SERF_USER_LTIME": "42"}, "42"},
		{"Consul", `[{"ID":"a","Name":"deploy","Payload":"` + payload + `","LTime":3}]`, map[string]string{"CONSUL_INDEX": "14695981039346656037"}, "a"},
		{"Consul's JSON alone", ` [{"ID":"a","Payload":"` + payload + `"}]` + "\n", nil, "a"},
		{"bare under Consul", someURL, map[string]string{"CONSUL_INDEX": "1"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"CONSUL_INDEX", "SERF_USER_LTIME"} {
				t.Setenv(name, "") // for it to be restored
				os.Unsetenv(name)
			}
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			e, err := parseEvent([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if e.manifestURL != someURL || e.id != test.id {
				t.Errorf("got URL %q and ID %q, expected %q and %q", e.manifestURL, e.id, someURL, test.id)
			}
		})
	}
}

func TestParseEventErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "stdin is empty: expected a manifest URL",
		" \r\n":                      "stdin is empty",
		"\ufeff":                     "stdin is empty",
		someURL + "\n" + someURL:     "more than one line",
		someURL + "\x00":             "more than one line",
		"[":                          "parse Consul events: unexpected EOF",
		`[{"Payload":"not base64"}]`: "parse Consul events: illegal base64 data",
		`["event"]`:                  "parse Consul events: json: cannot unmarshal string",
		`[{"ID":"x","Name":"deploy","Payload":null}]`:   "event x of Consul has no payload: expected a manifest URL, as in: consul event -name deploy s3://",
		`[{"ID":"x","Name":"deploy","Payload":"Cg=="}]`: "event x of Consul has no payload",
		`[{"ID":"x","Payload":"YQpi"}]`:                 "more than one line",
	} {
		if _, err := parseEvent([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, expected one with %q", in, err, want)
		}
	}
	for _, in := range []string{"[]", " []\n", "[ ]"} {
		if _, err := parseEvent([]byte(in)); !errors.Is(err, ErrNoEvents) {
			t.Errorf("%q: got error %v, expected ErrNoEvents", in, err)
		}
	}
	t.Setenv("CONSUL_INDEX", "1")
	if _, err := parseEvent([]byte("null\n")); !errors.Is(err, ErrNoEvents) {
		t.Errorf("null under Consul: got error %v, expected ErrNoEvents", err)
	}
}

func TestReadEvent(t *testing.T) {
	ctx := t.Context()
	if e, err := readEvent(ctx, iotest.OneByteReader(strings.NewReader(someURL+"\n"))); err != nil || e.manifestURL != someURL {
		t.Errorf("byte by byte: got %v, %v", e, err)
	}
	broken := errors.New("broken")
	if _, err := readEvent(ctx, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken stdin: got %v", err)
	}
	endless := io.MultiReader(strings.NewReader("["), zeros{})
	if _, err := readEvent(ctx, endless); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("endless stdin: got %v", err)
	}
	r, w := io.Pipe() // nobody ever writes to
	defer w.Close()
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(stopped)
	if _, err := readEvent(ctx, r); !errors.Is(err, stopped) {
		t.Errorf("cancelled: got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func FuzzParseEvent(f *testing.F) {
	for _, seed := range []string{someURL, someURL + "\r\n", "[]", "null", `[{"ID":"x","Payload":"YQ=="}]`, "\ufeff[", "{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEvent(data)
		if (e == nil) == (err == nil) {
			t.Fatalf("got %v and %v", e, err)
		}
		if e != nil && (e.manifestURL == "" || e.manifestURL != strings.TrimSpace(e.manifestURL) || strings.ContainsAny(e.manifestURL, "\r\n\x00")) {
			t.Errorf("got the URL %q", e.manifestURL)
		}
		if e != nil && !bytes.HasPrefix(bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff"))), []byte("[")) && !bytes.Contains(data, []byte(e.manifestURL)) {
			t.Errorf("made the URL %q of %q", e.manifestURL, data)
		}
	})
}
