package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

var (
	// errNoRanges reports a server that announced ranges and then ignored one.
	errNoRanges = errors.New("the server ignores ranges")
	// errComplete ends what connections still do when all parts are complete.
	errComplete = errors.New("the download is complete")
	// errTakenOver reports that another connection has taken over the part.
	errTakenOver = errors.New("taken over by another connection")
	// errShort reports an answer with fewer bytes of a part than were asked
	// for, which servers may give (RFC 9110, section 14.2).
	errShort = errors.New("less than asked for")
	errSlow  = errors.New("much slower than the other connections")
)

const (
	// slowFactor is how many times the usual time a part may take before it is
	// requested again over a new connection.
	slowFactor = 8
	// maxReplaced is how often that is done for one part.
	maxReplaced = 3
	// maxParts is how many parts an object is divided into, about. Larger objects have
	// larger parts, since each takes memory, and a server may claim any size.
	maxParts = 1 << 20
)

// partState is what has become of a part.
type partState int

const (
	// free: no connection fetches the part.
	free partState = iota
	// taken: a connection has asked for the part, and the server has not
	// answered any request of that connection so far. The part becomes free if
	// the connection gives up; another connection may take it over.
	taken
	// answered: the server answers the connection that fetches the part, so it
	// stays with that connection.
	answered
	// complete: the spool has all bytes of the part.
	complete
)

// part is a range of an object.
type part struct {
	number   int // from 1 on
	offset   int64
	size     int64
	received int64 // how many of its bytes the spool has
	state    partState
	owner    *connection // the one that fetches it; nil where it is free
}

// parts is the rest of an object, fetched in parts over several connections.
// Each part is written to its place in the spool at once, so that no memory is
// needed for parts that arrive before earlier ones.
type parts struct {
	slowLeast time.Duration // Options.slowLeast

	mu          sync.Mutex // of the fields below and those of all parts
	list        []*part
	first       int           // index of the first part that is not complete, or of the last one
	connections int           // how many connections still take parts
	timedBytes  int64         // bytes of parts whose time is known
	timedTotal  time.Duration // the sum of the times that those took
}

// fetchParts fetches the rest of an object of size bytes over several
// connections. The transfer begun already brings the beginning of the rest.
func fetchParts(ctx context.Context, f *fetcher, begun *transfer, size int64) error {
	ps := newParts(begun.offset, size, f.partSize)
	ps.slowLeast = f.slowLeast
	ps.connections = min(f.connections, len(ps.list))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var working sync.WaitGroup
	for i := range ps.connections {
		c := &connection{fetcher: f, parts: ps}
		if i == 0 {
			c.transfer, c.answered = begun, true
		}
		// Outside of the goroutine, so that the first part goes to the
		// connection that has begun.
		first := ps.take(c)
		working.Go(func() {
			if err := c.work(ctx, first); err != nil {
				cancel(err) // the first error is the result
			} else if ps.complete() {
				cancel(errComplete)
			}
		})
	}
	working.Wait()
	if err := context.Cause(ctx); err != errComplete {
		return err
	}
	return nil
}

// newParts divides the bytes of an object from offset on into parts.
func newParts(offset, size, partSize int64) *parts {
	ps := &parts{}
	partSize = max(partSize, (size-offset)/maxParts)
	for offset < size {
		p := &part{number: len(ps.list) + 1, offset: offset, size: min(partSize, size-offset)}
		ps.list = append(ps.list, p)
		offset += p.size
	}
	return ps
}

// take returns the part that c fetches next: the first one that is free, or
// that c can take over because its transfer has just arrived there. It returns
// nil where there is none; then c ends.
func (ps *parts) take(c *connection) *part {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.list[ps.first:] {
		arrived := c.transfer != nil && c.transfer.offset == p.offset
		if p.state == free || p.state == taken && arrived {
			p.owner, p.state = c, taken
			if c.answered {
				p.state = answered
			}
			return p
		}
	}
	ps.connections--
	return nil
}

// begin records that the server answers c, which is about to read p. It reports
// false where another connection has taken over p.
func (ps *parts) begin(c *connection, p *part) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	c.answered = true
	if p.owner != c {
		return false
	}
	p.state = answered
	return true
}

// leave makes p free and lets c end, unless c is the last connection.
func (ps *parts) leave(c *connection, p *part) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.connections == 1 {
		return false
	}
	ps.connections--
	if p.owner == c {
		p.owner, p.state = nil, free
	}
	return true
}

// owns reports whether p is the part of c, and not taken over.
func (ps *parts) owns(c *connection, p *part) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return p.owner == c
}

