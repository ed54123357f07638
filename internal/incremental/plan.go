package incremental

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// maxRanges is how many ranges are fetched at most. It costs less to fetch what is
	// between two of them than to send more requests.
	maxRanges = 64
	// minGap is how many bytes between two ranges are fetched rather than sending
	// another request.
	minGap = 64 << 10
)

// plan says which ranges are to be fetched, and which pieces they are needed for.
type plan struct {
	*had
	units  []unit // in the order of the file
	ranges []fetch.Range
	large  sync.Mutex // held while a large unit is decompressed, see largeUnit
}

// unit is a frame in the file that is to be decompressed, and those pieces in it that
// are needed of it.
type unit struct {
	fetch.Range
	tar    fetch.Range     // what it decompresses to
	patch  *seekable.Patch // nil for a data frame
	pieces []int
}

// end returns the offset at which a range ends.
func end(r fetch.Range) int64 { return r.Offset + r.Size }

// newPlan returns the plan that costs less: with patches or without.
func newPlan(h *had) (*plan, error) {
	best, err := h.planWith(h.index.Patches)
	if err != nil || len(h.index.Patches) == 0 {
		return best, err
	}
	plain, err := h.planWith(nil)
	if err == nil && plain.cost() < best.cost() {
		best = plain
	}
	return best, err
}

// cost returns how many bytes are fetched. A request counts as minGap.
func (p *plan) cost() int64 {
	cost := minGap * int64(len(p.ranges))
	for _, r := range p.ranges {
		cost += r.Size
	}
	return cost
}

// planWith returns the plan that uses those of the given patches that are of use.
func (h *had) planWith(usable []seekable.Patch) (*plan, error) {
	x, p := h.index, &plan{had: h}
	missing := map[int][]int{} // the pieces that are to be fetched, by data frame
	for i := range h.missing() {
		piece := &x.Pieces[i]
		f := sort.Search(len(x.Frames), func(f int) bool { return x.Frames[f].TarOffset > piece.Offset }) - 1
		if piece.Offset+piece.Size > x.Frames[f].TarOffset+x.Frames[f].TarSize {
			return nil, errors.New("index of the archive: a piece is in two data frames")
		}
		missing[f] = append(missing[f], i)
	}
	patches, err := h.patchesOf(usable, missing)
	if err != nil {
		return nil, err
	}
	used := map[int]*unit{} // by patch
	for _, g := range h.groups(usable, missing, patches) {
		for _, f := range g.frames {
			frame := &x.Frames[f]
			left := &unit{Range: fetch.Range{Offset: frame.Offset, Size: frame.Size}, tar: fetch.Range{Offset: frame.TarOffset, Size: frame.TarSize}}
			for _, i := range missing[f] {
				n, ok := patches[i]
				if !ok || !g.patched && !hasBase(&usable[n]) {
					left.pieces = append(left.pieces, i)
					continue
				}
				if used[n] == nil {
					patch := &usable[n]
					used[n] = &unit{Range: fetch.Range{Offset: patch.Offset, Size: patch.Size}, tar: fetch.Range{Offset: patch.TarOffset, Size: patch.TarSize}, patch: patch}
				}
				used[n].pieces = append(used[n].pieces, i)
			}
			if len(left.pieces) > 0 {
				p.units = append(p.units, *left)
			}
		}
	}
	for _, u := range used {
		p.units = append(p.units, *u)
	}
	slices.SortFunc(p.units, func(a, b unit) int { return cmp.Compare(a.Offset, b.Offset) })
	p.merge()
	return p, nil
}

// hasBase reports whether there is a patch, and it was made against an older file.
func hasBase(p *seekable.Patch) bool { return p != nil && p.Base != (seekable.Base{}) }

// group is some data frames with missing pieces.
type group struct {
	frames  []int // their numbers
	patched bool  // patches without a base are used for their pieces
}

// groups returns the data frames with missing pieces in groups: two frames are in one
// if a patch without a base, as new files have, makes pieces of both. These patches are
// of use only if they save frames, in which there may be pieces of other files. So all
// those of a group are used if they are smaller than the frames that they save, or none.
func (h *had) groups(usable []seekable.Patch, missing map[int][]int, patches map[int]int) []group {
	frames := slices.Sorted(maps.Keys(missing))
	last := map[int]int{} // the last frame with pieces of a patch without a base
	for _, f := range frames {
		for _, i := range missing[f] {
			if n, ok := patches[i]; ok && !hasBase(&usable[n]) {
				last[n] = f
			}
		}
	}
	var groups []group
	for len(frames) > 0 {
		var cost, saved int64 // bytes of patches, and of frames
		count, end := 0, frames[0]
		for ; count < len(frames) && frames[count] <= end; count++ {
			f := frames[count]
			plain, needed := false, false
			for _, i := range missing[f] {
				n, ok := patches[i]
				switch {
				case !ok:
					needed = true
				case !hasBase(&usable[n]):
					plain = true
					if at, ok := last[n]; ok { // it has not been counted yet
						delete(last, n)
						cost += usable[n].Size
						end = max(end, at)
					}
				}
			}
			if plain && !needed {
				saved += h.index.Frames[f].Size
			}
		}
		groups = append(groups, group{frames[:count], cost < saved})
		frames = frames[count:]
	}
	return groups
}

