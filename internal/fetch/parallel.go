package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"sync"
	"time"
)

// errNoRanges is a server that announced ranges and then ignored one.
var errNoRanges = errors.New("the server ignores ranges")

// errComplete ends what connections still do when all parts are there.
var errComplete = errors.New("the download is complete")

// errTaken is a part that another connection brings meanwhile.
var errTaken = errors.New("taken by another connection")

// errShort is an answer with less of a part than was asked for, which servers
// may give (RFC 9110, section 14.2).
var errShort = errors.New("less than asked for")

var errSlow = errors.New("much slower than the other connections")

const (
	// slowFactor is how many times the usual time a part may take before its
	// connection is given up for a new one, and maxReplaced how often that is
	// done for one part.
	slowFactor  = 8
	maxReplaced = 3
)

// slowLeast is what a part may take in any case.
var slowLeast = 10 * time.Second

// parts is an object fetched in parts over several connections. They are
// written to their place in the spool, so that nothing waits in memory for
// an earlier part.
type parts struct {
	mu      sync.Mutex
	list    []part
	first   int           // the first part that is not complete
	workers int           // connections that take parts
	bytes   int64         // of complete parts
	spent   time.Duration // on them, by their connections
}

type part struct {
	offset, size int64
	have         int64
	owner        *connection // who has taken it
}

