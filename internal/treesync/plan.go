package stretcher

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/rsyncfilter"
)

// syncing is one sync of a tree to a directory that may have files already.
type syncing struct {
	rules    *rsyncfilter.List
	attrs    *attributes
	contents contents
	crew     *crew
	make     *extraction // of what is staged
	root     *dirPlan

	mu     sync.Mutex // for the lists of plans and areas, while workers fill them
	areas  []*stagingArea
	opened []openedDir
	counts struct{ created, changed, deleted, unchanged, bytes atomic.Int64 }
}

// dirPlan is what is to be done in a directory of dest. What may stay as it is
// has no place in it.
type dirPlan struct {
	name, path string
	e          *entry // nil where only protected names keep the directory
	area       *stagingArea
	stage      string // the directory in the area that has what is staged

	staged   []string // names to be renamed from there, that dest does not have
	swapped  []string // names to be exchanged with what dest has
	repairs  []string // names that only need another mode, owner or time
	retimed  []string // those of them for which rsync would look at the contents
	removals []string // names to be taken out, with all that is below
	deleted  []string // the paths of all that is thereby deleted
	dirs     []*dirPlan
	mode     uint32 // the directory's own, before
	foreign  bool   // belongs to another user, and only root or he may change that
	differs  bool   // in mode, owner or time
}

func (p *dirPlan) empty() bool {
	return !p.differs && !p.changes() && len(p.repairs) == 0 && len(p.dirs) == 0
}

// changes reports whether names come or go.
func (p *dirPlan) changes() bool {
	return len(p.staged) > 0 || len(p.swapped) > 0 || len(p.removals) > 0
}

func (p *dirPlan) error(name string, err error) error {
	return fmt.Errorf("%s: %w", path.Join(".", p.path, name), err)
}

// stage compares dest with the tree, and stages what is new. It changes
// nothing of dest but for the staging directory in it.
func (y *syncing) stage(ctx context.Context, root *entry, dest int, to string) error {
	y.crew = newCrew(ctx)
	y.make = &extraction{contents: y.contents, attrs: y.attrs, crew: y.crew}
	y.root = &dirPlan{e: root}
	y.attrs.madeIn(dest)
	mount, err := y.beginDir(dest, y.root, mountID{})
	if err == nil {
		y.root.area.parent = to
		err = y.compareDir(dest, mount, y.root)
	}
	y.crew.stopOn(err)
	return y.crew.end()
}

// beginDir looks at a directory that dest and the tree both have.
func (y *syncing) beginDir(fd int, p *dirPlan, parent mountID) (mountID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return mountID{}, p.error("", err)
	}
	p.mode, p.differs = st.Mode, !y.attrs.match(&st, p.e)
	p.foreign = !y.attrs.root && int(st.Uid) != y.attrs.uid
	mount := mountOf(fd, &st)
	if mount == parent {
		return mount, nil
	}
	var err error
	if p.area, err = y.newArea(fd, st.Mtim, p); err != nil {
		return mount, p.error("", err)
	}
	return mount, nil
}

