package stretcher

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/state"
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
		{"two lines", someURL + "\n" + "file:///b\n", nil, ""},
		{"Serf", someURL + "\n", map[string]string{"SERF_EVENT": "user", "SERF_USER_LTIME": "42"}, "42"},
		{"Serf without SERF_EVENT", someURL + "\n", map[string]string{"SERF_USER_EVENT": "deploy", "SERF_USER_LTIME": "42"}, "42"},
		{"Serf query", someURL + "\n", map[string]string{"SERF_EVENT": "query", "SERF_QUERY_LTIME": "43", "SERF_USER_LTIME": "1"}, "43"},
		{"pretty-printed", "[\n  {\"ID\": \"]\"},\n  {\n    \"ID\": \"a\", \"Payload\": \"" + payload + "\"\n  }\n]", nil, "a"},
		{"trailing garbage", `[{"ID":"a","Payload":"` + payload + `"}] ]`, nil, "a"},
		{"Consul", `[{"ID":"a","Name":"deploy","Payload":"` + payload + `","LTime":3}]`, map[string]string{"CONSUL_INDEX": "14695981039346656037"}, "a"},
		{"wrong earlier events", `[5,{"Payload":"?"},{"ID":"a","Payload":"` + payload + `"}]`, nil, "a"},
		{"Consul's JSON alone", ` [{"ID":"a","Payload":"` + payload + `"}]` + "\n", nil, "a"},
		{"bare under Consul", someURL, map[string]string{"CONSUL_INDEX": "1"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"CONSUL_INDEX", "SERF_EVENT", "SERF_USER_EVENT", "SERF_USER_LTIME", "SERF_QUERY_LTIME"} {
				t.Setenv(name, "") // for it to be restored
				os.Unsetenv(name)
			}
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			e, err := readEvent(t.Context(), strings.NewReader(test.in))
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
		"":                           "stdin is empty: expected a manifest URL, as in: echo s3://bucket/app.yml | stretcher",
		" \r\n":                      "stdin is empty",
		"\ufeff":                     "stdin is empty",
		someURL + "\r" + someURL:     "more than one line",
		"commands:\n  pre: [x]":      "stdin holds a manifest, expected its URL",
		"{}":                         "an event has to be a list of Consul events",
		someURL + "\x00":             "more than one line",
		"[":                          "parse Consul events: unexpected EOF",
		`[{"Payload":"not base64"}]`: "parse Consul events: a Payload is not base64: illegal base64 data",
		`["event"]`:                  "parse Consul events: expected a list of events, [ {...} ], got a string",
		`[{"LTime":"three"}]`:        "parse Consul events: the LTime of an event is a string, expected a whole number",
		`[{"ID":"x","Name":"deploy","Payload":null}]`:   "event x of Consul has no payload: expected a manifest URL, as in: consul event -name deploy s3://",
		`[{"ID":"x","Name":"deploy","Payload":"Cg=="}]`: "event x of Consul has no payload",
		`[{"ID":"x","Payload":"YQpi"}]`:                 "more than one line",
		`[{"Payload":5}]`:                               "parse Consul events: the Payload of an event is a number, expected a string",
		`[{"ID":"x","Name":"deploy","Payload":"` + base64.StdEncoding.EncodeToString([]byte("src: S3CR3T\ncommands:\n")) + `"}]`: "event x of Consul has a payload that is not a URL: expected a manifest URL, as in: consul event -name deploy s3://",
	} {
		if _, err := readEvent(t.Context(), strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "S3CR3T") {
			t.Errorf("%q: got error %v, expected one with %q", in, err, want)
		}
	}
	for _, in := range []string{"[]", " []\n", "[ ]"} {
		if _, err := readEvent(t.Context(), strings.NewReader(in)); !errors.Is(err, ErrNoEvents) {
			t.Errorf("%q: got error %v, expected ErrNoEvents", in, err)
		}
	}
	t.Setenv("CONSUL_INDEX", "1")
	if _, err := readEvent(t.Context(), strings.NewReader("null\n")); !errors.Is(err, ErrNoEvents) {
		t.Errorf("null under Consul: got error %v, expected ErrNoEvents", err)
	}
}

// The log names the event. A name cannot forge a line of the log.
func TestEventIsLogged(t *testing.T) {
	payload := base64.StdEncoding.EncodeToString([]byte(someURL))
	t.Setenv("SERF_USER_EVENT", "") // for it to be restored
	os.Unsetenv("SERF_USER_EVENT")
	for _, test := range []struct {
		in, want string
		env      map[string]string
	}{
		{someURL, "", nil},
		{`[{"ID":"x","Payload":"` + payload + `"}]`, "Consul event ID: x\nConsul event name: , Lamport time: 0\n", nil},
		{`[{},{"ID":"b-2","Name":"deploy","Payload":"` + payload + `","LTime":3}]`, "Skipping 1 earlier event\nConsul event ID: b-2\nConsul event name: deploy, Lamport time: 3\n", nil},
		{`[{},{},{"ID":"b\n\u001b","Name":"\u202e","Payload":"` + payload + `"}]`, "Skipping 2 earlier events\nConsul event ID: b\\n\\x1b\nConsul event name: \\u202e, Lamport time: 0\n", nil},
		{someURL, "Reading Serf user event: deploy\nSerf Lamport time: 42\n", map[string]string{"SERF_EVENT": "user", "SERF_USER_EVENT": "deploy", "SERF_USER_LTIME": "42"}},
		{someURL, "Reading Serf user event: a\\nDone\n", map[string]string{"SERF_USER_EVENT": "a\nDone"}},
		{someURL, "Reading Serf query: q\nSerf Lamport time: 7\n", map[string]string{"SERF_EVENT": "query", "SERF_QUERY_NAME": "q", "SERF_QUERY_LTIME": "7"}},
		{someURL, "Reading Serf event: member-join\n", map[string]string{"SERF_EVENT": "member-join"}},
	} {
		t.Run("", func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			var err error
			logged := logOf(func() { _, err = readEvent(t.Context(), strings.NewReader(test.in)) })
			if err != nil || logged != test.want {
				t.Errorf("%q: got error %v, logged %q, expected %q", test.in, err, logged, test.want)
			}
		})
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, seed := range []string{someURL, someURL + "\r\n", "[]", "null", `[{"ID":"x","Payload":"YQ=="}]`, "\ufeff[", "{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEvent(strings.TrimSpace(string(data)), state.Event{})
		if err != nil {
			if e != nil && e.manifestURL != "" {
				t.Errorf("got the URL %q and %v", e.manifestURL, err)
			}
			return
		}
		if e.manifestURL == "" || e.manifestURL != strings.TrimSpace(e.manifestURL) || strings.ContainsAny(e.manifestURL, "\r\n\x00") {
			t.Errorf("got the URL %q", e.manifestURL)
		}
		if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) && !bytes.Contains(data, []byte(e.manifestURL)) {
			t.Errorf("made the URL %q of %q", e.manifestURL, data)
		}
	})
}
