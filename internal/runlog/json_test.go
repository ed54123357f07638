package runlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fujiwara/stretcher/internal/proc"
)

// decode returns the objects in lines, without their time, and fails unless each line
// is one object that has a time, a level and a message.
func decode(t *testing.T, lines []byte) []map[string]string {
	t.Helper()
	var list []map[string]string
	for line := range bytes.Lines(lines) {
		var object map[string]string
		if err := json.Unmarshal(line, &object); err != nil || !bytes.HasSuffix(line, []byte("}\n")) || !utf8.Valid(line) {
			t.Fatalf("%q: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339, object["time"]); err != nil || len(object["time"]) < len("2026-11-29T21:04:05.000Z") {
			t.Errorf("the time is %q: %v", object["time"], err)
		}
		delete(object, "time")
		if !slices.Contains(Levels, object["level"]) {
			t.Errorf("the level is %q", object["level"])
		}
		if _, ok := object["message"]; !ok {
			t.Errorf("no message: %s", line)
		}
		list = append(list, object)
	}
	return list
}

func TestJSON(t *testing.T) {
	setLogger(t, "app: ", log.LstdFlags|log.Lshortfile)
	var shown, kept bytes.Buffer
	l := New(&shown, &kept, "DEBUG", JSON)
	logger := log.New(l, log.Prefix(), log.Flags())
	print := func(text string) { logger.Output(2, text) }
	print("plain")
	print("[DEBUG] d")
	print("[INFO]  i")
	print("[WARN] w: [ERROR] <&>")
	print("[ERROR]e")
	print("two\r\nlines\n\x1b[0m\u2028\xff")
	print("https://u:S3CR3T@h/?token=S3CR3T 2026/11/29 21:04:05 x")
	l.Print("ERROR", "stretcher: no\nhint: x\n")
	stdout, stderr := proc.NewLineWriter(l.Output(Stream{"echo", "stdout"})), proc.NewLineWriter(l.Output(Stream{"echo", "stderr"}))
	list := proc.NewLineWriter(l.Output(Stream{}))
	fmt.Fprint(stdout, "one\n[ERROR] two\n\n[INFO] three\r\n")
	fmt.Fprint(stderr, "\xff https://u:S3CR3T@h/\n")
	fmt.Fprint(list, "changed\nnew\n")
	fmt.Fprint(stdout, "no newline")
	stdout.Close()
	want := []map[string]string{
		{"level": "INFO", "message": "plain"},
		{"level": "DEBUG", "message": "d"},
		{"level": "INFO", "message": " i"},
		{"level": "WARN", "message": "w: [ERROR] <&>"},
		{"level": "ERROR", "message": "e"},
		{"level": "INFO", "message": "two\nlines\n\\x1b[0m\\u2028\\xff"},
		{"level": "INFO", "message": "https://u:REDACTED@h/?token=REDACTED 2026/11/29 21:04:05 x"},
		{"level": "ERROR", "message": "stretcher: no\nhint: x"},
		{"level": "INFO", "message": "one", "command": "echo", "stream": "stdout"},
		{"level": "INFO", "message": "[ERROR] two", "command": "echo", "stream": "stdout"},
		{"level": "INFO", "message": "", "command": "echo", "stream": "stdout"},
		{"level": "INFO", "message": "[INFO] three", "command": "echo", "stream": "stdout"},
		{"level": "INFO", "message": "\\xff https://u:REDACTED@h/", "command": "echo", "stream": "stderr"},
		{"level": "INFO", "message": "changed"},
		{"level": "INFO", "message": "new"},
		{"level": "INFO", "message": "no newline", "command": "echo", "stream": "stdout"},
	}
	got := decode(t, shown.Bytes())
	if !slices.EqualFunc(got, want, maps.Equal) {
		t.Errorf("showed\n%s", shown.String())
	}
	// The hooks get text.
	for _, line := range []string{" json_test.go:", ": [WARN] w: [ERROR] <&>\n", ": [ERROR] two\n", "\nlines\n", ": changed\n"} {
		if !strings.Contains(kept.String(), line) {
			t.Errorf("kept no %q:\n%s", line, kept.String())
		}
	}
	if strings.Contains(kept.String(), "{") || strings.Contains(kept.String(), "S3CR3T") {
		t.Errorf("kept\n%s", kept.String())
	}
}

// Only what has the wanted level or above is shown.
func TestJSONLevels(t *testing.T) {
	t.Parallel()
	var shown bytes.Buffer
	l := New(&shown, new(bytes.Buffer), "WARN", JSON)
	logger := log.New(l, "", 0)
	for _, line := range []string{"plain", "[DEBUG] d", "[WARN] w", "[ERROR] e"} {
		logger.Print(line)
	}
	fmt.Fprintln(proc.NewLineWriter(l.Output(Stream{"echo", "stdout"})), "[ERROR] of a command")
	if got := decode(t, shown.Bytes()); len(got) != 2 || got[0]["message"] != "w" || got[1]["message"] != "e" {
		t.Errorf("showed\n%s", shown.String())
	}
}

// Whatever is logged, there is exactly one object in each line.
func FuzzJSON(f *testing.F) {
	f.Add([]byte("[WARN] a\r\nb\x00\xff\u2028\"\\</script>"), "echo '\xff\n\"'")
	f.Add([]byte("2026/11/29 21:04:05 [ERROR]\n\n"), "")
	f.Add([]byte("https://u:p@h/?sig=x\x7f\xed\xa0\x80"), "x")
	f.Fuzz(func(t *testing.T, text []byte, command string) {
		var shown bytes.Buffer
		l := New(&shown, new(bytes.Buffer), "DEBUG", JSON)
		log.New(l, "", log.LstdFlags).Printf("%s", text)
		if n := len(decode(t, shown.Bytes())); n != 1 {
			t.Errorf("%d objects for a message", n)
		}
		shown.Reset()
		w := proc.NewLineWriter(l.Output(Stream{command, "stderr"}))
		w.Write(text)
		w.Close()
		want := bytes.Count(text, []byte("\n"))
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			want++
		}
		if list := decode(t, shown.Bytes()); len(list) != want && len(text) < 64<<10 {
			t.Errorf("%d objects for %d lines", len(list), want)
		} else if want > 0 && list[0]["stream"] != "stderr" {
			t.Errorf("no stream: %v", list[0])
		}
	})
}
