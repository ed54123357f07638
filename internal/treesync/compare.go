package treesync

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// comparison compares dest with a tree. It plans what is to be done, and stages
// what dest lacks as soon as it is found.
type comparison struct {
	rules    *rsyncfilter.List
	attrs    *attributes
	contents contents
	staging  *staging

	workers   *workers
	done      *progress.Step
	extractor *extractor  // creates what is staged
	preview   *previewing // nil for a sync
	plan      *plan
	mu        sync.Mutex // guards the lists of a dirPlan while workers fill them
}

// openDir is a directory of dest, open as fd.
type openDir struct {
	fd     int
	traits unixfs.Traits
}

// compare plans how to make dest, an open directory, equal to a tree. It changes
// nothing that staging.undo does not restore.
func (c *comparison) compare(ctx context.Context, root *archive.Entry, dest int) (*plan, error) {
	c.workers = newWorkers(ctx)
	step := "Comparing and staging"
	if c.preview != nil {
		step = "Comparing"
	}
	c.done = c.staging.report.Start(step, amountBelow(root))
	defer c.done.End()
	c.extractor = &extractor{contents: c.contents, attrs: c.attrs, workers: c.workers, done: c.done}
	c.plan = &plan{root: &dirPlan{entry: root}}
	d, err := c.beginDir(dest, c.plan.root, unixfs.MountID{})
	if err == nil {
		err = c.compareDir(d, c.plan.root)
	}
	c.workers.stopOn(err)
	return c.plan, c.workers.end()
}

// beginDir notes the attributes of a directory that dest and the tree both
// have, and whether it is on another mount than its parent.
func (c *comparison) beginDir(fd int, p *dirPlan, parent unixfs.MountID) (openDir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return openDir{}, p.error("", err)
	}
	p.mode, p.differs = st.Mode, !c.attrs.match(&st, p.entry)
	p.was = &attrsWere{int(st.Uid), int(st.Gid), st.Mtim}
	traits, err := unixfs.TraitsOf(fd, "")
	if err != nil {
		return openDir{}, p.error("", err)
	}
	d := openDir{fd, traits}
	if traits.Mount == parent {
		return d, nil
	}
	if p.staging, err = c.staging.addDir(d, p); err != nil {
		return d, p.error("", err)
	}
	if c.preview != nil {
		return d, p.findAbandoned()
	}
	return d, p.staging.sweep(c.attrs.root)
}

// compareDir plans what is to be done in a directory that dest and the tree
// both have, and below it.
func (c *comparison) compareDir(d openDir, p *dirPlan) error {
	found, err := unixfs.ReadDir(d.fd, p.entry.Len())
	if err != nil {
		return p.error("", err)
	}
	missing := missingNames(p.entry, found)
	both, extra := splitByTree(found, p.entry)
	if _, err := c.planRemovals(d, p, extra); err != nil {
		return err
	}
	work := c.workers.newGroup()
	for batch := range batches(missing, func(name string) int64 { return p.entry.Child(name).Size }) {
		work.do(func() error { return c.stageMissing(d, p, batch) })
	}
	for batch := range batches(both, func(old unixfs.Dirent) int64 { return p.entry.Child(old.Name).Size }) {
		work.do(func() error { return c.compareFiles(d, p, batch) })
	}
	for _, old := range both {
		if e := p.entry.Child(old.Name); e.IsDir() && old.IsDir() {
			work.do(func() error { return c.compareSubdir(d, p, old.Name, e) })
		}
	}
	work.wait()
	p.staged = missing
	// Only the owner and root can set the attributes of a directory.
	if foreign := !c.attrs.root && p.was.uid != c.attrs.uid; foreign && (p.differs || p.changes() && !p.entry.Implicit()) {
		if err := c.fail(p.error("", errors.New("belongs to another user, so its mode, group and time cannot be set"))); err != nil {
			return err
		}
	}
	return c.fail(c.mayChange(d, p))
}

