package incremental

import (
	"context"
	"crypto/sha256"
	"hash"
	"iter"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// had is what an older tree has of what is wanted.
type had struct {
	*scattered
	budget atomic.Int64 // bytes that may still be hashed

	sizes  map[int64]bool         // of files that are worth reading, as are all larger than a chunk
	wanted map[seekable.Sum]int32 // the numbers of the contents of files that are not kept
	bases  map[baseKey]bool       // the older files that patches were made against
	seen   map[string]bool        // the paths of files that are not to be listed again

	mu     sync.Mutex         // guards the following while workers fill them
	places []place            // of what is wanted, by its number
	found  int                // how many of them have been found
	whole  map[baseKey]string // the paths of bases that have been found
}

// baseKey identifies the older file that a patch was made against.
type baseKey struct {
	size int64
	sum  seekable.Sum
}

// place is where contents are in the older tree.
type place struct {
	path   string // "" if they have not been found
	offset int64
}

// search looks for contents in the older tree: it sets which files are kept, and
// looks for the contents of the others elsewhere.
func search(ctx context.Context, s *scattered) (*had, error) {
	x := s.index
	h := &had{scattered: s, sizes: map[int64]bool{}, wanted: map[seekable.Sum]int32{}, bases: map[baseKey]bool{}, seen: map[string]bool{}, whole: map[baseKey]string{}}
	// dest may have far more than what is deployed there: logs, uploads, databases.
	// To read all of it would take longer than any download.
	h.budget.Store(2*x.TarSize + 16<<20)
	if s.older.fd >= 0 {
		if err := s.older.eachWith(ctx, len(s.files), func(i int, r *reader) error { return h.check(ctx, &s.files[i], r) }); err != nil {
			return nil, err
		}
	}
	candidates := h.listWanted()
	if len(h.places) == 0 || s.older.fd < 0 {
		return h, nil
	}
	h.findKept()
	err := h.hashAll(ctx, candidates)
	if err == nil && h.found < len(h.places) {
		var others []string
		if others, err = h.others(ctx); err == nil {
			err = h.hashAll(ctx, others)
		}
	}
	return h, err
}

// check finds out whether the file of the same path in the older tree has the
// contents of a file. If it cannot be read, the contents are fetched instead.
func (h *had) check(ctx context.Context, f *file, r *reader) error {
	var st unix.Stat_t
	fd, err := r.OpenRegular(f.path, &st)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if st.Size != h.end(f)-h.start(f) {
		return nil
	}
	h.budget.Add(-st.Size)
	same, err := haveSums(ctx, fd, 0, h.pieces(f), r.buf)
	if err != nil || !same {
		return nil
	}
	f.kept, f.mark = true, h.unchanging.mark(&st)
	return nil
}

// listWanted sets what is wanted, and returns the paths where it is most likely.
func (h *had) listWanted() (candidates []string) {
	add := func(path string) {
		if !h.seen[path] { // a large file may be the base of many patches
			h.seen[path] = true
			candidates = append(candidates, path)
		}
	}
	for i := range h.files {
		f := &h.files[i]
		if f.kept {
			continue
		}
		add(f.path)
		pieces := h.pieces(f)
		if len(pieces) == 1 {
			h.sizes[pieces[0].Size] = true
		}
		for j := range pieces {
			if _, ok := h.wanted[pieces[j].Sum]; !ok {
				h.wanted[pieces[j].Sum] = int32(len(h.places))
				h.places = append(h.places, place{})
			}
		}
	}
	if len(h.places) == 0 {
		return nil
	}
	for _, p := range h.index.Patches {
		if !hasBase(&p) {
			continue
		}
		h.bases[baseKey{p.Base.FileSize, p.Base.FileSum}] = true
		h.sizes[p.Base.FileSize] = true
		if p.Base.Path != "" {
			add(p.Base.Path)
		}
	}
	return candidates
}

// findKept finds what is wanted in the files that are kept.
func (h *had) findKept() {
	for i := range h.files {
		f := &h.files[i]
		if !f.kept {
			continue
		}
		for _, p := range h.pieces(f) {
			h.add(p.Sum, place{f.path, p.Offset - h.start(f)})
		}
		if size := h.end(f) - h.start(f); f.first == f.last {
			h.addBase(baseKey{size, h.index.Pieces[f.first].Sum}, f.path)
		}
	}
}

// others returns the paths of all other files that are worth reading, until there
// are more of them than may be read. It does not enter other file systems, and leaves
// out what it cannot read.
func (h *had) others(ctx context.Context) ([]string, error) {
	for i := range h.files {
		// The digest of a whole large file, which may be that of a base, is not known.
		if f := &h.files[i]; f.kept && (f.first == f.last || !h.sizes[h.end(f)-h.start(f)]) {
			h.seen[f.path] = true
		}
	}
	var top unix.Stat_t
	if err := unix.Fstat(h.older.fd, &top); err != nil {
		return nil, err
	}
	var others []string
	left, visits := h.budget.Load(), maxVisits
	var walk func(fd int, dir string)
	walk = func(fd int, dir string) {
		names, err := unixfs.ReadDir(fd, 0)
		if err != nil {
			return
		}
		for _, d := range names {
			if visits--; visits < 0 || left <= 0 || ctx.Err() != nil {
				return
			}
			var st unix.Stat_t
			if !d.IsDir() && d.Kind != unix.S_IFREG || unix.Fstatat(fd, d.Name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			name := path.Join(dir, d.Name)
			if !d.IsDir() {
				if h.worthReading(st.Size) && !h.seen[name] {
					left -= st.Size
					others = append(others, name)
				}
				continue
			}
			if st.Dev != top.Dev {
				continue
			}
			if sub, err := unixfs.OpenDir(fd, d.Name); err == nil {
				walk(sub, name)
				unix.Close(sub)
			}
		}
	}
	fd, err := unixfs.OpenDir(h.older.fd, ".") // with a position of its own, at the start of the list
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	walk(fd, "")
	return others, context.Cause(ctx)
}

// maxVisits is how many names in the older tree others looks at.
const maxVisits = 1 << 20

// worthReading reports whether a file of a size may have wanted contents.
func (h *had) worthReading(size int64) bool {
	return size > seekable.MaxChunk || size > 0 && h.sizes[size]
}

// hashAll hashes those files at paths that are worth reading.
func (h *had) hashAll(ctx context.Context, paths []string) error {
	return h.older.eachWith(ctx, len(paths), func(i int, r *reader) error {
		h.hashFile(ctx, paths[i], r)
		return nil
	})
}

// hashFile looks for what is wanted in a file. It ignores one that cannot be read.
func (h *had) hashFile(ctx context.Context, path string, r *reader) {
	var st unix.Stat_t
	fd, err := r.OpenRegular(path, &st)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	size, buf := st.Size, r.buf
	if !h.worthReading(size) {
		return
	}
	if h.budget.Add(-size) < 0 {
		h.budget.Add(size) // a smaller one may still fit
		return
	}
	var whole hash.Hash
	if size > seekable.MaxChunk && h.sizes[size] {
		whole = sha256.New()
	}
	n := 0 // bytes at the start of buf that have been read already
	for offset := int64(0); offset < size && ctx.Err() == nil; {
		want := int(min(int64(len(buf)), size-offset))
		if full, err := unixfs.ReadAt(fd, buf[n:want], offset+int64(n)); err != nil || !full {
			return // it has become shorter
		}
		chunk := buf[:want]
		if size > seekable.MaxChunk {
			chunk = buf[:seekable.Cut(chunk)]
		}
		sum := seekable.SumOf(chunk)
		h.add(sum, place{path, offset})
		if size <= seekable.MaxChunk {
			h.addBase(baseKey{size, sum}, path)
		}
		if whole != nil {
			whole.Write(chunk)
		}
		offset += int64(len(chunk))
		n = copy(buf, buf[len(chunk):want])
	}
	if whole != nil && ctx.Err() == nil {
		h.addBase(baseKey{size, seekable.Sum(whole.Sum(nil))}, path)
	}
}

// add notes where contents are, if they are wanted.
func (h *had) add(sum seekable.Sum, at place) {
	i, ok := h.wanted[sum]
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.places[i].path == "" {
		h.places[i] = at
		h.found++
	}
}

// addBase notes where a file is, if a patch was made against it.
func (h *had) addBase(key baseKey, path string) {
	if !h.bases[key] {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole[key] = path
}

// placeOf returns where the contents of a piece of a file that is not kept are.
func (h *had) placeOf(p *seekable.Piece) (at place, ok bool) {
	if i, wanted := h.wanted[p.Sum]; wanted {
		at = h.places[i]
	}
	return at, at.path != ""
}

// missing iterates over the numbers of the pieces that the older tree does not have.
func (h *had) missing() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range h.files {
			f := &h.files[i]
			for j := f.first; j <= f.last && !f.kept; j++ {
				if _, ok := h.placeOf(&h.index.Pieces[j]); !ok && !yield(int(j)) {
					return
				}
			}
		}
	}
}
