package proc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Afterwards returns a context for commands that report how a run ended, and so
// have to outlive ctx, which may have ended. If o has no Timeout for each command,
// it ends a minute after ctx. It also ends when o.Abort is closed. cancel frees
// what belongs to it.
func (o Options) Afterwards(ctx context.Context) (after context.Context, cancel context.CancelFunc) {
	const limit = time.Minute
	after, end := context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		var ended <-chan struct{}
		if o.Timeout == 0 {
			ended = ctx.Done()
		}
		var expired <-chan time.Time
		for {
			select {
			case <-ended:
				ended, expired = nil, time.After(limit)
			case <-expired:
				end(fmt.Errorf("timeout after %s", limit))
				return
			case <-o.Abort:
				end(errors.New("aborted"))
				return
			case <-after.Done():
				return
			}
		}
	}()
	return after, func() { end(nil) }
}
