package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// chunkSize is how many bytes are read and stored at a time.
	chunkSize = 256 << 10
	// maxRetryAfter is the longest pause that a server may ask for.
	maxRetryAfter = 10 * time.Minute
)

// fetcher fetches one object to a spool.
type fetcher struct {
	Options
	url         string
	spool       *spool
	connections int           // how many may be used; less than Options.Connections after trouble with several
	limiter     *rate.Limiter // of the bandwidth of all connections together; nil is no limit
	source      source
	validator   string   // of the object that the spool has the beginning of
	encoding    encoding // of that object
	progress    progress

	limitAttempts bool // each attempt ends after Options.attemptTime
	once          bool // the caller retries
}

func newFetcher(url string, to *spool, o Options) *fetcher {
	o = o.withDefaults()
	return &fetcher{Options: o, url: url, spool: to, connections: o.Connections, limiter: newLimiter(o.MaxBandwidth)}
}

// newLimiter returns a limiter for a number of bytes a second, nil for 0. It
// starts without tokens, so that the first byte counts like any other.
func newLimiter(bytesPerSecond uint64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return nil
	}
	burst := int(max(1, min(bytesPerSecond/10, chunkSize)))
	limiter := rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
	limiter.AllowN(time.Now(), burst)
	return limiter
}

// name returns the URL without its secrets, for the log and for errors.
func (f *fetcher) name() string { return redact.Printable(redact.URL(f.url)) }

// fetch fetches the whole object and ends the spool with the result.
func (f *fetcher) fetch(ctx context.Context) (err error) {
	defer func() { f.spool.end(err) }()
	f.source, err = newSource(f.url, f.Options)
	if err != nil {
		return err
	}
	if part := ignoredPart(f.url); part != "" {
		f.logf("[WARN] Fetch %s: what follows the %c is ignored: write %%%02X for one that is part of the name", f.name(), part[0], part[0])
	}
	defer func() { unixfs.Warn("close "+f.name(), f.source.close()) }()
	if f.once {
		err = f.attempt(ctx)
	} else {
		err = f.retry(ctx, f.name(), f.attempt)
	}
	if err != nil {
		return redact.Error(fmt.Errorf("fetch %s: %w", f.name(), err))
	}
	return nil
}

// retry is Options.retry for attempts over connections to the source.
func (f *fetcher) retry(ctx context.Context, name string, attempt func(context.Context) error) error {
	return f.Options.retry(ctx, "Fetch "+name, attempt, func() {
		f.progress.retries.Add(1)
		f.source.closeIdle()
	})
}

// retry calls attempt until it succeeds, fails permanently, or has used up the
// retries, and calls again before each retry. name is what the log calls this work.
func (o Options) retry(ctx context.Context, name string, attempt func(context.Context) error, again func()) error {
	for n := 0; ; n++ {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, new(permanentError)) {
			return err
		}
		if n >= o.Retries {
			if n > 0 {
				err = fmt.Errorf("%w (given up after %d attempts)", err, n+1)
			}
			return permanent(err)
		}
		wait := o.RetryWait + rand.N(o.RetryWait/4+1)
		if busy, ok := errors.AsType[busyError](err); ok {
			wait = max(wait, min(busy.retryAfter, maxRetryAfter))
		}
		o.logf("[WARN] %s: attempt %d of %d failed: %v; next in %s", name, n+1, o.Retries+1, err, wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		again()
	}
}

// attempt fetches the bytes that the spool does not have yet. When the object
// has changed since the last attempt, it starts over, once.
func (f *fetcher) attempt(ctx context.Context) error {
	if f.limitAttempts {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.attemptTime, fmt.Errorf("timeout: the object was not complete after %s", f.attemptTime))
		defer cancel()
	}
	startedOver := false
	for {
		err := f.fetchRest(ctx)
		switch {
		case errors.Is(err, errChanged) && !startedOver:
			startedOver = true
			// Instead of a change, it may be that replicas behind one host name
			// return different validators. A single connection talks to only
			// one of them.
			f.connections = 1
			if err := f.restart(); err != nil {
				return err
			}
		case errors.Is(err, errChanged):
			return errChanged // not permanent: the next attempt may find the object unchanged
		case errors.Is(err, errNoRanges):
			f.connections = 1
		default:
			return err
		}
	}
}

