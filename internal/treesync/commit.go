package treesync

import (
	"cmp"
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// committer carries out a plan.
type committer struct {
	plan    *plan
	attrs   *attributes
	staging *staging
	workers *workers // of the current pass over dest
	done    *progress.Step

	mu    sync.Mutex // guards taken, and swaps of dirPlans
	taken []takenOut
}

// takenOut is a name of dest that was moved to the staging directory.
type takenOut struct {
	from         *dirPlan
	name, staged string
}

// run carries out the plan, or undoes what it has done of it. It returns how long
// dest had both old and new files.
func (c *committer) run(dest int) (took time.Duration, err error) {
	start := time.Now()
	err = c.commit(dest)
	took = time.Since(start)
	if err != nil {
		c.undo(dest)
		return took, err
	}
	leftover := c.clear(dest)
	return took, cmp.Or(c.finishTops(), leftover)
}

// commit puts in place what is staged, then removes what has to go, and then
// gives the directories their modes and times. No file is removed before all
// are in place, so that programs that use dest lack nothing meanwhile. It cannot
// be cancelled, since that would leave dest half old and half new; it consists
// of renames, which are fast.
func (c *committer) commit(dest int) error {
	c.done = c.staging.report.Start("Putting in place", func() (names, bytes int64) { return c.plan.root.names(), 0 })
	defer c.done.End()
	if c.plan.deleted.Load() == 0 {
		return c.walk(dest, c.place, c.finish)
	}
	if err := c.walk(dest, c.place, nil); err != nil {
		return err
	}
	return c.walk(dest, c.remove, c.finish)
}

// walk calls before in each directory of the plan before those below it, and
// after, unless it is nil, after them.
func (c *committer) walk(dest int, before, after func(fd int, p *dirPlan) error) error {
	c.workers = newWorkers(context.Background())
	c.workers.stopOn(c.walkDir(dest, c.plan.root, before, after))
	return c.workers.end()
}

func (c *committer) walkDir(fd int, p *dirPlan, before, after func(fd int, p *dirPlan) error) error {
	if err := before(fd, p); err != nil {
		return err
	}
	work := c.workers.newGroup()
	for _, sub := range p.subdirs {
		work.do(func() error {
			subFD, err := unixfs.OpenDir(fd, sub.name)
			if err != nil {
				return sub.error("", err)
			}
			defer unix.Close(subFD)
			return c.walkDir(subFD, sub, before, after)
		})
	}
	work.wait()
	if after == nil || c.workers.stopped() {
		return nil
	}
	return after(fd, p)
}

// place puts in place what is staged for a directory, and repairs the files
// that stay.
func (c *committer) place(fd int, p *dirPlan) error {
	const needed = unix.S_IWUSR | unix.S_IXUSR
	if p.changes() && !c.attrs.root && p.mode&needed != needed {
		if err := unix.Fchmod(fd, p.mode&0o7777|needed); err != nil {
			return p.error("", err)
		}
	}
	if p.stagedIn != "" {
		if err := c.placeStaged(fd, p); err != nil {
			return err
		}
	}
	c.done.AddFiles(len(p.repairs))
	for _, name := range p.repairs {
		if err := c.attrs.repair(fd, name, p.entry.Child(name)); err != nil {
			return p.error(name, unixfs.ExplainDenied(fd, name, err))
		}
	}
	return nil
}

func (c *committer) placeStaged(fd int, p *dirPlan) error {
	stagingFD := p.staging.temp.Fd()
	stagedIn, err := unixfs.OpenDir(stagingFD, p.stagedIn)
	if err != nil {
		return p.error("", err)
	}
	defer unix.Close(stagedIn)
	work := c.workers.newGroup()
	each := func(names []string, place func(name string) error) {
		const batch = 64
		for chunk := range slices.Chunk(names, batch) {
			work.do(func() error {
				c.done.AddFiles(len(chunk))
				for _, name := range chunk {
					if err := place(name); err != nil {
						return p.error(name, unixfs.ExplainDenied(fd, name, err))
					}
				}
				return nil
			})
		}
	}
	each(p.staged, func(name string) error { return unix.Renameat(stagedIn, name, fd, name) })
	each(p.swapped, func(name string) error { return c.swap(stagedIn, fd, p, name) })
	work.wait()
	// This fails if it holds what was swapped, which is deleted with the staging
	// directory. If it is empty, there is one directory less to delete later.
	_ = unix.Unlinkat(stagingFD, p.stagedIn, unix.AT_REMOVEDIR)
	return nil
}

// swap puts a staged name in the place of an old one. It exchanges them if it
// can, because a rename also frees the old file, which takes long if it is
// large, and can wait until the commit is over.
func (c *committer) swap(stagedIn, fd int, p *dirPlan, name string) error {
	if unix.Renameat2(stagedIn, name, fd, name, unix.RENAME_EXCHANGE) == nil {
		c.mu.Lock()
		p.swaps = append(p.swaps, name)
		c.mu.Unlock()
		if e := p.entry.Child(name); e.IsDir() && !e.Implicit() {
			return unixfs.SetModTime(fd, name, e.Mtime()) // which xfs has changed
		}
		return nil
	}
	// RENAME_EXCHANGE is unsupported on some file systems and denied in some
	// sandboxes.
	err := unix.Renameat(stagedIn, name, fd, name)
	switch err {
	case unix.EISDIR, unix.ENOTDIR, unix.ENOTEMPTY, unix.EEXIST: // one of them is a directory
		if err := c.takeOut(fd, p, name); err != nil {
			return err
		}
		return unix.Renameat(stagedIn, name, fd, name)
	}
	return err
}

// remove removes from a directory what has to go.
func (c *committer) remove(fd int, p *dirPlan) error {
	c.done.AddFiles(len(p.removals))
	for _, name := range p.removals {
		if err := c.takeOut(fd, p, name); err != nil {
			return err
		}
	}
	return nil
}

// takeOut moves a name to the staging directory, which takes one step also for a
// directory. What is in it is deleted with the staging directory.
func (c *committer) takeOut(fd int, p *dirPlan, name string) error {
	stagingFD, free, err := c.staging.nextName(p)
	if err == nil && unix.Renameat(fd, name, stagingFD, free) == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.taken = append(c.taken, takenOut{p, name, free})
		return nil
	}
	// The disk may be too full for a staging directory. A directory may be
	// read-only to its owner, or on a lower layer of an overlay (EXDEV).
	return removeAll(c.workers, c.attrs.root, fd, name, path.Join(p.path, name))
}

