package stretcher

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"strings"
	"testing"
)

func TestLevelOf(t *testing.T) {
	for line, want := range map[string]string{
		"":                                     "INFO",
		"2026/11/22 21:04:05 Done":             "INFO",
		"2026/11/22 21:04:05 [DEBUG] x":        "DEBUG",
		"2026/11/22 21:04:05 [INFO] x":         "INFO",
		"2026/11/22 21:04:05 [WARN] x":         "WARN",
		"2026/11/22 21:04:05.123456 [ERROR] x": "ERROR",
		"[WARN] x":                             "WARN",
		"[TRACE] x":                            "INFO",
		"[warn] x":                             "INFO",
		"2026/11/22 21:04:05 invoking command: echo [DEBUG]":  "INFO",
		"2026/11/22 21:04:05 [ERROR] [DEBUG] x":               "ERROR",
		"2026/11/22 21:04:05 [WARN] of a line with [ERROR] x": "WARN",
	} {
		if got := levelOf([]byte(line)); got != want {
			t.Errorf("%s: got %s, expected %s", line, got, want)
		}
	}
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

func TestCaptureLog(t *testing.T) {
	const all = "plain\n[DEBUG] d\n[INFO] i\n[WARN] w\n[ERROR] e\n[DEBUG] of a command\n[ERROR] of it\n"
	const fromInfo = "plain\n[INFO] i\n[WARN] w\n[ERROR] e\n[DEBUG] of a command\n[ERROR] of it\n"
	for _, test := range []struct{ level, logged, buffered string }{
		{"DEBUG", all, all},
		{"INFO", fromInfo, fromInfo},
		{"", fromInfo, fromInfo},
		{"WARN", "[WARN] w\n[ERROR] e\n", fromInfo},
		{"ERROR", "[ERROR] e\n", fromInfo},
	} {
		logged := logOf(func() {
			restore := captureLog(test.level)
			if debugging() != (test.level == "DEBUG") {
				t.Errorf("%s: debugging is %t", test.level, debugging())
			}
			captureLog("DEBUG")() // within a capture, it changes nothing
			for _, line := range []string{"plain", "[DEBUG] d", "[INFO] i", "[WARN] w", "[ERROR] e"} {
				log.Println(line)
			}
			fmt.Fprint(newLineWriter(), "[DEBUG] of a command\n[ERROR] of it\n")
			if got := capturedLog().String(); got != test.buffered {
				t.Errorf("%s: hooks get %q, expected %q", test.level, got, test.buffered)
			}
			restore()
			log.Print("after it")
			if debugging() {
				t.Errorf("%s: debugging after it", test.level)
			}
		})
		if want := test.logged + "after it\n"; logged != want {
			t.Errorf("%s: logged %q, expected %q", test.level, logged, want)
		}
		if got := LogBuffer.String(); got != test.buffered {
			t.Errorf("%s: LogBuffer has %q, expected %q", test.level, got, test.buffered)
		}
	}
}

// A long log keeps its beginning and its end, and says how much is missing.
func TestLogBound(t *testing.T) {
	out := log.Writer()
	defer log.SetOutput(out)
	for _, size := range []int{0, logHead + logTail, logHead + logTail + 1, logHead + logTail + 300_000, 40 << 20} {
		var all bytes.Buffer
		log.SetOutput(&all)
		flags := log.Flags()
		log.SetFlags(0)
		restore := captureLog("INFO")
		for n := 0; all.Len() < size; n++ {
			line := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%3000))
			log.Print(line[:min(len(line), max(0, size-all.Len()-1))])
		}
		got := capturedLog().String()
		if LogBuffer.Len() > logHead+logTail+1<<20 {
			t.Errorf("%d bytes: LogBuffer has %d", size, LogBuffer.Len())
		}
		restore()
		log.SetFlags(flags)

		want := all.String()
		if len(want) != size {
			t.Fatalf("the test logged %d bytes, not %d", len(want), size)
		}
		if size > logHead+logTail {
			want = want[:logHead] + fmt.Sprintf("\n[... %d bytes of the log left out here ...]\n", size-logHead-logTail) + want[size-logTail:]
		}
		if got != want {
			t.Errorf("%d bytes: hooks get %d bytes, not the %d that are expected", size, len(got), len(want))
		}
	}
	LogBuffer.Reset()
}

// The log shows no secrets, in whatever is logged.
func TestLogRedacts(t *testing.T) {
	logged := logOf(func() {
		defer captureLog("INFO")()
		log.Print("[WARN] of https://u:S3CR3T@h/?token=S3CR3T")
		fmt.Fprintln(newLineWriter(), "printed https://u:S3CR3T@h/")
		logError("clean up", errors.New("s3://k:S3CR3T@b/k"))
		logged("Step", errors.New("get https://h/?X-Amz-Signature=S3CR3T: 403"))
		logError("nothing", nil)
	})
	for _, got := range []string{logged, LogBuffer.String()} {
		if strings.Contains(got, "S3CR3T") || strings.Count(got, "\n") != 4 || strings.Count(got, "REDACTED") != 5 {
			t.Errorf("logged:\n%s", got)
		}
	}
}
