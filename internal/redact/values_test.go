package redact

import (
	"strings"
	"testing"
)

// Not parallel: hidden values are those of the process.
func TestHide(t *testing.T) {
	restore := Hide([]string{"Bearer abc.def", "abc.def/ghi", "on", `quo"ted-value`, "$"})
	for in, want := range map[string]string{
		"sent Bearer abc.def twice":           "sent REDACTED twice",
		"xabc.def/ghix":                       "xREDACTEDx",
		"on the connection, on":               "REDACTED the connection, REDACTED",
		`"quo\"ted-value"`:                    `"REDACTED"`,
		"https://h/abc.def/ghi?token=x":       "https://h/REDACTED?token=REDACTED",
		"a $ sign":                            "a REDACTED sign",
		"nothing of it: abc.de Bearer sonata": "nothing of it: abc.de Bearer sonata",
	} {
		if got := Text(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if got := URL("s3://b/abc.def/ghi"); got != "s3://b/REDACTED" {
		t.Errorf("got %s", got)
	}
	if !Needed([]byte("x")) {
		t.Error("not needed")
	}
	restore()
	if got := Text("Bearer abc.def"); got != "Bearer abc.def" || Needed([]byte("x")) {
		t.Errorf("after restore: %s", got)
	}
}

// The value of a header may have any bytes.
func TestHideWithoutUTF8(t *testing.T) {
	defer Hide([]string{"gr\xfc\xdfe-value"})()
	if got := Text("a gr\xfc\xdfe-value b"); got != "a REDACTED b" {
		t.Errorf("got %q", got)
	}
	if got := Text(`a gr\xfc\xdfe-value b`); got != "a REDACTED b" {
		t.Errorf("escaped: got %q", got)
	}
}

func FuzzHide(f *testing.F) {
	for _, s := range []string{"s3cret-value", "gr\xfc\xdfe-value", `a\b"c\Qd\E`, "(", "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.Contains(placeholder, value) {
			return
		}
		defer Hide([]string{value})()
		if got := Text(value); strings.Contains(got, value) {
			t.Errorf("%q stays in %q", value, got)
		}
	})
}