// flush waits until what was changed in dest is on disk. A sync that has changed
// nothing flushes nothing; created is whether it has created dest.
func (c *committer) flush(ctx context.Context, created bool) error {
	markChanged(c.plan.root)
	for _, d := range c.staging.dirs {
		if !d.changed && !(created && d.top == c.plan.root) {
			continue
		}
		if err := c.staging.report.Flush(ctx, d.topDir.fd); err != nil {
			return d.top.error("", err)
		}
	}
	return nil
}

// markChanged marks the mounts of the directories that a plan changes.
func markChanged(p *dirPlan) {
	if p.differs || p.changes() || len(p.repairs) > 0 {
		p.staging.changed = true
	}
	for _, sub := range p.subdirs {
		markChanged(sub)
	}
}

// finish gives a directory its owner, mode and time. If it holds a staging
// directory, finishTops does so, since removing that changes the time.
func (c *committer) finish(fd int, p *dirPlan) error {
	if p.isTop() {
		return nil
	}
	return c.finishDir(fd, p)
}

// finishTops finishes the top directories of the mounts, dest itself last.
func (c *committer) finishTops() error {
	for _, d := range slices.Backward(c.staging.dirs) {
		if err := c.finishDir(d.topDir.fd, d.top); err != nil {
			return err
		}
	}
	return nil
}

func (c *committer) finishDir(fd int, p *dirPlan) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case p.entry == nil:
		if st.Mode != p.mode {
			err = unix.Fchmod(fd, p.mode&0o7777)
		}
	case !c.attrs.match(&st, p.entry):
		if uid, gid := c.attrs.owner(p.entry); !c.attrs.root && int(st.Gid) != gid {
			err = unix.Fchown(fd, uid, gid)
		}
		if err == nil {
			err = c.attrs.setDir(fd, p.entry)
		}
	}
	return p.error("", err)
}
