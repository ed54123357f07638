package treesync

import (
	"context"
	"errors"
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
	w := newWorkers(context.Background())
	w.stopOn(removeAll(w, c.attrs.root, from, staged, path.Join(p.path, name)))
	err := w.end()
	if err == nil {
		return nil
	}
	if failed := c.putBack(dest, p, name, from, staged); failed != nil {
		return fmt.Errorf("%w; it could not be moved back, and is now in a directory %sNUMBER: %w", err, path.Join(p.staging.top.path, unixfs.TempPrefix), failed)
	}
	return err
}

func (c *committer) putBack(dest int, p *dirPlan, name string, from int, staged string) error {
	fd, err := unixfs.OpenBelow(dest, path.Join(".", p.path))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !c.attrs.root && p.mode&unix.S_IWUSR == 0 {
		if err := unix.Fchmod(fd, p.mode&0o7777|unix.S_IRWXU); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil { // the new file, which goes to the staging directory instead
		if err = unix.Renameat2(from, staged, fd, name, unix.RENAME_EXCHANGE); err == nil {
			return c.finish(fd, p)
		}
		stagingFD, free, _ := c.staging.nextName(p)
		if err := unix.Renameat(fd, name, stagingFD, free); err != nil {
			return err
		}
	} else if err != unix.ENOENT {
		return err
	}
	return errors.Join(unix.Renameat(from, staged, fd, name), c.finish(fd, p))
}

// firstOf returns the first error, and says how many there are.
func firstOf(errs []error) error {
	var first error
	more := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			more++
		}
	}
	if more > 0 {
		return fmt.Errorf("%w (and %d more)", first, more)
	}
	return first
}
