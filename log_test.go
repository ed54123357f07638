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
		restore := capture.Start("WARN", "")
		capture.Start("DEBUG", "")() // within a capture, it changes nothing
		log.Print("plain")
		log.Print("[WARN] w")
		fmt.Fprint(capture.Lines(), "of a command\n")
		if got := capture.Warnings(); got != " (1 warning)" {
			t.Errorf("warnings: %q", got)
		}
		if got, want := capture.Copy().String(), "plain\n[WARN] w\nof a command\n"; got != want {
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

// What a command outside of a deployment prints is added to LogBuffer, and lines of
// all levels still reach the standard logger.
func TestInvokeReachesLogBuffer(t *testing.T) {
	logOf(func() {
		defer capture.Start("", "")()
		log.Print("of a deployment")
	})
	logged := logOf(func() {
		if err := CommandLine("echo one; echo '[DEBUG] two' >&2").Invoke(); err != nil {
			t.Error(err)
		}
		if err := (CommandLines{"echo three", "exit 3"}).Invoke(); err == nil {
			t.Error("no error")
		}
		log.Print("[DEBUG] of the importer")
	})
	const want = "invoking command: echo one; echo '[DEBUG] two' >&2\none\n[DEBUG] two\ninvoking command: echo three\nthree\ninvoking command: exit 3\n"
	if logged != want+"[DEBUG] of the importer\n" {
		t.Errorf("logged %q", logged)
	}
	if got := LogBuffer.String(); got != "of a deployment\n"+want {
		t.Errorf("LogBuffer has %q", got)
	}
}

// The log shows no secrets, in whatever is logged.
func TestLogRedacts(t *testing.T) {
	logged := logOf(func() {
		defer capture.Start("INFO", "")()
		log.Print("[WARN] of https://u:S3CR3T@h/?token=S3CR3T")
		fmt.Fprintln(capture.Lines(), "printed https://u:S3CR3T@h/")
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
