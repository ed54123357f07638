// Package progress says how far long work is: if stderr is a terminal, in one line
// there that is updated, and otherwise by a line in the log every 10 seconds. Work that
// ends before its first line is due is not mentioned.
package progress

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Reporter says how far work is. The zero value has the defaults.
type Reporter struct {
	// Every is the time between two lines of the log. 0 is 10 seconds.
	Every time.Duration
	// Log gets a line for the log. nil is log.Print.
	Log func(line string)
	// Stderr is where a line is updated, if it is a terminal. nil is os.Stderr.
	Stderr *os.File
}

// logOnly is whether nothing may be on os.Stderr but the log.
var logOnly atomic.Bool

// LogOnly makes every Show that begins later write to the log, also where stderr is a
// terminal, or ends that.
func LogOnly(on bool) { logOnly.Store(on) }

// onTerminal is how many lines are being updated on os.Stderr.
var onTerminal atomic.Int32

// Clear returns what has to stand before a line on os.Stderr that is not of this
// package, so that nothing of the progress is left beside it. It is "" while no
// progress is shown there.
func Clear() string {
	if onTerminal.Load() == 0 {
		return ""
	}
	return clearLine
}

const clearLine = "\x1b[K" // from the cursor to the end of the line

// Show says the status of what is being done, called name, until the returned
// function is called.
func (r Reporter) Show(name string, status func() string) (stop func()) {
	stderr := cmp.Or(r.Stderr, os.Stderr)
	every := cmp.Or(r.Every, 10*time.Second)
	report, end := func(line string) { log.Print(line) }, func() {}
	if r.Log != nil {
		report = r.Log
	}
	if unixfs.IsTerminal(stderr) && !logOnly.Load() {
		every = 200 * time.Millisecond
		shown := false
		report = func(line string) {
			if !shown && stderr == os.Stderr {
				onTerminal.Add(1)
			}
			shown = true
			// The cursor returns to the first column, so that the next line
			// overwrites this one.
			_, _ = fmt.Fprintf(stderr, "%s%s\r", line, clearLine)
		}
		end = func() {
			if !shown {
				return
			}
			_, _ = fmt.Fprint(stderr, clearLine)
			if stderr == os.Stderr {
				onTerminal.Add(-1)
			}
		}
	}
	ended := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report(name + ": " + status())
			case <-ended:
				end()
				return
			}
		}
	})
	return func() {
		close(ended)
		reporting.Wait()
	}
}

// Step is one step of a deployment, whose progress is shown from Start to End.
type Step struct {
	files, bytes atomic.Int64 // done
	total        func() (files, bytes int64)
	begin        time.Time
	stop         func()
}

// Start begins a step. total returns how many files and bytes it consists of, 0
// where that is unknown; it is called once, by another goroutine, when that is to be
// shown. nil is that neither is known.
func (r Reporter) Start(name string, total func() (files, bytes int64)) *Step {
	if total == nil {
		total = func() (int64, int64) { return 0, 0 }
	}
	s := &Step{total: sync.OnceValues(total), begin: time.Now()}
	s.stop = r.Show(name, s.String)
	return s
}

// AddFiles adds to the number of files that are done. It may be called by several
// goroutines at once. On a nil Step, it does nothing.
func (s *Step) AddFiles(n int) {
	if s != nil {
		s.files.Add(int64(n))
	}
}

// AddBytes is AddFiles for bytes.
func (s *Step) AddBytes(n int64) {
	if s != nil {
		s.bytes.Add(n)
	}
}

// End ends the step.
func (s *Step) End() { s.stop() }

// String describes how far the step is.
func (s *Step) String() string {
	text := ""
	files, bytes := s.total()
	if done := s.bytes.Load(); bytes > 0 || done > 0 {
		text += Bytes(done, bytes) + ", "
	}
	if done := s.files.Load(); files > 0 || done > 0 {
		percent := ""
		if bytes <= 0 && files > 0 {
			percent = fmt.Sprintf(" (%d%%)", done*100/files)
		}
		text += fmt.Sprintf("%d%s files%s, ", done, of(files), percent)
	}
	return text + time.Since(s.begin).Round(time.Second).String()
}

func of(total int64) string {
	if total <= 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", total)
}

// Bytes describes how many of total bytes are done. A total that is not positive is
// unknown.
func Bytes(done, total int64) string {
	if total <= 0 {
		return humanize.IBytes(uint64(done))
	}
	return fmt.Sprintf("%s of %s (%d%%)", humanize.IBytes(uint64(done)), humanize.IBytes(uint64(total)), int64(float64(done)/float64(total)*100))
}
