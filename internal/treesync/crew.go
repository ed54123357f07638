package stretcher

import (
	"context"
	"runtime"
	"sync"
)

// crew does work on a tree in at most GOMAXPROCS goroutines, the caller's
// among them. Its first error, or the end of its context, stops it.
type crew struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	slots  chan struct{}
}

func newCrew(ctx context.Context) *crew {
	c := &crew{slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.slots <- struct{}{} // the caller's
	return c
}

// do has work done by another goroutine where one is free, else at once.
// It may be called from such work, with a WaitGroup of that work's own.
func (c *crew) do(pending *sync.WaitGroup, work func() error) {
	if c.ctx.Err() != nil {
		return
	}
	select {
	case c.slots <- struct{}{}:
		pending.Go(func() {
			defer func() { <-c.slots }()
			c.stopOn(work())
		})
	default:
		c.stopOn(work())
	}
}

// wait waits for what was given to do, and lets others work meanwhile.
func (c *crew) wait(pending *sync.WaitGroup) {
	<-c.slots
	pending.Wait()
	c.slots <- struct{}{}
}

func (c *crew) stopOn(err error) {
	if err != nil {
		c.cancel(err)
	}
}

// end returns what stopped the crew, once all it was given has been waited
// for.
func (c *crew) end() error {
	err := context.Cause(c.ctx)
	c.cancel(nil)
	return err
}
