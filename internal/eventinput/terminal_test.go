package eventinput

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
		master, terminal := openTerminal(t)
		var logged bytes.Buffer
		log.SetOutput(&logged)
		if _, err := master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		got, err := Read(t.Context(), terminal)
		if err != nil || got != want || !strings.Contains(logged.String(), "Reading a manifest URL from the terminal; end with Enter or Ctrl-D") {
			t.Errorf("%q: got %q, %v, logged %q", typed, got, err, logged.String())
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) {
		t.Errorf("%s is a terminal", os.DevNull)
	}
}

// openTerminal returns the two ends of a pseudoterminal.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}
