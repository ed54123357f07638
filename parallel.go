package stretcher

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"sync"
	"time"
)

// errNoRanges is a server that announced ranges and then ignored one.
var errNoRanges = errors.New("the server ignores ranges")

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
	workers int           // that take parts
	bytes   int64         // of complete parts
	spent   time.Duration // on them, by their connections
}

type part struct {
	offset, size int64
	have         int64 // belongs to who took the part, and under mu to all
	taken        bool
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
		first := p.take() // before any goroutine runs: the first part is what begun brings
		wg.Go(func() {
			if err := c.work(ctx, first); err != nil {
				cancel(err) // the first error counts
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// connection fetches parts, one after another.
type connection struct {
	*fetcher
	parts    *parts
	transfer *transfer // nil where none is open
	proven   bool      // one could be opened
}

// work fetches part n, and then others until none is left.
func (c *connection) work(ctx context.Context, n int) error {
	defer func() { c.transfer.close() }()
	for ; n >= 0; n = c.parts.take() {
		left := false
		name := fmt.Sprintf("part %d of %d of %s", n+1, len(c.parts.list), c.name())
		err := c.retry(ctx, name, func(ctx context.Context) error {
			err := c.fetchPart(ctx, n)
			if err != nil && ctx.Err() == nil && !c.proven && c.parts.leave(n) {
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

// fetchPart fetches what is missing of part n. A transfer that is much slower
// than the others is replaced.
func (c *connection) fetchPart(ctx context.Context, n int) error {
	for replaced := 0; ; replaced++ {
		patient, cancel := ctx, func() {}
		if replaced < maxReplaced {
			patient, cancel = c.parts.watch(ctx, n)
		}
		err := c.openPart(patient, n)
		if err == nil {
			err = c.readPart(patient, n)
		}
		cancel()
		if err != nil || !c.transfer.rest {
			c.transfer.close()
			c.transfer = nil
		}
		if !errors.Is(err, errSlow) {
			return err
		}
		log.Printf("fetch part %d of %s: %v: connecting anew", n+1, c.name(), err)
	}
}

// openPart opens what is missing of part n, unless the transfer is just there.
func (c *connection) openPart(ctx context.Context, n int) error {
	part := &c.parts.list[n]
	from := part.offset + part.have
	if c.transfer != nil && c.transfer.offset == from {
		return nil
	}
	c.transfer.close()
	var err error
	c.transfer, err = c.open(ctx, from, part.size-part.have)
	switch {
	case errors.Is(err, errChanged), err == nil && c.transfer.object.validator != c.validator:
		return permanent(errChanged)
	case err == nil && c.transfer.offset != from:
		return permanent(errNoRanges)
	}
	c.proven = c.proven || err == nil
	return err
}

// readPart reads what is missing of part n.
func (c *connection) readPart(ctx context.Context, n int) error {
	part, t := &c.parts.list[n], c.transfer
	stop := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	defer stop()
	start, had := time.Now(), part.have
	for part.have < part.size {
		got, err := t.next(part.size - part.have)
		if got > 0 {
			if err := c.store(t.buf[:got], part.offset+part.have); err != nil {
				return err
			}
			c.to.arrived(c.parts.got(n, got))
		}
		if err != nil && part.have < part.size {
			return after(err, part.have, part.size)
		}
	}
	c.parts.done(part.size-had, time.Since(start))
	return nil
}

// take returns the first part that nobody has taken yet. Where there is none,
// it is -1, and the worker goes.
func (p *parts) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := p.first; n < len(p.list); n++ {
		if !p.list[n].taken {
			p.list[n].taken = true
			return n
		}
	}
	p.workers--
	return -1
}

// leave gives part n back and lets its worker go, unless that is the last one.
func (p *parts) leave(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.workers == 1 {
		return false
	}
	p.workers--
	p.list[n].taken = false
	return true
}

// watch returns a context that ends with errSlow when part n takes too long,
// until the returned function is called.
func (p *parts) watch(ctx context.Context, n int) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	missing := p.list[n].size - p.list[n].have
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
				if time.Since(start) > p.patience(missing) {
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