// compareDir plans what is to be done in a directory that dest and the tree
// both have, and below it.
func (y *syncing) compareDir(fd int, mount mountID, p *dirPlan) error {
	found, err := readDir(fd)
	if err != nil {
		return p.error("", err)
	}
	var both, extra []dirent
	var missing []string
	have := make(map[string]bool, len(found))
	for _, old := range found {
		have[old.name] = true
		if p.e.children[old.name] != nil {
			both = append(both, old)
		} else {
			extra = append(extra, old)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(p.e.children), p.e.byOffset) {
		if !have[name] {
			missing = append(missing, name)
		}
	}
	slices.SortFunc(both, func(a, b dirent) int { return p.e.byOffset(a.name, b.name) })
	if _, err := y.planRemovals(fd, mount, p, extra); err != nil {
		return err
	}
	var pending sync.WaitGroup
	const batch = 16
	for names := range slices.Chunk(missing, batch) {
		y.crew.do(&pending, func() error { return y.stageNew(p, names) })
	}
	for olds := range slices.Chunk(both, batch) {
		y.crew.do(&pending, func() error { return y.compareFiles(fd, mount, p, olds) })
	}
	for _, old := range both {
		if e := p.e.children[old.name]; e.isDir() && old.kind == unix.S_IFDIR {
			y.crew.do(&pending, func() error { return y.compareSubdir(fd, mount, p, old.name, e) })
		}
	}
	y.crew.wait(&pending)
	if p.foreign && (p.differs || p.changes() && !p.e.implicit) {
		return p.error("", errors.New("belongs to another user, so its mode, group and time cannot be set"))
	}
	return nil
}

func (y *syncing) compareSubdir(parent int, mount mountID, in *dirPlan, name string, e *entry) error {
	p := &dirPlan{name: name, path: path.Join(in.path, name), e: e, area: in.area}
	fd, err := y.openDir(parent, name)
	if err != nil {
		return p.error("", err)
	}
	defer unix.Close(fd)
	own, err := y.beginDir(fd, p, mount)
	if err != nil {
		return err
	}
	if err := y.compareDir(fd, own, p); err != nil {
		return err
	}
	if p.differs {
		y.counts.changed.Add(1)
	} else {
		y.counts.unchanged.Add(1)
	}
	if !p.empty() {
		y.mu.Lock()
		in.dirs = append(in.dirs, p)
		y.mu.Unlock()
	}
	return nil
}

// compareFiles looks at names that dest and the tree both have, except where
// both are directories.
func (y *syncing) compareFiles(fd int, mount mountID, p *dirPlan, olds []dirent) error {
	for _, old := range olds {
		if err := y.crew.ctx.Err(); err != nil {
			return err
		}
		e := p.e.children[old.name]
		switch oldDir := old.kind == unix.S_IFDIR; {
		case oldDir && e.isDir():
			continue
		case oldDir:
			// What is in there has to go, as if the archive had nothing for it.
			sub := &dirPlan{path: path.Join(p.path, old.name)}
			kept, err := y.planRemoval(fd, mount, sub, old.name)
			if err != nil {
				return err
			}
			if kept {
				return p.error(old.name, errors.New("cannot be replaced: it is a directory, of which excludes protect a part"))
			}
			y.mu.Lock()
			p.deleted = append(p.deleted, sub.deleted...)
			y.mu.Unlock()
			err = y.stageName(p, &p.swapped, old.name, e)
			if err != nil {
				return err
			}
			y.counts.changed.Add(1)
			continue
		case e.isDir():
			if err := y.stageName(p, &p.swapped, old.name, e); err != nil {
				return err
			}
			y.counts.changed.Add(1)
			continue
		}
		same, st, err := y.sameContents(fd, old, e)
		switch {
		case err != nil:
			return p.error(old.name, err)
		case same && y.attrs.match(st, e):
			y.counts.unchanged.Add(1)
			continue
		case same && y.attrs.mayRepair(st, e):
			y.mu.Lock()
			p.repairs = append(p.repairs, old.name)
			if e.isRegular() && st.Mtim.Sec != e.mtime.Sec {
				p.retimed = append(p.retimed, old.name)
			}
			y.mu.Unlock()
		default:
			if err := y.stageName(p, &p.swapped, old.name, e); err != nil {
				return err
			}
		}
		y.counts.changed.Add(1)
	}
	return nil
}

// sameContents reports whether a file of dest, no directory, differs from an
// entry in nothing but what repair can change.
func (y *syncing) sameContents(dir int, old dirent, e *entry) (bool, *unix.Stat_t, error) {
	var st unix.Stat_t
	switch {
	case old.kind != e.kind():
		return false, nil, nil
	case e.isRegular():
		// O_NONBLOCK: should it be a fifo by now, do not wait for its writer.
		fd, err := openat(dir, old.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err == unix.EACCES || err == unix.ELOOP || err == unix.ENOENT {
			return false, nil, nil // replaced, it is right whatever it is now
		}
		if err != nil {
			return false, nil, err
		}
		defer unix.Close(fd)
		if err := unix.Fstat(fd, &st); err != nil {
			return false, nil, err
		}
		if st.Mode&unix.S_IFMT != e.kind() || st.Size != e.size {
			return false, nil, nil
		}
		same, err := sameBytes(y.crew.ctx, fd, y.contents, e)
		return same, &st, err
	}
	err := unix.Fstatat(dir, old.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != e.kind() {
		return false, nil, err
	}
	if e.isSymlink() {
		target, err := readLink(dir, old.name)
		return target == e.target, &st, err
	}
	return e.kind() == unix.S_IFIFO || st.Rdev == e.device, &st, nil
}

// buffers are for what is read of dest.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// sameBytes compares an open file with the entry's bytes, which are as many.
func sameBytes(ctx context.Context, fd int, contents contents, e *entry) (bool, error) {
	if e.size == 0 {
		return true, nil
	}
	data, err := contents.open(e)
	if err != nil {
		return false, err
	}
	defer data.Close()
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	stored := e.segments
	if stored == nil {
		stored = []segment{{0, e.size}}
	}
	var end int64
	from := e.offset
	for _, seg := range append(stored[:len(stored):len(stored)], segment{e.size, 0}) {
		if empty, err := isHole(ctx, fd, end, seg.offset, buf[:]); err != nil || !empty {
			return false, err
		}
		end = seg.offset + seg.length
		for at := seg.offset; at < end; {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			have := buf[:min(int64(len(buf)), end-at)]
			want, err := data.bytes(from, len(have))
			if err != nil {
				return false, fmt.Errorf("read what is to be compared: %w", err)
			}
			if same, err := readFull(fd, have, at); err != nil || !same || !bytes.Equal(have, want) {
				return false, err
			}
			from += int64(len(have))
			at += int64(len(have))
		}
	}
	return true, nil
}

// isHole reports whether an open file has nothing but zeros from start to end.
func isHole(ctx context.Context, fd int, start, end int64, buf []byte) (bool, error) {
	for start < end {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		data, err := unix.Seek(fd, start, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && data >= end {
			return true, nil // a hole, of any size
		}
		if err != nil {
			return false, err
		}
		b := buf[:min(int64(len(buf)), end-data)]
		if same, err := readFull(fd, b, data); err != nil || !same || len(bytes.Trim(b, "\x00")) > 0 {
			return false, err
		}
		start = data + int64(len(b))
	}
	return true, nil
}

// readFull reports whether an open file has as many bytes as b, at offset.
func readFull(fd int, b []byte, offset int64) (bool, error) {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false, err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return true, nil
}

// stageNew stages names that dest does not have.
func (y *syncing) stageNew(p *dirPlan, names []string) error {
	for _, name := range names {
		e := p.e.children[name]
		if err := y.stageName(p, &p.staged, name, e); err != nil {
			return err
		}
		y.counts.created.Add(e.count())
	}
	return nil
}

// stageName makes an entry in the staging area.
func (y *syncing) stageName(p *dirPlan, list *[]string, name string, e *entry) error {
	fd, err := y.openStage(p)
	if err != nil {
		return p.error(name, err)
	}
	defer unix.Close(fd)
	if !e.isDir() {
		err = y.make.file(fd, path.Join(p.path, name), name, e)
	} else {
		err = y.make.directory(fd, path.Join(p.path, name), name, e)
	}
	if err != nil {
		return err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if mode := y.attrs.permissions(e); e.isDir() && !y.attrs.root && mode&unix.S_IWUSR == 0 && y.crew.ctx.Err() == nil {
		// Else it could not be renamed, which writes its "..".
		if err := chmodOther(fd, name, e.kind(), mode|unix.S_IWUSR); err != nil {
			return p.error(name, err)
		}
		p.repairs = append(p.repairs, name)
	}
	*list = append(*list, name)
	y.counts.bytes.Add(e.stored())
	return nil
}

// openStage opens the directory for what is staged for another.
func (y *syncing) openStage(p *dirPlan) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	area, err := p.area.open()
	if err != nil {
		return -1, err
	}
	if p.stage == "" {
		name := p.area.nextName()
		if err := unix.Mkdirat(area, name, 0o700); err != nil {
			return -1, err
		}
		p.stage = name
	}
	return openDir(area, p.stage)
}

// planRemovals plans what becomes of names that the tree lacks. kept reports
// whether one of them, or of what is below, stays because it is excluded.
func (y *syncing) planRemovals(fd int, mount mountID, p *dirPlan, extra []dirent) (kept bool, err error) {
	// In the order in which rsync deletes.
	slices.SortFunc(extra, func(a, b dirent) int {
		if aDir, bDir := a.kind == unix.S_IFDIR, b.kind == unix.S_IFDIR; aDir != bDir {
			if aDir {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.name, a.name)
	})
	for _, old := range extra {
		if p.area != nil && p == p.area.plan && old.kind == unix.S_IFDIR && isTempName(old.name) {
			continue // of another run, or left by a dead one of another user
		}
		path := path.Join(p.path, old.name)
		if y.rules.Excluded(path, old.kind == unix.S_IFDIR) {
			kept = true
			continue
		}
		if old.kind != unix.S_IFDIR {
			p.removals = append(p.removals, old.name)
			p.deleted = append(p.deleted, path)
			y.counts.deleted.Add(1)
			continue
		}
		sub := &dirPlan{name: old.name, path: path, area: p.area}
		subKept, err := y.planRemoval(fd, mount, sub, old.name)
		if err != nil {
			return false, err
		}
		if !subKept {
			p.removals = append(p.removals, old.name)
			p.deleted = append(append(p.deleted, sub.deleted...), path+"/")
			y.counts.deleted.Add(1)
			continue
		}
		kept = true
		if !sub.empty() {
			p.dirs = append(p.dirs, sub)
		}
	}
	return kept, nil
}

// planRemoval is planRemovals for all that is in a directory.
func (y *syncing) planRemoval(parent int, mount mountID, p *dirPlan, name string) (kept bool, err error) {
	fd, err := openDir(parent, name)
	if err != nil {
		return false, p.error("", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, p.error("", err)
	}
	if mountOf(fd, &st) != mount {
		return false, p.error("", errors.New("is a mount point, and not in the archive: exclude it, or unmount it"))
	}
	p.mode = st.Mode
	found, err := readDir(fd)
	if err != nil {
		return false, p.error("", err)
	}
	return y.planRemovals(fd, mount, p, found)
}

// list tells of what is done as rsync -v does: first what is deleted, then in
// a directory files before directories, each with what is in it.
func (p *dirPlan) list(print func(string)) {
	p.listDeleted(print)
	p.listPlaced(print)
}

func (p *dirPlan) listDeleted(print func(string)) {
	for _, path := range p.deleted {
		print("deleting " + path)
	}
	for _, sub := range p.dirs {
		sub.listDeleted(print)
	}
}

func (p *dirPlan) listPlaced(print func(string)) {
	if p.e == nil {
		return // nothing comes to what protected names keep
	}
	if p.differs {
		print(path.Join(".", p.path) + "/")
	}
	placed := slices.Concat(p.staged, p.swapped, p.retimed)
	subs := map[string]*dirPlan{}
	for _, sub := range p.dirs {
		subs[sub.name] = sub
		placed = append(placed, sub.name)
	}
	slices.Sort(placed)
	for _, name := range placed {
		if e := p.e.children[name]; e != nil && !e.isDir() {
			e.list(path.Join(p.path, name), print)
		}
	}
	for _, name := range placed {
		if sub := subs[name]; sub != nil {
			sub.listPlaced(print)
		} else if e := p.e.children[name]; e.isDir() {
			e.list(path.Join(p.path, name), print)
		}
	}
}

// list tells of a new entry, with all that is below.
func (e *entry) list(name string, print func(string)) {
	switch {
	case e.isSymlink():
		name += " -> " + e.target
	case e.isDir():
		name += "/"
	}
	print(name)
	names := slices.Sorted(maps.Keys(e.children))
	for _, dirs := range []bool{false, true} {
		for _, child := range names {
			if e := e.children[child]; e.isDir() == dirs {
				e.list(name+child, print)
			}
		}
	}
}

// count is how many entries there are from e down.
func (e *entry) count() int64 {
	n := int64(1)
	for _, child := range e.children {
		n += child.count()
	}
	return n
}

// stored is how many bytes the regular files from e down have, without holes.
func (e *entry) stored() (n int64) {
	for _, child := range e.children {
		n += child.stored()
	}
	if !e.isRegular() {
		return n
	}
	if e.segments == nil {
		return e.size
	}
	for _, seg := range e.segments {
		n += seg.length
	}
	return n
}