// parallel fetches the rest of the object over several connections. One has
// begun already.
func (f *fetcher) parallel(ctx context.Context, begun *transfer, size int64) error {
	p := &parts{}
	for at := begun.offset; at < size; at += partSize {
		p.list = append(p.list, part{offset: at, size: min(partSize, size-at)})
	}
	p.workers = min(f.connections, len(p.list))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var wg sync.WaitGroup
	for i := range p.workers {
		c := &connection{fetcher: f, parts: p}
		if i == 0 {
			c.transfer, c.proven = begun, true
		}
		first := p.take(c) // before any goroutine runs: the first part is what begun brings
		wg.Go(func() {
			if err := c.work(ctx, first); err != nil {
				cancel(err) // the first error counts
			} else if p.complete() {
				cancel(errComplete)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != errComplete {
		return err
	}
	return nil
}

// connection fetches parts, one after another.
type connection struct {
	*fetcher
	parts    *parts
	transfer *transfer // nil where none is open
	proven   bool      // one could be opened; under parts.mu to others
}

// work fetches part n, and then others until none is left.
func (c *connection) work(ctx context.Context, n int) error {
	defer func() { c.transfer.close() }()
	for ; n >= 0; n = c.parts.take(c) {
		left := false
		name := fmt.Sprintf("part %d of %d of %s", n+1, len(c.parts.list), c.name())
		err := c.retry(ctx, name, func(ctx context.Context) error {
			err := c.fetchPart(ctx, n)
			if err != nil && ctx.Err() == nil && !c.proven && c.parts.leave(c, n) {
				// The server may allow a client so many connections only.
				log.Printf("[WARN] fetch %s: going on with one connection less: %v", c.name(), err)
				left = true
				return nil
			}
			return err
		})
		if err != nil || left {
			return err
		}
	}
	return nil
}

// fetchPart fetches what is missing of part n, unless it is another's
// meanwhile. A transfer that is much slower than the others is replaced.
func (c *connection) fetchPart(ctx context.Context, n int) error {
	for replaced := 0; ; {
		patient, cancel := ctx, func() {}
		if replaced < maxReplaced {
			patient, cancel = c.parts.watch(ctx, c, n)
		}
		err := c.openPart(patient, n)
		if err == nil {
			err = c.readPart(patient, n)
		}
		if _, _, mine := c.parts.missing(c, n); !mine {
			err = nil
		}
		cancel()
		if t := c.transfer; err != nil || t != nil && !t.rest {
			t.close()
			c.transfer = nil
		}
		switch {
		case errors.Is(err, errShort):
		case errors.Is(err, errSlow):
			replaced++
			log.Printf("fetch part %d of %s: %v: connecting anew", n+1, c.name(), err)
		default:
			return err
		}
	}
}

// openPart opens what is missing of part n, unless the transfer is just there.
func (c *connection) openPart(ctx context.Context, n int) error {
	offset, length, mine := c.parts.missing(c, n)
	if !mine {
		return errTaken
	}
	if c.transfer != nil && c.transfer.offset == offset {
		return nil
	}
	c.transfer.close()
	var err error
	c.transfer, err = c.open(ctx, offset, length)
	switch {
	case errors.Is(err, errChanged), err == nil && c.transfer.object.validator != c.validator:
		return permanent(errChanged)
	case err == nil && c.transfer.offset != offset:
		return permanent(errNoRanges)
	}
	return err
}

// readPart reads what is missing of part n.
func (c *connection) readPart(ctx context.Context, n int) error {
	if !c.parts.begin(c, n) {
		return errTaken
	}
	t := c.transfer
	stop := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	defer stop()
	start := time.Now()
	offset, length, _ := c.parts.missing(c, n)
	for end := offset + length; offset < end; {
		got, err := t.next(end - offset)
		if got > 0 {
			if err := c.store(t.buf[:got], offset); err != nil {
				return err
			}
			offset += int64(got)
			c.to.arrived(c.parts.got(n, got))
		}
		if err == io.EOF && offset < end && offset > end-length && !t.rest {
			return errShort
		}
		if err != nil && offset < end {
			return after(err, offset, c.progress.size.Load())
		}
	}
	c.parts.done(length, time.Since(start))
	return nil
}

// take returns the first part that nobody has taken yet, or for a connection
// whose transfer goes on, the next one, unless the server answers to who has
// taken that. Where there is none, it is -1, and the connection goes.
func (p *parts) take(c *connection) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := p.first; n < len(p.list); n++ {
		part := &p.list[n]
		if part.owner == nil || c.transfer != nil && c.transfer.offset == part.offset && !part.owner.proven {
			part.owner = c
			return n
		}
	}
	p.workers--
	return -1
}

// leave gives part n back and lets c go, unless it is the last one.
func (p *parts) leave(c *connection, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.workers == 1 {
		return false
	}
	p.workers--
	if p.list[n].owner == c {
		p.list[n].owner = nil
	}
	return true
}

// begin notes that the server answers to c, and tells whether part n is still
// that of c. From then on it stays so.
func (p *parts) begin(c *connection, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.proven = true
	return p.list[n].owner == c
}

// missing returns what is not there yet of part n, and whether it is still
// that of c.
func (p *parts) missing(c *connection, n int) (offset, length int64, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	part := &p.list[n]
	return part.offset + part.have, part.size - part.have, part.owner == c
}

func (p *parts) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.list[len(p.list)-1]
	return p.first == len(p.list)-1 && last.have == last.size
}

// watch returns a context that ends with errSlow when part n takes too long,
// until the returned function is called.
func (p *parts) watch(ctx context.Context, c *connection, n int) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	_, length, _ := p.missing(c, n)
	start := time.Now()
	var watcher sync.WaitGroup
	watcher.Go(func() {
		ticker := time.NewTicker(slowLeast / 10)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if time.Since(start) > p.patience(length) {
					cancel(errSlow)
				}
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watcher.Wait()
	}
}

// got counts bytes of part n, and returns up to where the object is complete.
func (p *parts) got(n, bytes int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list[n].have += int64(bytes)
	for p.first < len(p.list)-1 && p.list[p.first].have == p.list[p.first].size {
		p.first++
	}
	return p.list[p.first].offset + p.list[p.first].have
}

func (p *parts) done(bytes int64, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += bytes
	p.spent += took
}

// patience is how long so many bytes may take, judged by the complete parts.
func (p *parts) patience(bytes int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes == 0 {
		return math.MaxInt64
	}
	return max(slowLeast, time.Duration(slowFactor*float64(p.spent)*float64(bytes)/float64(p.bytes)))
}
