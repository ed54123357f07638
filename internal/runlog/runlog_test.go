package runlog

import (
	"bytes"
	"fmt"
	"log"
	"strings"
	"testing"
)

func TestLevelOf(t *testing.T) {
	for _, test := range []struct {
		flags        int
		prefix, line string
		level, text  string
	}{
		{log.LstdFlags, "", "", "INFO", ""},
		{log.LstdFlags, "", "2026/11/22 21:04:05 Done", "INFO", "Done"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [DEBUG] x", "DEBUG", "[DEBUG] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [INFO] x", "INFO", "[INFO] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [WARN] x", "WARN", "[WARN] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [TRACE] x", "INFO", "[TRACE] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [warn] x", "INFO", "[warn] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 invoking command: echo [DEBUG]", "INFO", "invoking command: echo [DEBUG]"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [ERROR] [DEBUG] x", "ERROR", "[ERROR] [DEBUG] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 [WARN] of a line with [ERROR] x", "WARN", "[WARN] of a line with [ERROR] x"},
		{log.LstdFlags, "", "2026/11/22 21:04:05 2026/11/22 21:04:05 12.5 MiB", "INFO", "2026/11/22 21:04:05 12.5 MiB"},
		{log.LstdFlags, "", "[WARN] x", "WARN", "[WARN] x"},
		{log.LstdFlags | log.Lmicroseconds, "", "2026/11/22 21:04:05.123456 [ERROR] x", "ERROR", "[ERROR] x"},
		{log.LstdFlags | log.Lshortfile, "", "2026/11/22 21:04:05 a.go:12: [ERROR] x", "ERROR", "[ERROR] x"},
		{log.Llongfile, "", "/a b/c.go:12: [ERROR] x: y", "ERROR", "[ERROR] x: y"},
		{log.Llongfile, "", "invoking command: [ERROR] x", "INFO", "invoking command: [ERROR] x"},
		{log.Ltime, "app: ", "app: 21:04:05 [WARN] x", "WARN", "[WARN] x"},
		{log.Ltime | log.Lmsgprefix, "app: ", "21:04:05 app: [WARN] x", "WARN", "[WARN] x"},
		{log.LUTC, "", "21:04:05 x", "INFO", "21:04:05 x"},
		{0, "", "[WARN] x", "WARN", "[WARN] x"},
		{0, "", "2026/11/22 21:04:05 x", "INFO", "2026/11/22 21:04:05 x"},
	} {
		setLogger(t, test.prefix, test.flags)
		if got := levelOf([]byte(test.line)); got != test.level {
			t.Errorf("%s: the level is %s, expected %s", test.line, got, test.level)
		}
		if got := string(message([]byte(test.line))); got != test.text {
			t.Errorf("%s: the message is %q, expected %q", test.line, got, test.text)
		}
	}
}

// setLogger sets the prefix and the flags of the standard logger until the end of the
// test.
func setLogger(t *testing.T, prefix string, flags int) {
	t.Helper()
	oldPrefix, oldFlags := log.Prefix(), log.Flags()
	t.Cleanup(func() {
		log.SetPrefix(oldPrefix)
		log.SetFlags(oldFlags)
	})
	log.SetPrefix(prefix)
	log.SetFlags(flags)
}

func FuzzLevelOf(f *testing.F) {
	f.Add("2026/11/22 21:04:05 [DEBUG] x")
	f.Add("[[ERROR]]")
	f.Fuzz(func(t *testing.T, line string) {
		if got := levelOf([]byte(line)); got != "INFO" && !strings.Contains(line, "["+got+"]") {
			t.Errorf("%q: got %s", line, got)
		}
		if got := levelOf([]byte("invoking command: " + line)); got != "INFO" {
			t.Errorf("a command %q: got %s", line, got)
		}
	})
}

func TestLevels(t *testing.T) {
	t.Parallel()
	const all = "plain\n[DEBUG] d\n[INFO] i\n[WARN] w\n[ERROR] e\n[DEBUG] of a command\n[ERROR] of it\n"
	const fromInfo = "plain\n[INFO] i\n[WARN] w\n[ERROR] e\n[DEBUG] of a command\n[ERROR] of it\n"
	for _, test := range []struct{ level, shown, kept string }{
		{"DEBUG", all, all},
		{"INFO", fromInfo, fromInfo},
		{"", fromInfo, fromInfo},
		{"debug", all, all},
		{"Warn", "[WARN] w\n[ERROR] e\n", fromInfo},
		{"unknown", fromInfo, fromInfo},
		{"WARN", "[WARN] w\n[ERROR] e\n", fromInfo},
		{"ERROR", "[ERROR] e\n", fromInfo},
	} {
		var shown bytes.Buffer
		kept := new(bytes.Buffer)
		l := New(&shown, kept, test.level, "")
		logger := log.New(l, "", 0)
		for _, line := range []string{"plain", "[DEBUG] d", "[INFO] i", "[WARN] w", "[ERROR] e"} {
			logger.Println(line)
		}
		output, flush := l.Output(Stream{})
		output.SetFlags(0)
		output.Print("[DEBUG] of a command")
		output.Print("[ERROR] of it")
		flush()
		if shown.String() != test.shown {
			t.Errorf("%s: showed %q, expected %q", test.level, shown.String(), test.shown)
		}
		if kept.String() != test.kept || l.Copy().String() != test.kept {
			t.Errorf("%s: kept %q, a copy is %q, expected %q", test.level, kept.String(), l.Copy().String(), test.kept)
		}
	}
}

// A long log keeps its beginning and its end, and says how much is missing.
func TestBound(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, keptHead + keptTail, keptHead + keptTail + 1, keptHead + keptTail + 300_000, 40 << 20} {
		var all, kept bytes.Buffer
		l := New(&all, &kept, "INFO", "")
		logger := log.New(l, "", 0)
		for n := 0; all.Len() < size; n++ {
			line := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%3000))
			logger.Print(line[:min(len(line), max(0, size-all.Len()-1))])
		}
		got := l.Copy().String()
		if kept.Len() > keptHead+keptTail+1<<20 {
			t.Errorf("%d bytes: kept %d", size, kept.Len())
		}
		want := all.String()
		if len(want) != size {
			t.Fatalf("the test logged %d bytes instead of %d", len(want), size)
		}
		if size > keptHead+keptTail {
			want = want[:keptHead] + fmt.Sprintf("\n[... %d bytes of the log left out here ...]\n", size-keptHead-keptTail) + want[size-keptTail:]
		}
		if got != want {
			t.Errorf("%d bytes: the copy has %d bytes, expected %d", size, len(got), len(want))
		}
	}
}

// Lines of the log are escaped, be they messages or the output of commands. Those of
// a progress bar stay readable.
func TestLogEscapes(t *testing.T) {
	t.Parallel()
	var shown, kept bytes.Buffer
	l := New(&shown, &kept, "", "text")
	log.New(l, "", 0).Print("two\r\nlines\r\n\tof \x1b]0;title\a")
	output, flush := l.Output(Stream{})
	output.SetFlags(0)
	output.Print("\x1b[32mgreen\x1b[0m\r")
	output.Print("10%\r20%\r\r")
	flush()
	const want = "two\nlines\n\tof \\x1b]0;title\\a\n\\x1b[32mgreen\\x1b[0m\n10%\\r20%\\r\n"
	if shown.String() != want || kept.String() != want {
		t.Errorf("showed %q, kept %q, expected %q", shown.String(), kept.String(), want)
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 warnings", 1: "1 warning", 2: "2 warnings"} {
		if got := Count(n, "warning"); got != want {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
}
