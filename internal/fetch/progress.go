package fetch

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// progress counts a download, and reports on it while it runs.
type progress struct {
	size     atomic.Int64 // negative where unknown
	done     atomic.Int64 // bytes that the spool has
	received atomic.Int64 // bytes that have arrived, including those that were discarded
	retries  atomic.Int64
	start    time.Time // of show
}

// show reports the progress until the returned function is called. Where stderr
// is a terminal, it updates one line there; else it writes to the log.
func (p *progress) show(o Options, stderr *os.File) (stop func()) {
	p.start = time.Now()
	every, report, clear := o.progressEvery, func() { o.logf("Downloading: %s", p.status()) }, func() {}
	if _, err := unix.IoctlGetTermios(int(stderr.Fd()), unix.TCGETS); err == nil {
		every = 200 * time.Millisecond
		// The cursor returns to the first column, so that the next line of log
		// overwrites the progress.
		report = func() { fmt.Fprintf(stderr, "%s\x1b[K\r", p.status()) }
		clear = func() { fmt.Fprint(stderr, "\x1b[K") }
	}
	ended := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report()
			case <-ended:
				clear()
				return
			}
		}
	})
	return func() {
		close(ended)
		reporting.Wait()
	}
}

// rate returns the average number of bytes a second that have arrived.
func (p *progress) rate() float64 {
	return float64(p.received.Load()) / max(time.Since(p.start).Seconds(), 1e-3)
}

// status describes a download that runs.
func (p *progress) status() string {
	done, size, rate := p.done.Load(), p.size.Load(), p.rate()
	s := fmt.Sprintf("%s, %s/s", doneOf(done, size), humanize.IBytes(uint64(rate)))
	const month = 30 * 24 * 3600 // a longer time is too uncertain to be shown
	if seconds := float64(size-done) / rate; size > 0 && seconds < month {
		s += fmt.Sprintf(", %s left", time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	return s
}

// doneOf describes how many of size bytes are done. A size that is not positive
// is unknown.
func doneOf(done, size int64) string {
	if size <= 0 {
		return humanize.IBytes(uint64(done))
	}
	return fmt.Sprintf("%s of %s (%d%%)", humanize.IBytes(uint64(done)), humanize.IBytes(uint64(size)), done*100/size)
}

// summary describes a download that has ended.
func (p *progress) summary() string {
	done := p.done.Load()
	s := fmt.Sprintf("%d bytes", done)
	if done >= 1024 {
		s += fmt.Sprintf(" (%s)", humanize.IBytes(uint64(done)))
	}
	s += fmt.Sprintf(" in %s", time.Since(p.start).Round(time.Millisecond))
	if done >= 1024 {
		s += fmt.Sprintf(", %s/s", humanize.IBytes(uint64(p.rate())))
	}
	if n := p.retries.Load(); n > 0 {
		s += fmt.Sprintf(", retries: %d", n)
	}
	return s
}
