package eventinput

import (
	"bytes"
	"log"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/ptytest"
)

// On a terminal, the log says what is awaited; Enter ends the URL, and so does Ctrl-D.
func TestReadFromTerminal(t *testing.T) {
	defer log.SetOutput(log.Writer())
	for typed, want := range map[string]string{
		someURL + "\n":        someURL,
		someURL + "\x04\x04":  someURL, // the first one hands over what was typed, the second one is the end
		"\x04":                "",
		"\n" + someURL + "\n": someURL,
	} {
		master, terminal := ptytest.Open(t)
		var logged bytes.Buffer
		log.SetOutput(&logged)
		if _, err := master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		got, err := Read(t.Context(), terminal)
		if err != nil || got != want || !strings.Contains(logged.String(), "Reading a manifest URL from the terminal; end with Enter or Ctrl-D, or pass it as an argument: stretcher URL\n") {
			t.Errorf("%q: got %q, %v, logged %q", typed, got, err, logged.String())
		}
	}
}
