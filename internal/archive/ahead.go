package archive

import (
	"context"
	"io"
)

// aheadReader reads from another reader in a goroutine of its own, up to 1 MiB
// ahead. It lets the download, the decompression and the parsing of the tar
// overlap.
type aheadReader struct {
	full   chan aheadBuffer   // filled by the goroutine
	empty  chan []byte        // for the goroutine to fill
	cancel context.CancelFunc // ends the goroutine

	used []byte // what next has returned last
	rest []byte // the part of a buffer that Read has not returned yet
	err  error  // what the other reader ended with, io.EOF included
}

// aheadBuffer is the result of filling a buffer: some bytes, and then the error
// that reading ended with, or nil.
type aheadBuffer struct {
	b   []byte
	err error
}

// readAhead starts to read from r. When r or ctx has ended, or stop was called, the
// goroutine calls closed and ends. The caller has to call stop.
func readAhead(ctx context.Context, r io.Reader, closed func()) *aheadReader {
	const buffers, size = 4, 256 << 10
	ctx, cancel := context.WithCancel(ctx)
	a := &aheadReader{
		full:   make(chan aheadBuffer, buffers),
		empty:  make(chan []byte, buffers),
		cancel: cancel,
	}
	for range buffers {
		a.empty <- make([]byte, size)
	}
	go func() {
		defer close(a.full)
		defer closed()
		for {
			var b []byte
			select {
			case b = <-a.empty:
			case <-ctx.Done():
			}
			n, err := 0, ctx.Err()
			for n < len(b) && err == nil {
				var more int
				more, err = r.Read(b[n:])
				n += more
				if err == nil {
					err = ctx.Err() // before it waits for more
				}
			}
			a.full <- aheadBuffer{b[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// next returns the next bytes, at least one. They are valid until next is
// called again.
func (a *aheadReader) next() ([]byte, error) {
	for a.err == nil {
		if a.used != nil {
			a.empty <- a.used[:cap(a.used)]
			a.used = nil
		}
		filled := <-a.full
		a.err = filled.err
		if len(filled.b) > 0 {
			a.used = filled.b
			return filled.b, nil
		}
	}
	return nil, a.err
}

// Read implements io.Reader on top of next.
func (a *aheadReader) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		var err error
		if a.rest, err = a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends the goroutine after the read that is in progress, and waits until it has
// called closed.
func (a *aheadReader) stop() {
	a.cancel()
	for range a.full { // the goroutine may wait for room in it
	}
}
