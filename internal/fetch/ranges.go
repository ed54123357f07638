package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Range is a range of the bytes of an object.
type Range struct{ Offset, Size int64 }

// Object is an object of which ranges are fetched.
type Object struct {
	fetcher *fetcher
	opened  sync.Mutex // protects the fetcher's validator
}

// OpenObject returns the object at a URL, without asking its server for anything. A
// URL that CheckURL rejects gives the error of CheckURL.
func OpenObject(url string, o Options) (*Object, error) {
	f := newFetcher(url, nil, o)
	var err error
	f.source, err = newSource(url, f.Options)
	return &Object{fetcher: f}, err
}

// Close closes idle connections.
func (o *Object) Close() {
	unixfs.Warn("close "+o.fetcher.name(), o.fetcher.source.close())
}

// Size returns the size of the object in bytes, once a range has been fetched. It is
// negative where the server does not tell.
func (o *Object) Size() int64 { return o.fetcher.progress.size.Load() }

// Fetch calls read with each range, for several at a time, in any order. If a transfer
// fails, it is resumed where it was, as by Download, and read does not notice. Retries
// are counted from the last byte that has arrived. It is an error if the server does
// not support ranges, if the object is too short, and if it changes, also between two
// calls. Fetch returns the first error, also of read, or the cause of ctx.
func (o *Object) Fetch(ctx context.Context, ranges []Range, read func(context.Context, Range, io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan Range)
	var fetching sync.WaitGroup
	for range min(o.fetcher.connections, len(ranges)) {
		fetching.Go(func() {
			for r := range todo {
				body := &rangeReader{object: o, ctx: ctx, rest: r}
				err := read(ctx, r, body)
				body.transfer.close()
				if body.err != nil {
					err = redact.Error(fmt.Errorf("fetch %s: %w", o.fetcher.name(), body.err))
				}
				if err != nil {
					cancel(err) // the first one counts
				}
			}
		})
	}
	for _, r := range ranges {
		select {
		case todo <- r:
		case <-ctx.Done():
		}
	}
	close(todo)
	fetching.Wait()
	return context.Cause(ctx)
}

// rangeReader reads a range.
type rangeReader struct {
	object   *Object
	ctx      context.Context
	rest     Range
	transfer *transfer // nil where none is open
	unread   []byte    // bytes of the transfer that Read has yet to return
	broken   error     // why the last transfer ended too early
	err      error     // of Read
}

func (r *rangeReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(r.unread) == 0 {
		if r.rest.Size == 0 {
			return 0, io.EOF
		}
		f := r.object.fetcher
		name := fmt.Sprintf("bytes %d to %d of %s", r.rest.Offset, r.rest.Offset+r.rest.Size-1, f.name())
		if r.err = f.retry(r.ctx, name, r.fill); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// fill reads more of the range, over a new transfer if there is none.
func (r *rangeReader) fill(ctx context.Context) (err error) {
	if err, r.broken = r.broken, nil; err != nil {
		return err
	}
	if r.transfer == nil {
		if r.transfer, err = r.object.open(ctx, r.rest); err != nil {
			return err
		}
	}
	n := 0
	for n == 0 && err == nil {
		n, err = r.transfer.next(min(chunkSize, r.rest.Size))
	}
	r.object.fetcher.receive(n)
	r.unread = r.transfer.buf[:n]
	r.rest.Offset, r.rest.Size = r.rest.Offset+int64(n), r.rest.Size-int64(n)
	if err == nil || err == io.EOF && r.rest.Size == 0 {
		return nil
	}
	err = positionError(err, r.rest.Offset, r.object.fetcher.progress.size.Load())
	r.transfer.close()
	r.transfer = nil
	if n > 0 {
		r.broken, err = err, nil // these bytes count nevertheless
	}
	return err
}

// open starts the transfer of a range.
func (o *Object) open(ctx context.Context, r Range) (*transfer, error) {
	o.opened.Lock()
	validator := o.fetcher.validator
	o.opened.Unlock()
	t := newTransfer(ctx, o.fetcher.limiter, o.fetcher.stallTimeout)
	if err := t.open(o.fetcher.source, r.Offset, r.Size, validator); err != nil {
		t.close()
		switch {
		case errors.Is(err, errChanged) && validator == "": // there is nothing that it could differ from
			err = permanent(fmt.Errorf("the object has no bytes %d to %d", r.Offset, r.Offset+r.Size-1))
		case errors.Is(err, errChanged):
			err = permanent(err)
		}
		return nil, err
	}
	o.opened.Lock()
	defer o.opened.Unlock()
	f := o.fetcher
	var err error
	switch {
	case f.validator != "" && t.object.validator != f.validator:
		err = permanent(errChanged)
	case t.offset != r.Offset:
		err = permanent(errNoRanges)
	case t.object.size >= 0 && t.object.size < r.Offset+r.Size: // another attempt would not get more
		err = permanent(fmt.Errorf("the object has only %d bytes, and not the bytes %d to %d", t.object.size, r.Offset, r.Offset+r.Size-1))
	default:
		f.validator = t.object.validator
		f.progress.size.Store(t.object.size)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}
