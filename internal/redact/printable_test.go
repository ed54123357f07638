package redact

import (
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
		"caf\u00e9 \u65e5\u672c": "caf\u00e9 \u65e5\u672c",
		"a\x1b[31mb\r\n\tc\x00":  `a\x1b[31mb\r\n\tc\x00`,
		"\x7f\u009b\u202e\u2028": `\x7f\u009b\u202e\u2028`,
		"\xff\x9b":               `\xff\x9b`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: got %q, expected %q", s, got, want)
		}
	}
	err := Error(errors.New("a\nhttp://u:secret@h/\x1b"))
	if want := `a\nhttp://u:REDACTED@h/\x1b`; err.Error() != want {
		t.Errorf("an error: got %q, expected %q", err, want)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := Printable(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) || Printable(got) != got && utf8.ValidString(s) && !strings.ContainsRune(s, utf8.RuneError) {
			t.Errorf("%q: got %q", s, got)
		}
	})
}
