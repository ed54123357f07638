package stretcher

import (
	"errors"
	"fmt"
	"log"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// The standard logger writes to LogBuffer during a capture, and only then.
func TestCaptureLog(t *testing.T) {
	logged := logOf(func() {
		log.Print("before")
		restore := captureLog("WARN")
		captureLog("DEBUG")() // within a capture, it changes nothing
		log.Print("plain")
		log.Print("[WARN] w")
		fmt.Fprint(newOutputLog(), "of a command\n")
		if got, want := capturedLog().String(), "plain\n[WARN] w\nof a command\n"; got != want {
			t.Errorf("the hooks get %q, expected %q", got, want)
		}
		restore()
		log.Print("after")
	})
	if want := "before\n[WARN] w\nafter\n"; logged != want {
		t.Errorf("logged %q, expected %q", logged, want)
	}
	if got, want := LogBuffer.String(), "plain\n[WARN] w\nof a command\n"; got != want {
		t.Errorf("LogBuffer has %q, expected %q", got, want)
	}
}

// The log shows no secrets, in whatever is logged.
func TestLogRedacts(t *testing.T) {
	logged := logOf(func() {
		defer captureLog("INFO")()
		log.Print("[WARN] of https://u:S3CR3T@h/?token=S3CR3T")
		fmt.Fprintln(newOutputLog(), "printed https://u:S3CR3T@h/")
		unixfs.Warn("clean up", errors.New("s3://k:S3CR3T@b/k"))
		logged("Step", errors.New("get https://h/?X-Amz-Signature=S3CR3T: 403"))
		unixfs.Warn("nothing", nil)
	})
	for _, got := range []string{logged, LogBuffer.String()} {
		if strings.Contains(got, "S3CR3T") || strings.Count(got, "\n") != 4 || strings.Count(got, "REDACTED") != 5 {
			t.Errorf("logged:\n%s", got)
		}
	}
}
