package stretcher

import (
	"bytes"
	"log"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
)

// LogBuffer holds the log of the last deployment, which the success and failure
// commands get on their stdin, and what commands that were invoked after it have
// logged. Of a log of more than 8 MiB, it has the beginning and the end. It must
// not be read while a deployment or a command runs.
var LogBuffer bytes.Buffer

// capture makes the standard logger write to LogBuffer during a deployment.
var capture = runlog.Capture{Buffer: &LogBuffer}

// logged logs err as the failure of a step, and returns it with a text that is
// safe to show.
func logged(step string, err error) error {
	err = redact.Error(err)
	log.Printf("[ERROR] %s failed: %v", step, err)
	return err
}
