package fetch

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// spool holds the bytes of an object. They are written as they arrive, in any
// order, and read in order while later ones have yet to arrive.
//
// One of its readers leads. The others, the followers, may not read past the
// leader until it is done.
type spool struct {
	store  store
	limit  int64 // how many bytes it may hold; 0 is as many as TMPDIR has space for
	mu     sync.Mutex
	change *sync.Cond // signals a change of the fields below
	ready  int64      // how many bytes from the first one on have arrived
	lead   int64      // how many of them followers may read
	round  int        // how often the object was started over
	ended  bool       // no more bytes arrive
	err    error      // of the download or of a reader, whichever failed first
}

// store is what a spool keeps its bytes in: a file, or memory for an object
// that has to be readable even when the disk is full.
type store interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// errRestarted tells a reader of a spool that the object is started over, so
// that the bytes it has read do not count.
var errRestarted = errors.New("the download was started over")

func newSpool(s store, limit int64) *spool {
	sp := &spool{store: s, limit: limit}
	sp.change = sync.NewCond(&sp.mu)
	return sp
}

// admit fails where the spool cannot hold an object of size bytes, of which it
// has the first ones up to offset. An object of unknown size is admitted.
func (s *spool) admit(size, offset int64) error {
	if s.limit > 0 {
		return s.checkLimit(size)
	}
	if err := unixfs.CheckTempSpace("the download", size-offset); err != nil {
		return permanent(err)
	}
	return nil
}

func (s *spool) checkLimit(size int64) error {
	if s.limit > 0 && size > s.limit {
		return permanent(fmt.Errorf("larger than %s", humanize.IBytes(uint64(s.limit))))
	}
	return nil
}

// writeAt stores p. Readers do not get it before arrived says so.
func (s *spool) writeAt(p []byte, offset int64) error {
	end := offset + int64(len(p))
	if err := s.checkLimit(end); err != nil {
		return err
	}
	if _, err := s.store.WriteAt(p, offset); err != nil {
		return permanent(unixfs.TempSpaceError("the download", err, end))
	}
	return nil
}

// arrived tells the readers that the first n bytes have been stored.
func (s *spool) arrived(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = max(s.ready, n)
	s.change.Broadcast()
}

// restart discards all bytes and tells the readers so.
func (s *spool) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready, s.lead = 0, 0
	s.round++
	s.change.Broadcast()
	if err := s.store.Truncate(0); err != nil {
		return permanent(fmt.Errorf("start over: %w", err))
	}
	return nil
}

// end tells the readers that no more bytes arrive: err is nil where the spool
// has the whole object, else why the download failed.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.err = cmp.Or(s.err, err)
	s.change.Broadcast()
}

// len returns how many bytes from the first one on have arrived.
func (s *spool) len() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// read calls reader with the bytes from the first one on, and again each time
// the object is started over, also after reader has returned nil. An error that
// neither a restart nor the failure of the download explains makes all other
// readers fail, and is returned; so one reader at most returns an error.
//
// One of the readers has to lead: followers may not read past the leader until
// it has returned, so that on few CPUs the slow path, the decompressor, is never
// starved by a fast one, the checksum.
func (s *spool) read(leads bool, reader func(io.Reader) error) error {
	for {
		r := s.newReader(leads)
		err := reader(r)
		if final, err := s.settle(r, err); final {
			return err
		}
	}
}

// settle decides what counts of the result of a reader that has read from r. It
// reports false where the reader has to be called again.
func (s *spool) settle(r *spoolReader, err error) (final bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.leads && s.round == r.round {
		s.lead = math.MaxInt64
		s.change.Broadcast()
	}
	// Success counts only if the bytes that were read stay.
	for err == nil && s.round == r.round && !s.ended {
		s.change.Wait()
	}
	switch {
	case s.err != nil:
		return true, nil
	case s.round != r.round:
		return false, nil
	}
	s.err = err
	s.change.Broadcast()
	return true, err
}

// newReader returns a reader of the bytes from the first one on.
func (s *spool) newReader(leads bool) *spoolReader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &spoolReader{spool: s, round: s.round, leads: leads}
}

// spoolReader reads a spool in order.
type spoolReader struct {
	spool  *spool
	round  int // of the spool, when the reader was created
	offset int64
	leads  bool
}

// Read waits for bytes that have not arrived yet. It fails with errRestarted
// when the object has been started over, and with the error of the download, or
// of another reader, as soon as that fails: the bytes that have arrived by then
// are of no use.
func (r *spoolReader) Read(p []byte) (int, error) {
	s := r.spool
	s.mu.Lock()
	for s.round == r.round && s.err == nil && r.offset == r.limit() && !(s.ended && r.offset == s.ready) {
		s.change.Wait()
	}
	limit, round, err := r.limit(), s.round, s.err
	s.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case round != r.round:
		return 0, errRestarted
	case r.offset == limit:
		return 0, io.EOF
	}
	n, err := s.store.ReadAt(p[:min(int64(len(p)), limit-r.offset)], r.offset)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round != r.round {
		return 0, errRestarted // the bytes may be those of the next round
	}
	if n > 0 {
		err = nil
	}
	r.offset += int64(n)
	// Followers are woken once for a whole chunk, not for every short read.
	if lead := r.offset - r.offset%chunkSize; r.leads && lead > s.lead {
		s.lead = lead
		s.change.Broadcast()
	}
	return n, err
}

// limit returns up to which offset r may read. The caller holds spool.mu.
func (r *spoolReader) limit() int64 {
	if r.leads {
		return r.spool.ready
	}
	return min(r.spool.ready, r.spool.lead)
}

// memory is a store in memory. Its zero value is empty.
type memory struct {
	mu    sync.Mutex
	bytes []byte
}

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(offset) + len(p); end > len(m.bytes) {
		m.bytes = append(m.bytes, make([]byte, end-len(m.bytes))...)
	}
	return copy(m.bytes[offset:], p), nil
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if offset >= int64(len(m.bytes)) {
		return 0, io.EOF
	}
	n := copy(p, m.bytes[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = m.bytes[:size]
	return nil
}
