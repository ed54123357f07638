package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	at := time.Date(2026, 11, 29, 21, 30, 0, 0, time.UTC)
	for _, deployment := range []Deployment{
		{Time: at, Event: &Event{Consul, "deploy", "1f3a"}, Manifest: "https://h/a.yml?a=b&c=d", Checksum: "e084", Dest: "/srv/app", Strategy: "builtin", Result: Success, Duration: 1.5, Bytes: 42},
		{Time: at, Manifest: "https://h/a.yml", Result: Failure, Error: "fetch <it>", DestUnknown: true},
	} {
		if _, err := d.Record(deployment); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"time":"2026-11-29T21:30:00Z","event":{"kind":"consul","name":"deploy","id":"1f3a"},"manifest":"https://h/a.yml?a=b&c=d","checksum":"e084","dest":"/srv/app","strategy":"builtin","result":"success","duration":1.5,"bytes":42}
{"time":"2026-11-29T21:30:00Z","manifest":"https://h/a.yml","result":"failure","error":"fetch <it>","duration":0,"bytes":0}
`
	if got := d.readAll(t, "history.jsonl"); got != want {
		t.Errorf("the history is\n%swant\n%s", got, want)
	}
}

// A kill, a power cut or a full disk may leave a part of a line.
func TestHistoryIsRepaired(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.record(t, Event{}, Success)
	line := d.readAll(t, "history.jsonl")
	line = line[:strings.Index(line, `"duration"`)]
	foreign := strings.Repeat("x", 2*maxLine)
	for left, want := range map[string]string{
		"":                           "",
		"{}\n":                       "{}\n",
		line:                         "",
		"{":                          "",
		"{}\n{}\n" + line:            "{}\n{}\n",
		"{}\n" + "\x00\x00\x00":      "{}\n",
		"\n":                         "\n",
		foreign:                      foreign + "\n", // not a history, so nothing of it is removed
		"{}\n" + foreign[:maxLine]:   "{}\n" + foreign[:maxLine] + "\n",
		"{}\n" + foreign[:maxLine-1]: "{}\n",
	} {
		d.write(t, "history.jsonl", left)
		d.record(t, Event{}, Success)
		got := d.readAll(t, "history.jsonl")
		if rest, ok := strings.CutPrefix(got, want); !ok || strings.Count(rest, "\n") != 1 || !json.Valid([]byte(rest)) {
			t.Errorf("after %.40q it is %.100q", left, got)
		}
	}
}

// The history is cut to its newest lines, whole ones, when it has grown to 2 MiB.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	long := strings.Repeat(`"\`, maxText) // is escaped
	const lines = 250
	largest, shrunk := 0, 0
	var last string
	for i := range lines {
		if err := d.appendHistory(Deployment{Manifest: fmt.Sprint(i), Error: long, Dest: long}.Shortened()); err != nil {
			t.Fatal(err)
		}
		got := d.readAll(t, "history.jsonl")
		if len(got) < len(last) {
			shrunk++
			if len(got) < keptHistory-maxLine || len(got) > keptHistory {
				t.Fatalf("it is cut to %d bytes", len(got))
			}
		}
		last, largest = got, max(largest, len(got))
	}
	if largest > maxHistory || shrunk < 2 {
		t.Errorf("it had up to %d bytes, and shrank %d times", largest, shrunk)
	}
	left := strings.Split(strings.TrimSuffix(last, "\n"), "\n")
	for i, line := range left {
		var deployment Deployment
		if err := json.Unmarshal([]byte(line), &deployment); err != nil {
			t.Fatalf("%v: %.100s", err, line)
		}
		if want := fmt.Sprint(lines - len(left) + i); deployment.Manifest != want {
			t.Fatalf("line %d is %s, want %s", i, deployment.Manifest, want)
		}
		if want := long[:maxText] + "..."; deployment.Error != want {
			t.Fatalf("the error has %d bytes, want %d", len(deployment.Error), len(want))
		}
	}
}

func TestNewestLines(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		data string
		size int
		want string
	}{
		{"a\nbb\nccc\n", 9, "a\nbb\nccc\n"},
		{"a\nbb\nccc\n", 8, "bb\nccc\n"},
		{"a\nbb\nccc\n", 7, "bb\nccc\n"},
		{"a\nbb\nccc\n", 6, "ccc\n"},
		{"a\nbb\nccc\n", 4, "ccc\n"},
		{"a\nbb\nccc\n", 3, ""},
		{"a\nbb\nccc\n", 0, ""},
		{"a\nbb\nccc\n", -5, ""},
		{"", 0, ""},
	} {
		if got := newestLines([]byte(test.data), test.size); string(got) != test.want {
			t.Errorf("%q in %d: %q, want %q", test.data, test.size, got, test.want)
		}
	}
}

// Whatever was in the file, the line is appended whole, and lines before it stay.
func FuzzHistory(f *testing.F) {
	f.Add([]byte("{}\n{"))
	f.Add([]byte("\n\n"))
	f.Add(bytes.Repeat([]byte("x"), 100))
	f.Fuzz(func(t *testing.T, left []byte) {
		d := newDir(t)
		d.write(t, "history.jsonl", string(left))
		if err := d.appendHistory(Deployment{Result: Success}); err != nil {
			t.Fatal(err)
		}
		got := d.readAll(t, "history.jsonl")
		whole := left[:bytes.LastIndexByte(left, '\n')+1]
		if rest, ok := strings.CutPrefix(got, string(whole)); !ok || strings.Count(rest, "\n") != 1 || !json.Valid([]byte(rest)) {
			t.Errorf("after %q it is %q", left, got)
		}
	})
}
