package treesync

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// attributes decides which owner and mode the files of a tree get. Run by root,
// they are those that the archive names; run by another user, those that tar xf
// gives.
type attributes struct {
	root     bool // the process runs as root
	exact    bool // an ordinary user's files get the modes as they are, too
	uid, gid int  // of the process
	umask    uint32
	ids      map[*archive.Owner]ids

	hasDefaultACL atomic.Bool // some directory in which files are created has one
}

type ids struct{ uid, gid int }

// newAttributes looks up the users and groups of a tree, each once. If ctx ends
// before that, the error is its cause.
func newAttributes(ctx context.Context, t *archive.Tree) (*attributes, error) {
	at := &attributes{uid: os.Geteuid(), gid: os.Getegid(), umask: unixfs.Umask(), ids: map[*archive.Owner]ids{}}
	at.root = at.uid == 0
	if !at.root {
		return at, nil
	}
	users, groups := newDirectory("passwd", userID), newDirectory("group", groupID)
	for _, o := range t.Owners {
		uid, err := users.lookUp(ctx, o.User, o.UID)
		if err != nil {
			return nil, fmt.Errorf("look up user %q: %w", o.User, err)
		}
		gid, err := groups.lookUp(ctx, o.Group, o.GID)
		if err != nil {
			return nil, fmt.Errorf("look up group %q: %w", o.Group, err)
		}
		at.ids[o] = ids{uid, gid}
	}
	return at, nil
}

// owner returns whom an entry's file belongs to. A uid of -1 stands for whoever
// created it. Directories without an entry belong to the process's user.
func (at *attributes) owner(e *archive.Entry) (uid, gid int) {
	switch {
	case !at.root:
		return -1, at.gid
	case e.Owner == nil:
		return at.uid, at.gid
	}
	owner := at.ids[e.Owner]
	return owner.uid, owner.gid
}

// defaultACL is the extended attribute that holds the ACL which files that are
// created in a directory get (acl(5), "OBJECT CREATION AND DEFAULT ACLs"). With
// one, the kernel ignores the umask and takes modes from the ACL, so every mode
// has to be set afterwards.
const defaultACL = "system.posix_acl_default"

// checkDefaultACL looks for a default ACL on the open directory below which
// files are created.
func (at *attributes) checkDefaultACL(dir int) error {
	n, err := unix.Fgetxattr(dir, defaultACL, nil)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a default ACL: %w", err)
	}
	if n > 0 {
		at.hasDefaultACL.Store(true)
	}
	return nil
}

// copyDefaultACL gives the directory to the default ACL of the directory from,
// if it has one, so that what is created in to gets the ACLs that it would get in
// from.
func (at *attributes) copyDefaultACL(from, to int) error {
	n, err := unix.Fgetxattr(from, defaultACL, nil)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP || err == nil && n == 0 {
		return nil
	}
	at.hasDefaultACL.Store(true)
	acl := make([]byte, max(n, 0))
	if err == nil {
		n, err = unix.Fgetxattr(from, defaultACL, acl)
	}
	if err == nil {
		err = unix.Fsetxattr(to, defaultACL, acl[:n], 0)
	}
	if err != nil {
		return fmt.Errorf("inherit the default ACL: %w", err)
	}
	return nil
}

// dropDefaultACL removes the default ACL that a directory inherited.
func dropDefaultACL(dir int) error {
	err := unix.Fremovexattr(dir, defaultACL)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return nil
	}
	return err
}

// permissions returns the mode, without the type, that an entry's file gets.
func (at *attributes) permissions(e *archive.Entry) uint32 {
	if at.root || at.exact || e.Implicit() {
		return e.Mode & 0o7777
	}
	return e.Mode & 0o777 &^ at.umask
}

// needsChmod reports whether a file that was created with mode may have got
// another one.
func (at *attributes) needsChmod(mode uint32) bool {
	return mode&(0o7000|at.umask) != 0 || at.hasDefaultACL.Load()
}

// setFile sets the owner, mode and time of an open regular file, which was
// created with the entry's mode as name in the directory dir.
func (at *attributes) setFile(fd, dir int, name string, e *archive.Entry) error {
	if at.root {
		uid, gid := at.owner(e)
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	// After chown, which clears setuid and setgid.
	if mode := at.permissions(e); at.needsChmod(mode) {
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	return unixfs.SetModTime(dir, name, e.Mtime())
}

// setDir sets the owner, mode and time of an open directory.
func (at *attributes) setDir(fd int, e *archive.Entry) error {
	// The time first, since the name "." cannot be looked up in a directory that
	// its new mode or owner closes to this process.
	if !e.Implicit() {
		if err := unixfs.SetModTime(fd, ".", e.Mtime()); err != nil {
			return err
		}
	}
	if at.root {
		uid, gid := at.owner(e)
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, at.permissions(e))
}

// setOther sets the owner, mode and time of a file that must not be opened: a
// symbolic link, a fifo or a device. It was created with the entry's mode as
// name in the directory dir.
func (at *attributes) setOther(dir int, name string, e *archive.Entry) error {
	if at.root {
		uid, gid := at.owner(e)
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if mode := at.permissions(e); !e.IsSymlink() && at.needsChmod(mode) {
		if err := unixfs.Chmod(dir, name, e.Kind(), mode); err != nil {
			return err
		}
	}
	return unixfs.SetModTime(dir, name, e.Mtime())
}

// match reports whether a file has the owner, mode and time of an entry.
func (at *attributes) match(st *unix.Stat_t, e *archive.Entry) bool {
	owner, group, mode, time := at.differs(st, e)
	return !owner && !group && !mode && !time
}

// differs reports what of a file's owner, group, mode and time differs from an
// entry.
func (at *attributes) differs(st *unix.Stat_t, e *archive.Entry) (owner, group, mode, time bool) {
	uid, gid := at.owner(e)
	return uid >= 0 && int(st.Uid) != uid, int(st.Gid) != gid,
		!e.IsSymlink() && st.Mode&0o7777 != at.permissions(e),
		!e.Implicit() && st.Mtim != e.Mtime()
}

// mayRepair reports whether a file whose contents are the entry's can be made
// to match without replacing it. A setuid or setgid file is replaced: its
// contents were compared while other users may still have been able to write to
// it. A file with other hard links is replaced too: changing it in place would
// change those links, which may be outside dest.
func (at *attributes) mayRepair(st *unix.Stat_t, e *archive.Entry) bool {
	return st.Nlink == 1 && e.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 && (at.root || int(st.Uid) == at.uid)
}

// repair gives an existing file the owner, mode and time of an entry. It changes
// nothing if something else has taken the file's place meanwhile, such as a hard link
// to a file outside of dest.
func (at *attributes) repair(dir int, name string, e *archive.Entry) error {
	fd, err := unixfs.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != e.Kind() || !e.IsDir() && st.Nlink != 1 {
		return unixfs.ErrReplaced
	}
	if uid, gid := at.owner(e); uid >= 0 && int(st.Uid) != uid || int(st.Gid) != gid {
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
		st.Mode &^= unix.S_ISUID | unix.S_ISGID // cleared by chown
	}
	if mode := at.permissions(e); !e.IsSymlink() && st.Mode&0o7777 != mode {
		if err := unix.Chmod(unixfs.DescriptorPath(fd), mode); err != nil {
			return err
		}
	}
	return unixfs.SetModTime(dir, name, e.Mtime())
}
