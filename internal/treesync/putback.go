package treesync

import (
	"cmp"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// clear deletes the staging directories with the old files of dest in them. What
// cannot be deleted goes back to where it was, and is an error: it belongs to
// dest as long as it exists. rsync leaves it there, too.
func (c *committer) clear(dest int) error {
	if c.staging.removeContents() == nil {
		return c.staging.remove()
	}
	var errs []error
	for _, t := range c.taken {
		errs = append(errs, c.removeOrPutBack(dest, t.from, t.name, t.from.staging.temp.Fd(), t.staged))
	}
	errs = append(errs, c.clearSwapped(dest, c.plan.root), c.staging.remove())
	return firstOf(errs)
}

// clearSwapped does for what was replaced, in a directory and below it, what
// clear does for what was deleted.
func (c *committer) clearSwapped(dest int, p *dirPlan) error {
	var errs []error
	if len(p.swapped) > 0 {
		stagedIn, err := unixfs.OpenDir(p.staging.temp.Fd(), p.stagedIn)
		if err == nil {
			for _, name := range p.swapped {
				errs = append(errs, c.removeOrPutBack(dest, p, name, stagedIn, name))
			}
			unix.Close(stagedIn)
		} else if err != unix.ENOENT {
			errs = append(errs, p.error("", err))
		}
	}
	for _, sub := range p.subdirs {
		errs = append(errs, c.clearSwapped(dest, sub))
	}
	return firstOf(errs)
}

// removeOrPutBack deletes what is staged in the directory from as staged, and
// moves it to name in the directory p of dest if it cannot be deleted.
func (c *committer) removeOrPutBack(dest int, p *dirPlan, name string, from int, staged string) error {
	err := removeNow(c.attrs.root, from, staged, path.Join(p.path, name))
	if err == nil {
		return nil
	}
	failed := c.putBack(dest, p, name, from, staged)
	if fd, openErr := unixfs.OpenBelow(dest, path.Join(".", p.path)); openErr == nil {
		failed = cmp.Or(failed, c.finish(fd, p))
		unix.Close(fd)
	}
	if failed != nil {
		return fmt.Errorf("%w; it could not be moved back, and is now in a directory %sNUMBER: %w", err, path.Join(p.staging.top.path, unixfs.TempPrefix), failed)
	}
	return err
}

// putBack moves what is staged in the directory from as staged to name in the
// directory p of dest. A new file of that name goes to the staging directory.
func (c *committer) putBack(dest int, p *dirPlan, name string, from int, staged string) error {
	fd, err := c.openToChange(dest, p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if unix.Renameat2(from, staged, fd, name, unix.RENAME_EXCHANGE) == nil {
		return nil
	}
	if err := c.putAway(fd, p, name); err != nil && err != unix.ENOENT {
		return err
	}
	return unix.Renameat(from, staged, fd, name)
}

// putAway moves a new file of dest to the staging directory.
func (c *committer) putAway(fd int, p *dirPlan, name string) error {
	stagingFD, free, err := c.staging.nextName(p)
	if err != nil {
		return err
	}
	return unix.Renameat(fd, name, stagingFD, free)
}

// openToChange opens a directory of dest, and makes sure that its user may
// change it.
func (c *committer) openToChange(dest int, p *dirPlan) (int, error) {
	fd, err := unixfs.OpenBelow(dest, path.Join(".", p.path))
	if err == nil && !c.attrs.root {
		// If this fails where it is needed, so does what follows.
		_ = unix.Fchmod(fd, p.mode&0o7777|unix.S_IRWXU)
	}
	return fd, err
}

// firstOf returns the first error, and says how many there are.
func firstOf(errs []error) error {
	var all severalErrors
	for _, err := range errs {
		several, ok := err.(severalErrors)
		if err != nil && !ok {
			several.first = err
		}
		switch {
		case several.first == nil:
		case all.first == nil:
			all = several
		default:
			all.more += 1 + several.more
		}
	}
	if all.more == 0 {
		return all.first
	}
	return all
}

// severalErrors are errors of which only the first is shown.
type severalErrors struct {
	first error
	more  int
}

func (e severalErrors) Error() string { return fmt.Sprintf("%v (and %d more)", e.first, e.more) }
func (e severalErrors) Unwrap() error { return e.first }
