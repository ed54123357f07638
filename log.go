package stretcher

import (
	"bytes"
	"log"
	"slices"
	"sync"

	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
)

// LogBuffer holds the log of the last deployment, which the success and failure
// commands get on their stdin. Of a log of more than 8 MiB, it has the beginning
// and the end. It must not be read while a deployment runs.
var LogBuffer bytes.Buffer

// current is the log of the deployment that is running, nil where none is.
var (
	currentMu sync.Mutex
	current   *runlog.Log
)

// captureLog makes the standard logger write to a log of the deployment until
// restore is called. While another capture is active, it does nothing.
func captureLog(level string) (restore func()) {
	currentMu.Lock()
	defer currentMu.Unlock()
	if current != nil {
		return func() {}
	}
	out := log.Writer()
	current = runlog.New(out, &LogBuffer, level)
	log.SetOutput(current)
	return func() {
		currentMu.Lock()
		defer currentMu.Unlock()
		log.SetOutput(out)
		current = nil
	}
}

// capturedLog returns a copy of the log so far.
func capturedLog() *bytes.Buffer {
	currentMu.Lock()
	defer currentMu.Unlock()
	if current == nil {
		return bytes.NewBuffer(slices.Clone(LogBuffer.Bytes()))
	}
	return current.Copy()
}

// newOutputLog returns a writer that logs the lines of a command's output.
func newOutputLog() *proc.LineWriter {
	currentMu.Lock()
	defer currentMu.Unlock()
	if current == nil {
		return proc.NewLineWriter(log.Default(), func() {})
	}
	return proc.NewLineWriter(current.Output())
}

// logged logs err as the failure of a step, and returns it with a text that is
// safe to show.
func logged(step string, err error) error {
	err = redact.Error(err)
	log.Printf("[ERROR] %s failed: %v", step, err)
	return err
}
