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

	sizes  map[int64]bool         // of files that are worth reading; larger ones than a chunk all are
	wanted map[seekable.Sum]int32 // contents that files need which are not kept
	bases  map[baseKey]bool       // the older files that patches were made against

	mu     sync.Mutex // guards the following while workers fill them
	places []place    // of what is wanted, by its number
	found  int        // how many of them have been found
	whole  map[baseKey]string
}

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
	h := &had{scattered: s, sizes: map[int64]bool{}, wanted: map[seekable.Sum]int32{}, bases: map[baseKey]bool{}, whole: map[baseKey]string{}}
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
		if others, err = h.others(ctx, candidates); err == nil {
			err = h.hashAll(ctx, others)
		}
	}
	return h, err
}

// check finds out whether the file of the same path in the older tree has the
// contents of a file. One that cannot be read is of no use; another error will say so
// if it matters.
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
	for i := range h.files {
		f := &h.files[i]
		if f.kept {
			continue
		}
		candidates = append(candidates, f.path)
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
		if p.Base == (seekable.Base{}) {
			continue
		}
		h.bases[baseKey{p.Base.FileSize, p.Base.FileSum}] = true
		h.sizes[p.Base.FileSize] = true
		if p.Base.Path != "" {
			candidates = append(candidates, p.Base.Path)
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
// are more of them than may be read. Other file systems are not entered. What cannot
// be read is not there.
func (h *had) others(ctx context.Context, candidates []string) ([]string, error) {
	seen := make(map[string]bool, len(h.files)+len(candidates))
	for _, name := range candidates {
		seen[name] = true
	}
	for i := range h.files {
		// The whole digest of a large file, which may be that of a base, is not known.
		if f := &h.files[i]; f.kept && (f.first == f.last || !h.sizes[h.end(f)-h.start(f)]) {
			seen[f.path] = true
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
				if h.worthReading(st.Size) && !seen[name] {
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
	fd, err := unixfs.OpenDir(h.older.fd, ".") // a descriptor at the beginning of the list
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	walk(fd, "")
	return others, context.Cause(ctx)
}

// maxVisits is how many files of the older tree are looked at, beyond those of the
// paths that the archive names.
const maxVisits = 1 << 20

// worthReading reports whether a file of a size may have wanted contents.
func (h *had) worthReading(size int64) bool {
	return size > seekable.MaxChunk || size > 0 && h.sizes[size]
}

// hashAll hashes the files at paths where a regular file is that is worth reading.
func (h *had) hashAll(ctx context.Context, paths []string) error {
	return h.older.eachWith(ctx, len(paths), func(i int, r *reader) error {
		h.hashFile(ctx, paths[i], r)
		return nil
	})
}

// hashFile hashes a file. One that cannot be read is of no use.
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
	n := 0 // bytes in buf
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
