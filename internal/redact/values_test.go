package redact

import "testing"

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
