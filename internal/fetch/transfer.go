package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"
)

var errStalled = errors.New("stalled")

// transfer is the work of one connection: a request, and its body, read within
// the bandwidth limit. It fails when nothing arrives for the stall timeout.
type transfer struct {
	ctx          context.Context
	cancel       context.CancelCauseFunc
	stall        *time.Timer // cancels ctx; runs only while the transfer waits for the server
	stallTimeout time.Duration
	limiter      *rate.Limiter // nil is no limit
	object       *object       // nil before open and after close
	offset       int64         // in the object, of the next byte
	toEnd        bool          // the body extends to the end of the object
	buf          []byte        // what next has read
}

func newTransfer(ctx context.Context, limiter *rate.Limiter, stallTimeout time.Duration) *transfer {
	t := &transfer{stallTimeout: stallTimeout, limiter: limiter, buf: make([]byte, chunkSize)}
	if limiter != nil {
		t.buf = t.buf[:limiter.Burst()] // WaitN accepts no more at a time
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// open makes the request. The arguments are those of source.open.
func (t *transfer) open(s source, offset, length int64, validator string) error {
	t.stall = time.AfterFunc(t.stallTimeout, func() { t.cancel(fmt.Errorf("%w: no byte for %s", errStalled, t.stallTimeout)) })
	o, err := s.open(t.ctx, offset, length, validator)
	t.stall.Stop()
	if err != nil {
		return t.cause(err)
	}
	t.object, t.offset = o, o.offset
	return nil
}

// next reads at most wanted bytes into t.buf.
func (t *transfer) next(wanted int64) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	t.stall.Reset(t.stallTimeout)
	n, err := t.object.body.Read(t.buf[:min(wanted, int64(len(t.buf)))])
	t.stall.Stop()
	if t.limiter != nil && n > 0 {
		if err := t.limiter.WaitN(t.ctx, n); err != nil {
			if t.ctx.Err() == nil {
				// WaitN fails at once where the wait would exceed the deadline.
				<-t.ctx.Done()
			}
			return 0, context.Cause(t.ctx)
		}
	}
	t.offset += int64(n)
	if err != nil && err != io.EOF {
		err = t.cause(withoutURL(err))
	}
	return n, err
}

// cause returns why the transfer was cancelled, which err is then a consequence
// of, else err.
func (t *transfer) cause(err error) error {
	if t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	return err
}

// close ends the transfer. It does nothing for nil and after the first call.
func (t *transfer) close() {
	if t == nil {
		return
	}
	t.stall.Stop()
	t.cancel(nil)
	if t.object != nil {
		t.object.body.Close() // an error is of no interest: the rest of the body is not needed
		t.object = nil
	}
}
