package proc

import (
	"bytes"
	"fmt"
	"log"
	"strings"
	"testing"
)

// newTestWriter returns a LineWriter and the buffer that it logs to, and counts
// how often it flushes.
func newTestWriter() (w *LineWriter, logged *bytes.Buffer, flushes *int) {
	logged, flushes = new(bytes.Buffer), new(int)
	return NewLineWriter(log.New(logged, "", 0), func() { *flushes++ }), logged, flushes
}

func TestLineWriter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*maxOutputLine)
	for _, test := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"lines in pieces", []string{"a", "", "b", "\n", "\nc"}, []string{"ab", "", "c"}},
		{"nothing", []string{"", ""}, nil},
		{"bytes that are not text", []string{"\x00\xff\x1b[0m\n"}, []string{"\x00\xff\x1b[0m"}},
		{"format verbs", []string{"%s %d %%\n"}, []string{"%s %d %%"}},
		{"a long line in one write", []string{long + "\nb\n"}, []string{long, "b"}},
	} {
		var got []string
		w, logged, flushes := newTestWriter()
		for _, p := range test.writes {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("%s: wrote %d of %d bytes: %v", test.name, n, len(p), err)
			}
		}
		if *flushes != len(test.writes) {
			t.Errorf("%s: flushed %d times after %d writes", test.name, *flushes, len(test.writes))
		}
		w.Close()
		w.Close()
		if logged.Len() > 0 {
			got = strings.Split(strings.TrimSuffix(logged.String(), "\n"), "\n")
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
			t.Errorf("%s: logged %.200q, expected %.200q", test.name, got, test.want)
		}
	}
}

// A line without an end is cut, so that it does not take more memory than that.
func TestLineWriterWithoutNewline(t *testing.T) {
	t.Parallel()
	w, logged, _ := newTestWriter()
	piece := bytes.Repeat([]byte("x"), 4096)
	for range 100 {
		w.Write(piece)
		if len(w.pending) > maxOutputLine {
			t.Fatalf("%d bytes are pending", len(w.pending))
		}
	}
	w.Close()
	if got := strings.ReplaceAll(logged.String(), "\n", ""); len(got) != 100*len(piece) {
		t.Errorf("logged %d bytes of %d", len(got), 100*len(piece))
	}
}

// After Close nothing is logged, and the writer of it is not told.
func TestLineWriterClosed(t *testing.T) {
	t.Parallel()
	w, logged, flushes := newTestWriter()
	w.Write([]byte("line\nlast"))
	w.Close()
	if *flushes != 2 {
		t.Errorf("flushed %d times, expected once by Write and once by Close", *flushes)
	}
	if n, err := w.Write([]byte("late\n")); n != 5 || err != nil {
		t.Errorf("a write after Close: %d, %v", n, err)
	}
	w.Close()
	if got := logged.String(); got != "line\nlast\n" || *flushes != 2 {
		t.Errorf("logged %q, flushed %d times", got, *flushes)
	}
}
