package treesync

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// What forbids a change of dest is looked for while dest is compared, since an
// error in the commit would leave it half old and half new. Only what is to
// change is looked at. What the kernel does not tell, such as the rules of a
// security module, shows in the commit: see committer.putBack.

var errMountPoint = errors.New("is a mount point and cannot be replaced or deleted: exclude it, or unmount it")

// mayAct returns an error if name, which is not a directory, cannot be replaced,
// deleted or repaired.
func (c *comparison) mayAct(dir openDir, old unixfs.Dirent, a action) error {
	if old.IsDir() || a != replace && a != repair {
		return nil
	}
	traits, err := unixfs.TraitsOf(dir.fd, old.Name)
	switch {
	case err == unix.ENOENT:
		return nil // gone meanwhile
	case err != nil:
		return err
	case a == repair:
		return traits.Fixed("the file")
	}
	return c.mayRemove(dir, traits)
}

// mayRemove returns an error if what has the traits cannot be deleted from the
// directory dir, although names in dir can be.
func (c *comparison) mayRemove(dir openDir, traits unixfs.Traits) error {
	if traits.MountRoot {
		return errMountPoint
	}
	what := "the file"
	if traits.Mode&unix.S_IFMT == unix.S_IFDIR {
		what = "the directory"
	}
	if err := traits.Fixed(what); err != nil {
		return err
	}
	own := func(uid uint32) bool { return int(uid) == c.attrs.uid }
	if dir.traits.Mode&unix.S_ISVTX != 0 && !own(traits.UID) && !own(dir.traits.UID) && !unixfs.HasCapability(unix.CAP_FOWNER) {
		return fmt.Errorf("%w (%s belongs to the user with uid %d, and the directory that it is in is sticky)", unix.EPERM, what, traits.UID)
	}
	return nil
}

// mayChange returns an error if what is planned for the directory itself and the
// names in it is not permitted.
func (c *comparison) mayChange(dir openDir, p *dirPlan) error {
	if !p.changes() {
		if p.differs {
			if err := dir.traits.Fixed("the directory"); err != nil {
				return p.error("", err)
			}
		}
		return nil
	}
	first := ""
	for _, names := range [][]string{p.staged, p.swapped, p.removals} {
		if len(names) > 0 {
			first = names[0]
		}
	}
	setsTime := p.entry != nil && !p.entry.Implicit()
	if dir.traits.Immutable || p.differs || setsTime || len(p.removals)+len(p.swapped) > 0 {
		// In an append-only directory, new names are all that is permitted.
		if err := dir.traits.Fixed("the directory that it is in"); err != nil {
			return p.error(first, err)
		}
	}
	err := unixfs.MayChange(dir.fd)
	if err == unix.EACCES {
		if int(dir.traits.UID) == c.attrs.uid {
			return nil // the commit gives itself the permission
		}
		if p == c.plan.root {
			return errNotWritable
		}
		err = fmt.Errorf("%w (the directory that it is in belongs to the user with uid %d)", err, dir.traits.UID)
	}
	if err != nil {
		return p.error(first, err)
	}
	return nil
}