// patchesOf returns the patch for each missing piece that has a usable one: the
// smallest of those that have a base, or else the smallest of the others.
func (h *had) patchesOf(usable []seekable.Patch, missing map[int][]int) (map[int]int, error) {
	x := h.index
	isMissing := map[int]bool{}
	for _, pieces := range missing {
		for _, i := range pieces {
			isMissing[i] = true
		}
	}
	better := func(a, b *seekable.Patch) bool {
		if hasBase(a) != hasBase(b) {
			return hasBase(a)
		}
		return a.Size < b.Size
	}
	patches := map[int]int{}
	// Each version has one patch at most for a piece, so that only an index that is
	// wrong takes more steps.
	steps := 64 * (len(x.Pieces) + len(x.Patches))
	for n := range usable {
		patch := &usable[n]
		if hasBase(patch) && h.whole[baseKey{patch.Base.FileSize, patch.Base.FileSum}] == "" {
			continue
		}
		first := sort.Search(len(x.Pieces), func(i int) bool { return x.Pieces[i].Offset >= patch.TarOffset })
		for i := first; i < len(x.Pieces) && x.Pieces[i].Offset+x.Pieces[i].Size <= patch.TarOffset+patch.TarSize; i++ {
			if steps--; steps < 0 {
				return nil, errors.New("index of the archive: its patches overlap too often")
			}
			if old, ok := patches[i]; isMissing[i] && (!ok || better(patch, &usable[old])) {
				patches[i] = n
			}
		}
	}
	return patches, nil
}

// merge sets the ranges: one for each unit, or for several together with what is between
// them, so that there are at most maxRanges.
func (p *plan) merge() {
	for gap := int64(minGap); ; gap *= 2 {
		p.ranges = p.ranges[:0]
		for _, u := range p.units {
			if last := len(p.ranges) - 1; last >= 0 && u.Offset-end(p.ranges[last]) <= gap {
				p.ranges[last].Size = max(end(p.ranges[last]), end(u.Range)) - p.ranges[last].Offset
			} else {
				p.ranges = append(p.ranges, u.Range)
			}
		}
		if len(p.ranges) <= maxRanges {
			return
		}
	}
}

// stats says what carrying out the plan does.
func (p *plan) stats() Stats {
	s := Stats{Requests: len(p.ranges)}
	for _, r := range p.ranges {
		s.Fetched += r.Size
	}
	patched := map[int]bool{} // by missing piece: whether it is made from an older file
	for _, u := range p.units {
		for _, i := range u.pieces {
			patched[i] = hasBase(u.patch)
		}
	}
	for _, f := range p.files {
		missing, fromOlder := false, false
		for i := f.first; i <= f.last; i++ {
			by, ok := patched[int(i)]
			missing, fromOlder = missing || ok, fromOlder || by || !ok
		}
		switch {
		case !missing:
			s.Kept++
		case fromOlder:
			s.Patched++
		default:
			s.New++
		}
	}
	return s
}

// read reads a range, and writes the pieces in it to the tar.
func (p *plan) read(ctx context.Context, r fetch.Range, in io.Reader) error {
	first := sort.Search(len(p.units), func(i int) bool { return p.units[i].Offset >= r.Offset })
	at := r.Offset
	for i := first; i < len(p.units) && end(p.units[i].Range) <= end(r); i++ {
		u := &p.units[i]
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, in, u.Offset-at); err != nil {
			return err
		}
		frame := make([]byte, u.Size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		at = end(u.Range)
		if err := p.decompress(u, frame); err != nil {
			return fmt.Errorf("the bytes from %d to %d of the archive: %w", u.Offset, end(u.Range), err)
		}
	}
	_, err := io.CopyN(io.Discard, in, end(r)-at)
	return err
}

// largeUnit is how many bytes a unit and its base may have together so that several
// such units are decompressed at a time. Larger ones would take too much memory.
const largeUnit = 1 << 20

// decompress decompresses a unit, and writes its pieces to the tar.
func (p *plan) decompress(u *unit, frame []byte) error {
	size := u.tar.Size
	if u.patch != nil {
		size += u.patch.Base.Size
	}
	if size > largeUnit {
		p.large.Lock()
		defer p.large.Unlock()
	}
	options := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(seekable.MaxFrame), zstd.WithDecoderMaxWindow(2 * seekable.MaxBase)}
	if hasBase(u.patch) {
		dictionary, err := p.readBase(u.patch.Base)
		if err != nil {
			return err
		}
		options = append(options, zstd.WithDecoderDictRaw(0, dictionary))
	}
	z, err := zstd.NewReader(nil, options...)
	if err != nil {
		return err
	}
	defer z.Close()
	contents, err := z.DecodeAll(frame, make([]byte, 0, u.tar.Size))
	if err != nil {
		return err
	}
	if int64(len(contents)) != u.tar.Size {
		return fmt.Errorf("they decompress to %d bytes instead of %d", len(contents), u.tar.Size)
	}
	for _, i := range u.pieces {
		piece := &p.index.Pieces[i]
		b := contents[piece.Offset-u.tar.Offset:][:piece.Size]
		if seekable.SumOf(b) != piece.Sum {
			return errPiece
		}
		if err := p.write(b, piece.Offset); err != nil {
			return err
		}
	}
	return nil
}

// readBase returns the dictionary of a patch.
func (h *had) readBase(b seekable.Base) ([]byte, error) {
	r := h.older.reader()
	defer h.older.done(r)
	var st unix.Stat_t
	path := h.whole[baseKey{b.FileSize, b.FileSum}]
	fd, err := r.OpenRegular(path, &st)
	if err != nil {
		return nil, readError(path, err)
	}
	defer unix.Close(fd)
	contents := make([]byte, b.Size)
	// If the file has become shorter, what is made of it has a wrong digest.
	if _, err = unixfs.ReadAt(fd, contents, b.Offset); err != nil {
		return nil, readError(path, err)
	}
	return contents, nil
}
