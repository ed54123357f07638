package treesync

import (
	"context"
	"iter"
	"runtime"
	"sync"

	"github.com/fujiwara/stretcher/internal/progress"
)

// workers limits the work on a tree to GOMAXPROCS goroutines at a time, the
// caller's included. The first error, or the end of the context, stops it: work
// that has not begun is dropped, and work that takes long checks ctx.
type workers struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	slots  chan struct{} // holds one value for each goroutine that is working

	removed *progress.Step // of removeAll; nil if its progress is not shown
}

func newWorkers(ctx context.Context) *workers {
	w := &workers{slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.acquire() // for the caller
	return w
}

func (w *workers) acquire() { w.slots <- struct{}{} }
func (w *workers) release() { <-w.slots }

// stopOn stops the workers if err is not nil.
func (w *workers) stopOn(err error) {
	if err != nil {
		w.cancel(err)
	}
}

// stopped reports whether an error or the end of the context stopped the
// workers.
func (w *workers) stopped() bool { return w.ctx.Err() != nil }

// end returns the error that stopped the workers, if any. Every group must have
// been waited for.
func (w *workers) end() error {
	err := context.Cause(w.ctx)
	w.cancel(nil)
	return err
}

// group is work that one function hands out and then waits for. Work may have
// groups of its own.
type group struct {
	workers *workers
	pending sync.WaitGroup
}

func (w *workers) newGroup() *group { return &group{workers: w} }

// do runs work in another goroutine if a slot is free, and otherwise at once in
// the caller's, so that work never queues up.
func (g *group) do(work func() error) {
	w := g.workers
	if w.stopped() {
		return
	}
	select {
	case w.slots <- struct{}{}:
		g.pending.Go(func() {
			defer w.release()
			w.stopOn(work())
		})
	default:
		w.stopOn(work())
	}
}

// wait returns when all work of the group has ended. Until then it gives up the
// caller's slot, since a goroutine that only waits would otherwise keep a
// processor idle.
func (g *group) wait() {
	g.workers.release()
	g.pending.Wait()
	g.workers.acquire()
}

// batches divides the names of a directory into parts that are worth handing out: of
// at most 16 names, and of not much more than 1 MiB, so that one worker does not write
// all the large files while the others have nothing to do.
func batches[T any](names []T, size func(T) int64) iter.Seq[[]T] {
	const most, bytes = 16, 1 << 20
	return func(yield func([]T) bool) {
		for len(names) > 0 {
			n, sum := 0, int64(0)
			for n < min(len(names), most) && sum < bytes {
				sum += size(names[n])
				n++
			}
			if !yield(names[:n]) {
				return
			}
			names = names[n:]
		}
	}
}
