package archive

import (
	"context"
	"io"
)

// aheadReader reads from another reader in a goroutine of its own, up to 1 MiB
// ahead. It lets the download, the decompression and the parsing of the tar
// overlap.
type aheadReader struct {
	full  chan aheadBuffer // filled by the goroutine
	empty chan []byte      // for the goroutine to fill
	stopc chan struct{}    // closed to end the goroutine

	used []byte // what next has returned last
	rest []byte // what Read has yet to return of a buffer
	err  error  // what the other reader ended with, io.EOF included
}

// aheadBuffer is the result of filling a buffer: some bytes, and then the error
// that reading ended with, or nil.
type aheadBuffer struct {
	b   []byte
	err error
}

// readAhead starts to read from r. When no more is read, because r or ctx has
// ended or stop was called, the goroutine calls closed. The caller has to call
// stop.
func readAhead(ctx context.Context, r io.Reader, closed func()) *aheadReader {
	const buffers, size = 4, 256 << 10
	a := &aheadReader{
		full:  make(chan aheadBuffer, buffers),
		empty: make(chan []byte, buffers),
		stopc: make(chan struct{}),
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
			case <-a.stopc:
				return
			}
			n, err := 0, ctx.Err()
			for n < len(b) && err == nil {
				var more int
				more, err = r.Read(b[n:])
				n += more
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

// stop ends the goroutine and waits until it has called closed.
func (a *aheadReader) stop() {
	close(a.stopc)
	for range a.full {
	}
}
