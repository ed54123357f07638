package stretcher

import (
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// progressEvery is how often the log tells of a download.
var progressEvery = 10 * time.Second

// progress counts a download, and tells of it while it runs.
type progress struct {
	size     atomic.Int64 // negative where unknown
	done     atomic.Int64 // bytes that the spool has
	received atomic.Int64 // bytes that came, those that were thrown away included
	retries  atomic.Int64
	start    time.Time
}

// show tells of the progress until the returned function is called: on a
// terminal in one line that is updated, elsewhere in a line of log now and then.
func (p *progress) show() (stop func()) {
	p.start = time.Now()
	every, say, clear := progressEvery, func() { log.Printf("Downloading: %s", p.status()) }, func() {}
	if _, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS); err == nil {
		every = 200 * time.Millisecond
		// The cursor goes back to the first column, for a line of log to
		// write over it.
		say = func() { fmt.Fprintf(os.Stderr, "%s\x1b[K\r", p.status()) }
		clear = func() { fmt.Fprint(os.Stderr, "\x1b[K") }
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				say()
			case <-ended:
				clear()
				return
			}
		}
	})
	return func() {
		close(ended)
		wg.Wait()
	}
}

func (p *progress) rate() float64 {
	return float64(p.received.Load()) / max(time.Since(p.start).Seconds(), 1e-3)
}

func (p *progress) status() string {
	done, size, rate := p.done.Load(), p.size.Load(), p.rate()
	s := fmt.Sprintf("%s, %s/s", bytesOf(done, size), humanize.IBytes(uint64(rate)))
	const month = 30 * 24 * 3600 // longer is too uncertain to tell
	if seconds := float64(size-done) / rate; size > 0 && seconds < month {
		s += fmt.Sprintf(", %s left", time.Duration(seconds*Nanoseconds).Round(time.Second))
	}
	return s
}

func bytesOf(done, size int64) string {
	if size <= 0 {
		return humanize.IBytes(uint64(done))
	}
	return fmt.Sprintf("%s of %s (%d%%)", humanize.IBytes(uint64(done)), humanize.IBytes(uint64(size)), done*100/size)
}

func (p *progress) summary() string {
	return fmt.Sprintf("%d bytes (%s) in %s, %s/s, %d retries", p.done.Load(), humanize.IBytes(uint64(p.done.Load())),
		time.Since(p.start).Round(time.Millisecond), humanize.IBytes(uint64(p.rate())), p.retries.Load())
}
