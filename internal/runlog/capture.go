package runlog

import (
	"bytes"
	"io"
	"log"
	"slices"
	"strconv"
	"sync"

	"github.com/fujiwara/stretcher/internal/proc"
)

// Capture makes the standard logger write to a Log while deployments or commands
// run. It may be used by several goroutines, apart from Buffer.
type Capture struct {
	Buffer *bytes.Buffer // keeps the log

	mu     sync.Mutex
	log    *Log      // nil while nothing is captured
	active int       // calls of Start and Append whose restore was not called; they share log
	before io.Writer // of the standard logger
}

// Start empties the buffer and captures until restore is called. While another
// capture is active, it changes nothing.
func (c *Capture) Start(level string) (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == 0 {
		c.Buffer.Reset()
	}
	return c.start(level)
}

// Append is Start for a command outside of a deployment: its log is added to the
// buffer, and lines of all levels are shown, as without a capture.
func (c *Capture) Append() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start("DEBUG")
}

func (c *Capture) start(level string) (restore func()) {
	if c.active++; c.active == 1 {
		c.before = log.Writer()
		c.log = New(c.before, c.Buffer, level)
		log.SetOutput(c.log)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.active--; c.active == 0 {
			log.SetOutput(c.before)
			c.log = nil
		}
	}
}

// Copy returns a copy of the log so far.
func (c *Capture) Copy() *bytes.Buffer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil {
		return bytes.NewBuffer(slices.Clone(c.Buffer.Bytes()))
	}
	return c.log.Copy()
}

// Warnings returns how many warnings the log has, for the end of a line: " (1
// warning)". It is "" for none.
func (c *Capture) Warnings() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil || c.log.Warnings() == 0 {
		return ""
	}
	return " (" + Count(c.log.Warnings(), "warning") + ")"
}

// Output returns a writer that logs the lines of a command's output.
func (c *Capture) Output() *proc.LineWriter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil { // a Sync that an importer calls
		return proc.NewLineWriter(log.Default(), func() {})
	}
	return proc.NewLineWriter(c.log.Output())
}

// Count returns a number of things in words: "1 warning", "2 warnings".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