// A directory may have a million names. missingNames and splitByTree therefore
// copy neither the list of what dest has nor its names.

// missingNames returns the names in a directory of the tree that dest does not
// have, in the order of their data. It sorts found, which dest has.
func missingNames(dir *archive.Entry, found []unixfs.Dirent) []string {
	byName := func(a, b unixfs.Dirent) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(found, byName)
	var entries []*archive.Entry
	if len(found) == 0 {
		entries = make([]*archive.Entry, 0, dir.Len())
	}
	for e := range dir.Children() {
		if _, have := slices.BinarySearchFunc(found, unixfs.Dirent{Name: e.Name}, byName); !have {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, archive.CompareOffsets)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	return names
}

// splitByTree splits what dest has in a directory into what the tree has, too, in
// the order of its data, and the rest.
func splitByTree(found []unixfs.Dirent, dir *archive.Entry) (both, extra []unixfs.Dirent) {
	n := 0
	for i, old := range found {
		if e := dir.Child(old.Name); e != nil {
			found[i], found[n] = found[n], old
			found[n].Name = e.Name // so that the memory of the other copy is freed
			n++
		}
	}
	both, extra = found[:n:n], found[n:]
	slices.SortFunc(both, func(a, b unixfs.Dirent) int {
		return archive.CompareOffsets(dir.Child(a.Name), dir.Child(b.Name))
	})
	return both, extra
}

func (c *comparison) compareSubdir(parentDir openDir, parent *dirPlan, name string, e *archive.Entry) error {
	p := &dirPlan{name: name, path: path.Join(parent.path, name), entry: e, staging: parent.staging}
	fd, err := c.openDir(parentDir.fd, name)
	if err != nil {
		return c.failRead(parentDir.fd, name, p.error("", err))
	}
	defer unix.Close(fd)
	d, err := c.beginDir(fd, p, parentDir.traits.Mount)
	if err != nil {
		return err
	}
	if err := c.compareDir(d, p); err != nil {
		return err
	}
	if p.differs {
		c.plan.changed.Add(1)
	} else {
		c.plan.unchanged.Add(1)
	}
	c.done.AddFiles(1)
	if !p.empty() {
		c.mu.Lock()
		parent.subdirs = append(parent.subdirs, p)
		c.mu.Unlock()
	}
	return nil
}

// compareFiles decides on names that dest and the tree both have, and acts on
// the decision. It leaves those that are directories on both sides to
// compareSubdir.
func (c *comparison) compareFiles(dir openDir, p *dirPlan, olds []unixfs.Dirent) error {
	for _, old := range olds {
		if err := c.workers.ctx.Err(); err != nil {
			return err
		}
		e := p.entry.Child(old.Name)
		if old.IsDir() && e.IsDir() {
			continue
		}
		d, err := c.decide(dir, p, old, e)
		if err != nil {
			return err
		}
		if err := c.fail(p.error(old.Name, c.mayAct(dir, old, d.action))); err != nil {
			return err
		}
		if c.preview != nil && (d.action == replace || d.action == repair) {
			c.addDifferences(dir, p, old, e, d)
		}
		if err := c.act(dir, p, old.Name, e, d); err != nil {
			return err
		}
	}
	return nil
}

// decision is what becomes of a name that dest and the tree both have.
type decision struct {
	action  action
	same    bool     // the type and the contents, or the target, are the same
	retimed bool     // with repair: the file's time in seconds differs
	deleted []string // with replace: the paths below the directory that goes
}

type action int

const (
	keep    action = iota // dest has it as the tree does
	repair                // only its mode, owner or time differs, and can be changed in place
	replace               // the tree's is staged, and takes its place
	blocked               // it would have to be replaced, but holds protected names
)

// decide compares what dest has under a name with the tree's entry. At most one
// of them is a directory.
func (c *comparison) decide(dir openDir, p *dirPlan, old unixfs.Dirent, e *archive.Entry) (decision, error) {
	if old.IsDir() {
		// What is in it goes as if the tree had nothing under this name.
		sub := &dirPlan{path: path.Join(p.path, old.Name)}
		kept, err := c.planRemoval(dir, sub, old.Name)
		if err != nil {
			return decision{}, err
		}
		if kept {
			return decision{action: blocked}, nil
		}
		return decision{action: replace, deleted: sub.deleted}, nil
	}
	if e.IsDir() {
		return decision{action: replace}, nil
	}
	var st unix.Stat_t
	same, err := c.sameFile(dir.fd, old, e, &st)
	switch {
	case err != nil:
		return decision{}, p.error(old.Name, err)
	case same && c.attrs.match(&st, e):
		return decision{action: keep, same: true}, nil
	case same && c.attrs.mayRepair(&st, e):
		return decision{action: repair, same: true, retimed: e.IsRegular() && st.Mtim.Sec != e.Mtime().Sec}, nil
	case same:
		c.done.AddBytes(-e.StoredSize()) // they will be copied
	}
	return decision{action: replace, same: same}, nil
}

// act adds a decision to the plan of the directory, and stages what it needs.
func (c *comparison) act(dir openDir, p *dirPlan, name string, e *archive.Entry, d decision) error {
	switch d.action {
	case keep:
		c.plan.unchanged.Add(1)
		c.done.AddFiles(1)
		return nil
	case blocked:
		return c.fail(p.error(name, errors.New("cannot be replaced: it is a directory, of which excludes protect a part")))
	case repair:
		c.mu.Lock()
		p.repairs = append(p.repairs, name)
		if d.retimed {
			p.retimed = append(p.retimed, name)
		}
		c.mu.Unlock()
		c.done.AddFiles(1)
	case replace:
		if err := c.stage(dir, p, name, e); err != nil {
			return err
		}
		c.mu.Lock()
		p.swapped = append(p.swapped, name)
		p.deleted = append(p.deleted, d.deleted...)
		c.mu.Unlock()
	}
	c.plan.changed.Add(1)
	return nil
}

// sameFile reports whether a file of dest, which is not a directory, has the
// type and the contents of an entry. If so, it fills st.
func (c *comparison) sameFile(dir int, old unixfs.Dirent, e *archive.Entry, st *unix.Stat_t) (bool, error) {
	if old.Kind != e.Kind() {
		return false, nil
	}
	if e.IsRegular() {
		return c.sameRegular(dir, old.Name, e, st)
	}
	err := unix.Fstatat(dir, old.Name, st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != e.Kind() {
		return false, err
	}
	if e.IsSymlink() {
		target, err := unixfs.ReadLink(dir, old.Name)
		return target == e.Target(), err
	}
	return e.Kind() == unix.S_IFIFO || st.Rdev == e.Device(), nil
}

func (c *comparison) sameRegular(dir int, name string, e *archive.Entry, st *unix.Stat_t) (bool, error) {
	if d := digestsOf(c.contents); d != nil && unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Mode&unix.S_IFMT == e.Kind() && st.Size == e.Size && d.Unchanged(e.Offset, st) {
		c.done.AddBytes(e.Size)
		return true, nil
	}
	// With O_NONBLOCK, since opening a fifo that has taken the file's place would
	// wait for a writer.
	fd, err := unixfs.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.EACCES || err == unix.ELOOP || err == unix.ENOENT {
		return false, nil // it need not be read to be replaced
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, st); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != e.Kind() || st.Size != e.Size {
		return false, nil
	}
	return sameContents(c.workers.ctx, fd, c.contents, e, c.done)
}

// stageMissing stages names that dest does not have.
func (c *comparison) stageMissing(dir openDir, p *dirPlan, names []string) error {
	for _, name := range names {
		e := p.entry.Child(name)
		if err := c.stage(dir, p, name, e); err != nil {
			return err
		}
		c.plan.created.Add(e.Count())
	}
	return nil
}

// stage creates an entry, with all that is below it, in the staging directory.
func (c *comparison) stage(dir openDir, p *dirPlan, name string, e *archive.Entry) error {
	if c.preview != nil {
		return c.stageNothing(p, name, e)
	}
	fd, err := c.staging.openFor(dir.fd, p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c.plan.bytes.Add(e.StoredSize())
	if !e.IsDir() {
		err = c.extractor.file(fd, -1, path.Join(p.path, name), name, e)
	} else {
		err = c.extractor.directory(fd, -1, path.Join(p.path, name), name, e)
	}
	if err != nil {
		return err
	}
	mode := c.attrs.permissions(e)
	if !e.IsDir() || c.attrs.root || mode&unix.S_IWUSR != 0 || c.workers.stopped() {
		return nil
	}
	// Renaming a directory writes to its "..", so an ordinary user cannot rename
	// one that is read-only. It gets its mode once it is in place.
	if err := unixfs.Chmod(fd, name, e.Kind(), mode|unix.S_IWUSR); err != nil {
		return p.error(name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p.repairs = append(p.repairs, name)
	return nil
}

// planRemovals plans the removal of names that the tree lacks. It reports
// whether it keeps one of them, or of what is below, because it is protected.
func (c *comparison) planRemovals(d openDir, p *dirPlan, extra []unixfs.Dirent) (kept bool, err error) {
	slices.SortFunc(extra, byRemoval)
	for _, old := range extra {
		if p.isTop() && old.IsDir() && unixfs.IsTempName(old.Name) {
			continue // another run's, which is alive
		}
		oldPath := path.Join(p.path, old.Name)
		if c.rules.Excluded(oldPath, old.IsDir()) {
			kept = true
			continue
		}
		if !old.IsDir() {
			if err := c.fail(p.error(old.Name, c.mayAct(d, old, replace))); err != nil {
				return false, err
			}
			p.removals = append(p.removals, old.Name)
			p.deleted = append(p.deleted, oldPath)
			c.plan.deleted.Add(1)
			continue
		}
		sub := &dirPlan{name: old.Name, path: oldPath, staging: p.staging}
		keptBelow, err := c.planRemoval(d, sub, old.Name)
		if err != nil {
			return false, err
		}
		if !keptBelow {
			p.removals = append(p.removals, old.Name)
			p.deleted = append(append(p.deleted, sub.deleted...), oldPath+"/")
			c.plan.deleted.Add(1)
			continue
		}
		kept = true
		if !sub.empty() {
			p.subdirs = append(p.subdirs, sub)
		}
	}
	return kept, nil
}

// byRemoval is the order in which rsync deletes: directories first, and then by
// name, the last one first.
func byRemoval(a, b unixfs.Dirent) int {
	if a.IsDir() != b.IsDir() {
		if a.IsDir() {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.Name, a.Name)
}

// planRemoval is planRemovals for all that is in the directory name, and for
// that directory itself.
func (c *comparison) planRemoval(parent openDir, p *dirPlan, name string) (kept bool, err error) {
	fd, err := unixfs.OpenDir(parent.fd, name)
	if err != nil {
		return true, c.fail(p.error("", err))
	}
	defer unix.Close(fd)
	d := openDir{fd: fd}
	if d.traits, err = unixfs.TraitsOf(fd, ""); err != nil {
		return false, p.error("", err)
	}
	if d.traits.Mount != parent.traits.Mount {
		return true, c.fail(p.error("", errMountPoint))
	}
	p.mode = d.traits.Mode
	found, err := unixfs.ReadDir(fd, 0)
	if err != nil {
		return false, p.error("", err)
	}
	kept, err = c.planRemovals(d, p, found)
	if err == nil {
		err = c.fail(c.mayChange(d, p))
	}
	if err == nil && !kept {
		err = c.fail(p.error("", c.mayRemove(parent, d.traits)))
	}
	return kept, err
}