// missing returns the range of p that the spool does not have yet.
func (ps *parts) missing(p *part) (offset, length int64) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return p.offset + p.received, p.size - p.received
}

// arrived counts bytes of p, and returns up to which offset the object is
// complete.
func (ps *parts) arrived(p *part, bytes int) int64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.received += int64(bytes)
	if p.received == p.size {
		p.state = complete
	}
	for ps.first < len(ps.list)-1 && ps.list[ps.first].state == complete {
		ps.first++
	}
	first := ps.list[ps.first]
	return first.offset + first.received
}

// complete reports whether all parts are complete.
func (ps *parts) complete() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	last := len(ps.list) - 1
	return ps.first == last && ps.list[last].state == complete
}

// timed records how long a number of bytes of a part took.
func (ps *parts) timed(bytes int64, took time.Duration) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.timedBytes += bytes
	ps.timedTotal += took
}

// patience returns how long a number of bytes may take, judged by the average
// of the parts so far. Without any, there is no limit.
func (ps *parts) patience(bytes int64) time.Duration {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.timedBytes == 0 {
		return math.MaxInt64
	}
	return max(ps.slowLeast, time.Duration(slowFactor*float64(ps.timedTotal)*float64(bytes)/float64(ps.timedBytes)))
}

// watch returns a context that ends with errSlow when the rest of p takes too
// long. The returned function stops that.
func (ps *parts) watch(ctx context.Context, p *part) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	_, length := ps.missing(p)
	start := time.Now()
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(ps.slowLeast / 10)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if time.Since(start) > ps.patience(length) {
					cancel(errSlow)
				}
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// connection fetches parts, one after another.
type connection struct {
	*fetcher
	parts    *parts
	transfer *transfer // nil where none is open
	answered bool      // the server has answered it, with bytes of a part
}

// work fetches p, and then other parts until none is left to take.
func (c *connection) work(ctx context.Context, p *part) error {
	defer func() { c.transfer.close() }()
	for ; p != nil; p = c.parts.take(c) {
		left := false
		name := fmt.Sprintf("part %d of %d of %s", p.number, len(c.parts.list), c.name())
		err := c.retry(ctx, name, func(ctx context.Context) error {
			err := c.fetchPart(ctx, p)
			if err != nil && ctx.Err() == nil && !c.answered && c.parts.leave(c, p) {
				// The server may limit the number of connections of a client.
				c.logf("[WARN] Fetch %s: continuing with one connection less: %v", c.name(), err)
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

// fetchPart fetches what is missing of p, unless another connection takes it
// over. A transfer that is much slower than the others is replaced.
func (c *connection) fetchPart(ctx context.Context, p *part) error {
	for replaced := 0; ; {
		watched, stop := ctx, func() {}
		if replaced < maxReplaced {
			watched, stop = c.parts.watch(ctx, p)
		}
		err := c.openPart(watched, p)
		if err == nil {
			err = c.readPart(watched, p)
		}
		if !c.parts.owns(c, p) {
			err = nil // whatever went wrong is of no interest any more
		}
		stop()
		if t := c.transfer; err != nil || t != nil && !t.toEnd {
			t.close()
			c.transfer = nil
		}
		switch {
		case errors.Is(err, errShort):
		case errors.Is(err, errSlow):
			replaced++
			c.logf("Fetch part %d of %s: %v: using a new connection", p.number, c.name(), err)
		default:
			return err
		}
	}
}

// openPart opens what is missing of p, unless the open transfer has arrived there.
func (c *connection) openPart(ctx context.Context, p *part) error {
	if !c.parts.owns(c, p) {
		return errTakenOver
	}
	offset, length := c.parts.missing(p)
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

// readPart reads what is missing of p from the open transfer.
func (c *connection) readPart(ctx context.Context, p *part) error {
	if !c.parts.begin(c, p) {
		return errTakenOver
	}
	t := c.transfer
	// The context of a transfer that has begun before this part knows nothing
	// of ctx.
	stop := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	defer stop()
	start := time.Now()
	offset, length := c.parts.missing(p)
	for end := offset + length; offset < end; {
		n, err := t.next(end - offset)
		if n > 0 {
			if err := c.store(t.buf[:n], offset); err != nil {
				return err
			}
			offset += int64(n)
			c.spool.arrived(c.parts.arrived(p, n))
		}
		if err == io.EOF && offset < end && offset > end-length && !t.toEnd {
			return errShort
		}
		if err != nil && offset < end {
			return positionError(err, offset, c.progress.size.Load())
		}
	}
	c.parts.timed(length, time.Since(start))
	return nil
}
