package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"sync"
	"time"
)

// errNoRanges is a server that announced ranges and then ignored one.
var errNoRanges = errors.New("the server ignores ranges")

var errSlow = errors.New("much slower than the other connections")

const (
	// slowFactor is how many times the usual time a part may take before its
	// connection is given up for a new one, slowLeast what it may take in any
	// case, and maxReplaced how often that is done for one part.
	slowFactor  = 8
	slowLeast   = 10 * time.Second
	maxReplaced = 3
)

// parts is an object fetched in parts over several connections. They are
// written to their place in the spool, so that nothing waits in memory for
// an earlier part.
type parts struct {
	mu     sync.Mutex
	list   []part        // have belongs to who took the part, and under mu to all
	free   int           // the next part that nobody fetches
	first  int           // the first part that is not complete
	count  int           // complete parts
	spent  time.Duration // on them, by their connections
	failed error
}

type part struct {
	offset, size int64
	have         int64
}

// parallel fetches the object from offset to size over several connections.
// One has begun already, and brings the first part.
func (f *fetcher) parallel(ctx context.Context, begun *transfer, offset, size int64) error {
	p := &parts{}
	for at := offset; at < size; at += partSize {
		p.list = append(p.list, part{offset: at, size: min(partSize, size-at)})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopBegun := context.AfterFunc(ctx, func() { begun.cancel(context.Cause(ctx)) })
	defer stopBegun()

	var wg sync.WaitGroup
	for i := range min(f.connections, len(p.list)) {
		first := p.take()
		wg.Go(func() {
			t := begun
			if i > 0 {
				t = nil
			}
			for n := first; n >= 0; n = p.take() {
				err := f.retry(ctx, fmt.Sprintf("part %d of %d of %s", n+1, len(p.list), f.name()), func(ctx context.Context) error {
					err := f.fetchPart(ctx, p, n, t)
					t = nil
					return err
				})
				if err != nil {
					p.fail(err)
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return p.failed
}

// take returns a part that nobody has taken yet, -1 where there is none.
func (p *parts) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == len(p.list) {
		return -1
	}
	p.free++
	return p.free - 1
}

func (p *parts) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
}

// fetchPart fetches what is missing of part n, first from begun where that is
// given. A connection that is much slower than the others is replaced.
func (f *fetcher) fetchPart(ctx context.Context, p *parts, n int, begun *transfer) error {
	t := begun
	for replaced := 0; ; replaced++ {
		if t == nil {
			t = f.begin(ctx)
			if err := f.openPart(t, &p.list[n]); err != nil {
				t.close()
				return err
			}
		}
		watch := func() {}
		if replaced < maxReplaced {
			watch = p.watch(t)
		}
		err := f.readPart(p, n, t)
		watch()
		t.close()
		if !errors.Is(err, errSlow) {
			return err
		}
		log.Printf("fetch part %d of %s: %v: connecting anew", n+1, f.name(), err)
		t = nil
	}
}

// openPart opens what is missing of a part.
func (f *fetcher) openPart(t *transfer, part *part) error {
	from := part.offset + part.have
	o, err := t.open(f.source, from, part.size-part.have, f.validator)
	switch {
	case errors.Is(err, errChanged):
		return permanent(err)
	case err != nil:
		return err
	case o.validator != f.validator:
		return permanent(errChanged)
	case o.offset != from:
		return permanent(errNoRanges)
	}
	return nil
}

func (f *fetcher) readPart(p *parts, n int, t *transfer) error {
	part := &p.list[n]
	start := time.Now()
	for part.have < part.size {
		got, err := t.next()
		got = int(min(int64(got), part.size-part.have))
		if got > 0 {
			if err := f.store(t.buf[:got], part.offset+part.have); err != nil {
				return err
			}
			f.to.arrived(p.got(n, got))
		}
		if err == io.EOF && part.have < part.size {
			return io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	p.done(time.Since(start))
	return nil
}

// watch ends t with errSlow when it takes too long for a part, until the
// returned function is called.
func (p *parts) watch(t *transfer) (stop func()) {
	start := time.Now()
	ticker := time.NewTicker(slowLeast / 10)
	ended := make(chan struct{})
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				if time.Since(start) > p.patience() {
					t.cancel(errSlow)
					return
				}
			}
		}
	}()
	return func() { close(ended) }
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

func (p *parts) done(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	p.spent += took
}

// patience is how long a part may take, judged by those that are complete.
func (p *parts) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count < 3 {
		return 1<<63 - 1
	}
	return max(slowLeast, slowFactor*p.spent/time.Duration(p.count))
}
