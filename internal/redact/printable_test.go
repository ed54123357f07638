package redact

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":                       "",
		`plain "text" \x00 'it'`: `plain "text" \x00 'it'`,
		"caf\u00e9 \u65e5\u672c\u3000\u00a0\u200d\ufffd\U0001f600": "caf\u00e9 \u65e5\u672c\u3000\u00a0\u200d\ufffd\U0001f600",
		"a\x1b[31mb\r\n\tc\x00":                          `a\x1b[31mb\r\n\tc\x00`,
		"\x7f\u0085\u009b\u2028":                         `\x7f\u0085\u009b\u2028`,
		"gpj.\u202eexe\u202c \u2066a\u2069 \u200f\u061c": `gpj.\u202eexe\u202c \u2066a\u2069 \u200f\u061c`,
		"\xff\x9b in Latin-1 \xe9":                       `\xff\x9b in Latin-1 \xe9`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: got %q, expected %q", s, got, want)
		}
	}
	// Each byte in each place of a word.
	for i := range 16 {
		for b := range 256 {
			s := []byte("0123456789abcdef")
			s[i] = byte(b)
			if got, escaped := Printable(string(s)), b < ' ' || b >= 0x7f; (got != string(s)) != escaped {
				t.Errorf("%q: got %q", s, got)
			}
		}
	}
	err := Error(errors.New("a\nhttp://u:secret@h/\x1b"))
	if want := `a\nhttp://u:REDACTED@h/\x1b`; err.Error() != want {
		t.Errorf("an error: got %q, expected %q", err, want)
	}
}

// The log keeps its lines, and progress bars in it stay readable.
func TestPrintableLines(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"\tone\r\n\x1b]0;title\a\r\ntwo": "\tone\n" + `\x1b]0;title\a` + "\ntwo",
		"10%\r20%\r\r\n":                 `10%\r20%\r` + "\n",
		"\r\n":                           "\n",
		"\r":                             `\r`,
	} {
		if got := PrintableLines([]byte(s)); string(got) != want {
			t.Errorf("%q: got %q, expected %q", s, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\xff\u202e")
	f.Add("\r\n0123456\x7f\u009b\u00e9")
	f.Fuzz(func(t *testing.T, s string) {
		lines := PrintableLines([]byte(s))
		if bytes.Count(lines, []byte("\n")) != strings.Count(s, "\n") {
			t.Errorf("%q has another number of lines: %q", s, lines)
		}
		for _, got := range []string{Printable(s), strings.NewReplacer("\n", "", "\t", "").Replace(string(lines))} {
			if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) || Printable(got) != got {
				t.Errorf("%q: got %q", s, got)
			}
			if strings.ContainsFunc(got, unsafe) {
				t.Errorf("%q: got %q", s, got)
			}
		}
		if valid := utf8.ValidString(s) && !strings.ContainsFunc(s, unsafe); valid && Printable(s) != s {
			t.Errorf("%q was changed to %q", s, Printable(s))
		}
	})
}