// fetchRest fetches the bytes that the spool does not have yet. It starts over
// where the object has no validator, since a change could then go unnoticed,
// and where the server sends the object from its beginning.
func (f *fetcher) fetchRest(ctx context.Context) error {
	offset := f.spool.len()
	if offset > 0 && f.validator == "" {
		if err := f.restart(); err != nil {
			return err
		}
		offset = 0
	}
	t, err := f.open(ctx, offset, -1)
	if err != nil {
		return err
	}
	defer t.close()
	if t.offset != offset {
		if err := f.restart(); err != nil {
			return err
		}
		offset = 0
	}
	size := t.object.size
	f.validator = t.object.validator
	if offset == 0 { // the answer to a range need not repeat it (RFC 9110, section 15.3.7)
		f.encoding = t.object.encoding
	}
	f.progress.size.Store(size)
	f.progress.done.Store(offset)
	if err := f.spool.admit(size, offset); err != nil {
		return err
	}
	if f.connections > 1 && t.object.ranges && f.validator != "" && size-offset > f.parallelSize {
		return fetchParts(ctx, f, t, size)
	}
	for {
		n, err := t.next(chunkSize)
		if n > 0 {
			if err := f.store(t.buf[:n], t.offset-int64(n)); err != nil {
				return err
			}
			f.spool.arrived(t.offset)
		}
		if err == io.EOF && (size < 0 || t.offset == size) {
			return nil
		}
		if err != nil {
			return positionError(err, t.offset, size)
		}
	}
}

// open starts a transfer of the object from offset on. length is that of
// source.open. The transfer is either at offset, and then of the object that
// the spool has the beginning of, or at 0, and then of any.
func (f *fetcher) open(ctx context.Context, offset, length int64) (*transfer, error) {
	t := newTransfer(ctx, f.limiter, f.stallTimeout)
	t.toEnd = length < 0
	if err := t.open(f.source, offset, length, f.validator); err != nil {
		t.close()
		return nil, err
	}
	if t.offset == 0 {
		return t, nil
	}
	o, size := t.object, f.progress.size.Load()
	var err error
	switch {
	case t.offset != offset:
		err = fmt.Errorf("asked for the bytes from %d on, got those from %d on", offset, t.offset)
	case o.validator != f.validator, o.size >= 0 && size >= 0 && o.size != size:
		err = errChanged
	case o.size < 0:
		o.size = size
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// restart discards what the spool has.
func (f *fetcher) restart() error {
	f.logf("[WARN] Fetch %s: starting over: the object changed, or its server cannot continue after %d bytes", f.name(), f.spool.len())
	f.validator = ""
	return f.spool.restart()
}

// store writes bytes that belong at offset to the spool. Its readers do not get
// them before spool.arrived.
func (f *fetcher) store(p []byte, offset int64) error {
	f.progress.done.Add(int64(len(p)))
	f.receive(len(p))
	return f.spool.writeAt(p, offset)
}

// receive counts bytes that have arrived.
func (f *fetcher) receive(n int) {
	f.progress.received.Add(int64(n))
	if f.Received != nil {
		f.Received.Add(int64(n))
	}
}

// positionError adds to the error of a transfer how far it came. It is given
// io.EOF where the transfer ended too early. A negative size is unknown.
func positionError(err error, offset, size int64) error {
	err = noEOF(err)
	if size < 0 {
		return fmt.Errorf("after %d bytes: %w", offset, err)
	}
	return fmt.Errorf("after %d of %d bytes: %w", offset, size, err)
}
