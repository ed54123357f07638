package stretcher

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// spool is where an object's bytes are put as they arrive, in any order, and
// from where they are read in order while later ones are still on their way.
type spool struct {
	store  store
	limit  int64 // how many bytes it takes; 0 is any number
	mu     sync.Mutex
	change *sync.Cond // of what follows
	ready  int64      // how many bytes from the first on have arrived
	lead   int64      // how many of them those may read that follow the leading reader
	round  int        // grows when the object has to be started over
	ended  bool
	err    error // why the rest will not come
}

// store is what a spool keeps its bytes in: a file, or memory for what has to
// be read even where the disk is full.
type store interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// errRestarted tells a reader of a spool that the object is started over, and
// what it has read is to be forgotten.
var errRestarted = errors.New("the download was started over")

func newSpool(s store, limit int64) *spool {
	sp := &spool{store: s, limit: limit, lead: math.MaxInt64}
	sp.change = sync.NewCond(&sp.mu)
	return sp
}

// writeAt stores p without telling the readers; see arrived.
func (s *spool) writeAt(p []byte, offset int64) error {
	if err := s.fits(offset + int64(len(p))); err != nil {
		return err
	}
	if _, err := s.store.WriteAt(p, offset); err != nil {
		return permanent(spaceError("the download", err, offset+int64(len(p))))
	}
	return nil
}

// fits tells whether the spool takes an object of that size.
func (s *spool) fits(size int64) error {
	if s.limit > 0 && size > s.limit {
		return permanent(fmt.Errorf("larger than %s", humanize.IBytes(uint64(s.limit))))
	}
	return nil
}

// arrived tells the readers that the first n bytes are there.
func (s *spool) arrived(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = max(s.ready, n)
	s.change.Broadcast()
}

// restart forgets all bytes.
func (s *spool) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = 0
	if s.lead != math.MaxInt64 {
		s.lead = 0
	}
	s.round++
	s.change.Broadcast()
	if err := s.store.Truncate(0); err != nil {
		return permanent(fmt.Errorf("start over: %w", err))
	}
	return nil
}

// end tells the readers that no more bytes come: all are there, or err says
// why not.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.err = err
	s.change.Broadcast()
}

func (s *spool) len() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// reader returns a reader of the spool from its first byte on, which waits
// for bytes that have not arrived yet.
func (s *spool) reader(leads bool) *spoolReader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &spoolReader{spool: s, round: s.round, leads: leads}
}

// read calls reader with the bytes from the first on, and again each time that
// they are started over meanwhile. Where it leads, see setLead.
func (s *spool) read(leads bool, reader func(io.Reader) error) error {
	for {
		r := s.reader(leads)
		err := reader(r)
		if leads {
			s.setLead(math.MaxInt64)
		}
		// What it makes of these bytes counts only if they stay.
		if !errors.Is(err, errRestarted) && !s.restarted(r.round) {
			return err
		}
	}
}

// restarted waits for the end of the spool, or for another round, and reports
// whether it was that.
func (s *spool) restarted(round int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for round == s.round && !s.ended {
		s.change.Wait()
	}
	return round != s.round
}

// setLead says how far the leading reader is. Called with 0 before any reads,
// it makes the others stay behind that one until it is done: so the longest
// work never waits for a processor that is busy with what has time.
func (s *spool) setLead(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lead = n
	s.change.Broadcast()
}

type spoolReader struct {
	spool  *spool
	round  int
	offset int64
	leads  bool
}

func (r *spoolReader) Read(p []byte) (int, error) {
	s := r.spool
	s.mu.Lock()
	for r.round == s.round && r.offset == r.limit() && !(s.ended && r.offset == s.ready) {
		s.change.Wait()
	}
	limit, round, err := r.limit(), s.round, s.err
	s.mu.Unlock()
	switch {
	case round != r.round:
		return 0, errRestarted
	case r.offset < limit:
	case err != nil:
		return 0, err
	default:
		return 0, io.EOF
	}
	n, err := s.store.ReadAt(p[:min(int64(len(p)), limit-r.offset)], r.offset)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round != r.round {
		return 0, errRestarted // the bytes may be the next round's
	}
	if n > 0 {
		err = nil
	}
	r.offset += int64(n)
	if lead := r.offset &^ (chunkSize - 1); r.leads && lead > s.lead {
		s.lead = lead
		s.change.Broadcast()
	}
	return n, err
}

// limit is up to where r may read.
func (r *spoolReader) limit() int64 {
	if r.leads {
		return r.spool.ready
	}
	return min(r.spool.ready, r.spool.lead)
}

// memory is a store in memory.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(offset) + len(p); end > len(m.data) {
		m.data = append(m.data, make([]byte, end-len(m.data))...)
	}
	return copy(m.data[offset:], p), nil
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if offset >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = m.data[:size]
	return nil
}

// checkSpace finds out before the download that its spool cannot hold it.
func checkSpace(size int64) error {
	free, err := freeSpace(os.TempDir())
	if err != nil {
		return permanent(err)
	}
	if size > free {
		return permanent(spaceError("the download", unix.ENOSPC, size))
	}
	return nil
}

// spaceError says of an ENOSPC in TMPDIR what is full, and what it takes for
// what is to be put there.
func spaceError(what string, err error, size int64) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	left := "an unknown space"
	if free, err := freeSpace(os.TempDir()); err == nil {
		left = humanize.IBytes(uint64(free))
	}
	return fmt.Errorf("%s needs at least %s in %s, which has %s left (free some, or set TMPDIR to another directory): %w",
		what, humanize.IBytes(uint64(size)), os.TempDir(), left, err)
}

// freeSpace returns how many bytes this user can still write to dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Blocks == 0 {
		return math.MaxInt64, nil // a filesystem that does not tell
	}
	blocks := st.Bavail
	if os.Geteuid() == 0 {
		blocks = st.Bfree // root may use what is kept for it
	}
	return int64(blocks) * st.Frsize, nil
}
