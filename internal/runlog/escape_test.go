package runlog

import (
	"bytes"
	"log"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                           "",
		"plain, äöü 日本語 \\x":         "plain, äöü 日本語 \\x",
		"a\nb\tc\r":                  `a\nb\tc\r`,
		"\x00\a\x1b[31mred\x7f":      `\x00\a\x1b[31mred\x7f`,
		"\u0085\u009b":               `\u0085\u009b`,
		"\x85\x9b é in Latin-1 \xe9": `\x85\x9b é in Latin-1 ` + "\xe9",
		"gpj.\u202eexe\u202c":        `gpj.\u202eexe\u202c`,
		"\u2066a\u2069 \u200f":       `\u2066a\u2069 ` + "\u200f",
		"\ufffd":                     "\ufffd",
	} {
		if got := Escape(in); got != want {
			t.Errorf("%q: got %q, expected %q", in, got, want)
		}
	}
}

// Lines of the log are escaped, be they messages or the output of commands. Those of
// a progress bar stay readable.
func TestLogEscapes(t *testing.T) {
	t.Parallel()
	var shown, kept bytes.Buffer
	l := New(&shown, &kept, "")
	log.New(l, "", 0).Print("two\r\nlines\r\n\tof \x1b]0;title\a")
	output, flush := l.Output()
	output.SetFlags(0)
	output.Print("\x1b[32mgreen\x1b[0m\r")
	output.Print("10%\r20%\r\r")
	flush()
	const want = "two\nlines\n\tof \\x1b]0;title\\a\n\\x1b[32mgreen\\x1b[0m\n10%\\r20%\\r\n"
	if shown.String() != want || kept.String() != want {
		t.Errorf("showed %q, kept %q, expected %q", shown.String(), kept.String(), want)
	}
}

func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"a\r\n", "\x9b\u202e\xff", "ä\x1b", "\\x1b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for name, got := range map[string]string{"Escape": Escape(in), "escapeLines": strings.NewReplacer("\n", "", "\t", "").Replace(string(escapeLines([]byte(in))))} {
			for i := 0; i < len(got); {
				r, size := utf8.DecodeRuneInString(got[i:])
				if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == utf8.RuneError && size == 1 && got[i] < 0xa0 {
					t.Fatalf("%s of %q has %q", name, in, got[i:i+size])
				}
				i += size
			}
			if again := Escape(got); again != got {
				t.Errorf("%s of %q: %q becomes %q", name, in, got, again)
			}
		}
		if lines := escapeLines([]byte(in)); bytes.Count(lines, []byte("\n")) != strings.Count(in, "\n") {
			t.Errorf("%q has another number of lines: %q", in, lines)
		}
	})
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 warnings", 1: "1 warning", 2: "2 warnings"} {
		if got := Count(n, "warning"); got != want {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
}
