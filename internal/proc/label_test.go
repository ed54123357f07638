package proc

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLabel(t *testing.T) {
	t.Parallel()
	x := strings.Repeat("x", maxLabel-1)
	for command, want := range map[string]string{
		"echo one":                     "echo one",
		"echo one\n":                   "echo one",
		"\n\n  set -e\necho one\n\n":   "set -e (and 1 more line)",
		"set -e\r\necho 1\r\n\r\nexit": "set -e (and 3 more lines)",
		"":                             "",
		x + "y":                        x + "y",
		x + "yz":                       x + "y...",
		x + "\u00e9":                   x + "...",
		x + "\xff\xff":                 x + "\xff...",
		x + "yz\nexit":                 x + "y... (and 1 more line)",
	} {
		if got := Label(command); got != want {
			t.Errorf("%.40q: got %q, expected %q", command, got, want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	f.Add("set -e\necho one\n")
	f.Add(strings.Repeat("\u00e9", maxLabel))
	f.Fuzz(func(t *testing.T, command string) {
		got := Label(command)
		if strings.Contains(got, "\n") || len(got) > maxLabel+len("... (and 1234567 more lines)") {
			t.Errorf("%q: got %q", command, got)
		}
		if utf8.ValidString(command) && !utf8.ValidString(got) {
			t.Errorf("%q: got %q, which is not UTF-8", command, got)
		}
	})
}
