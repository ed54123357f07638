package fetch

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	display "github.com/fujiwara/stretcher/internal/progress"
)

// progress counts a download, and reports on it while it runs.
type progress struct {
	size     atomic.Int64 // negative where unknown
	done     atomic.Int64 // bytes that the spool has
	received atomic.Int64 // bytes that have arrived, including those that were discarded
	retries  atomic.Int64
	start    time.Time // of show
}

// show reports the progress until the returned function is called.
func (p *progress) show(o Options) (stop func()) {
	p.start = time.Now()
	report := display.Reporter{Every: o.progressEvery, Log: func(line string) { o.logf("%s", line) }}
	return report.Show("Downloading", p.status)
}

// rate returns the average number of bytes a second that have arrived.
func (p *progress) rate() float64 {
	return float64(p.received.Load()) / max(time.Since(p.start).Seconds(), 1e-3)
}

// status describes a download that runs.
func (p *progress) status() string {
	done, size, rate := p.done.Load(), p.size.Load(), p.rate()
	s := fmt.Sprintf("%s, %s/s", display.Bytes(done, size), humanize.IBytes(uint64(rate)))
	const month = 30 * 24 * 3600 // a longer time is too uncertain to be shown
	if seconds := float64(size-done) / rate; size > 0 && seconds < month {
		s += fmt.Sprintf(", %s left", time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	return s
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
