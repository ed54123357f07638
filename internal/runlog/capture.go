package runlog

import (
	"bytes"
	"io"
	"log"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/progress"
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

// Start empties the buffer and captures until restore is called. The level and the
// format are those of New. While another capture is active, it changes nothing.
func (c *Capture) Start(level, format string) (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == 0 {
		c.Buffer.Reset()
	}
	return c.start(level, format)
}

// Append is Start for a command outside of a deployment: its log is added to the
// buffer, and lines of all levels are shown, as without a capture.
func (c *Capture) Append() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start("DEBUG", "")
}

func (c *Capture) start(level, format string) (restore func()) {
	if c.active++; c.active == 1 {
		c.before = log.Writer()
		c.log = New(c.before, c.Buffer, level, format)
		log.SetOutput(c.log)
		progress.LogOnly(c.log.json)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.active--; c.active == 0 {
			log.SetOutput(c.before)
			progress.LogOnly(false)
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

// Lines returns a writer that logs each line.
func (c *Capture) Lines() *proc.LineWriter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines(Stream{})
}

// Output returns writers that log the lines of a command's stdout and stderr. As
// text they are the same one, so that the command gets one pipe for both, in which
// the order of its lines is kept. A JSON object has to tell the stream, so they are
// two; the order between the two is lost.
func (c *Capture) Output(command string) (stdout, stderr *proc.LineWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stdout = c.lines(Stream{command, "stdout"})
	if c.log == nil || !c.log.json {
		return stdout, stdout
	}
	return stdout, c.lines(Stream{command, "stderr"})
}

// Direct returns the stdout and stderr of this process for a command that is not
// logged. With JSON it is Output, since there has to be nothing but objects.
func (c *Capture) Direct(command string) (stdout, stderr io.Writer) {
	c.mu.Lock()
	isJSON := c.log != nil && c.log.json
	c.mu.Unlock()
	if isJSON {
		return c.Output(command)
	}
	return os.Stdout, os.Stderr
}

func (c *Capture) lines(of Stream) *proc.LineWriter {
	if c.log == nil { // a Sync that an importer calls
		return proc.NewLineWriter(log.Default(), func() {})
	}
	return proc.NewLineWriter(c.log.Output(of))
}

// Count returns a number of things in words: "1 warning", "2 warnings".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
