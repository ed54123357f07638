package treesync

import (
	"cmp"
	"log"
	"path"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// undo rolls back a commit that failed, so that dest is not left half old and half
// new, and removes the staging directories. If something could not be moved back,
// they stay, since the only copy of it is there. Files that were repaired keep their
// new modes, owners and times: the contents are the same.
func (c *committer) undo(dest int) {
	if err := c.rollBack(dest); err != nil {
		log.Printf("[ERROR] undo the changes: %v: what could not be moved back is in a directory %sNUMBER of dest until the next deployment", err, unixfs.TempPrefix)
	} else {
		unixfs.Warn("clean up", c.clear(dest))
	}
	unixfs.Warn("undo the changes", restoreDirs(dest, c.plan.root))
}

// rollBack moves all files back to where they were before the commit. The old ones
// are in the staging directories until clear, except where a file system cannot
// exchange two files.
func (c *committer) rollBack(dest int) error {
	var errs []error
	for _, t := range c.taken {
		errs = append(errs, t.from.error(t.name, c.putBack(dest, t.from, t.name, t.from.staging.temp.Fd(), t.staged)))
	}
	c.taken = nil
	return firstOf(append(errs, c.rollBackDir(dest, c.plan.root)))
}

func (c *committer) rollBackDir(dest int, p *dirPlan) error {
	var errs []error
	for _, sub := range p.subdirs {
		errs = append(errs, c.rollBackDir(dest, sub))
	}
	if p.stagedIn != "" {
		errs = append(errs, c.rollBackStaged(dest, p))
	}
	return firstOf(errs)
}

// rollBackStaged moves what was placed in a directory to the staging directory,
// and what it replaced back.
func (c *committer) rollBackStaged(dest int, p *dirPlan) error {
	stagedIn, err := unixfs.OpenDir(p.staging.temp.Fd(), p.stagedIn)
	if err == unix.ENOENT {
		stagedIn, err = -1, nil // all of it was placed
	}
	if err != nil {
		return p.error("", err)
	}
	if stagedIn >= 0 {
		defer unix.Close(stagedIn)
	}
	var errs []error
	for _, name := range p.swaps {
		errs = append(errs, p.error(name, c.putBack(dest, p, name, stagedIn, name)))
	}
	fd, err := c.openToChange(dest, p)
	if err != nil {
		return p.error("", err)
	}
	defer unix.Close(fd)
	for _, name := range p.staged {
		var st unix.Stat_t
		if stagedIn >= 0 && unix.Fstatat(stagedIn, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			continue // the commit did not get there
		}
		if err := c.putAway(fd, p, name); err != unix.ENOENT {
			errs = append(errs, p.error(name, err))
		}
	}
	return firstOf(errs)
}

// restoreDirs gives a directory, and those below it, the attributes that they had.
func restoreDirs(dest int, p *dirPlan) error {
	var errs []error
	for _, sub := range p.subdirs {
		errs = append(errs, restoreDirs(dest, sub))
	}
	return firstOf(append(errs, restoreDir(dest, p)))
}

// restoreDir is restoreDirs for one directory.
func restoreDir(dest int, p *dirPlan) error {
	fd, err := unixfs.OpenBelow(dest, path.Join(".", p.path))
	if err != nil {
		return p.error("", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return p.error("", err)
	}
	if p.was != nil {
		if st.Mtim != p.was.mtime {
			err = unixfs.SetModTime(fd, ".", p.was.mtime)
		}
		if int(st.Uid) != p.was.uid || int(st.Gid) != p.was.gid {
			err = cmp.Or(err, unix.Fchown(fd, p.was.uid, p.was.gid))
		}
	}
	return p.error("", cmp.Or(err, unix.Fchmod(fd, p.mode&0o7777)))
}
