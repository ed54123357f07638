package stretcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// umask is the process's, read while nothing else runs yet: it can only be
// read by setting it.
var umask = func() uint32 {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return uint32(mask)
}()

// attributes says which owners and modes the files of a tree get: those the
// archive names where root extracts it, else what tar xf gives an ordinary
// user's files.
type attributes struct {
	root     bool
	exact    bool // modes are taken as they are, by an ordinary user too
	inherits bool // from the directory that files are made in, by a default ACL
	uid, gid int  // the process's
	ids      map[*owner][2]int
}

// newAttributes looks up the users and groups of a tree, each once.
func newAttributes(t *tree) (*attributes, error) {
	at := &attributes{uid: os.Geteuid(), gid: os.Getegid(), ids: map[*owner][2]int{}}
	at.root = at.uid == 0
	if !at.root {
		return at, nil
	}
	users, groups := map[string]int{}, map[string]int{}
	for _, o := range t.owners {
		uid, err := lookUp(users, o.user, o.uid, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return nil, fmt.Errorf("look up user %q: %w", o.user, err)
		}
		gid, err := lookUp(groups, o.group, o.gid, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return nil, fmt.Errorf("look up group %q: %w", o.group, err)
		}
		at.ids[o] = [2]int{uid, gid}
	}
	return at, nil
}

// lookUp finds the id of a name: id itself where there is no such name here.
func lookUp(known map[string]int, name string, id int, find func(string) (string, error)) (int, error) {
	if name == "" {
		return id, nil
	}
	if found, ok := known[name]; ok {
		if found < 0 {
			return id, nil
		}
		return found, nil
	}
	s, err := find(name)
	var noUser user.UnknownUserError
	var noGroup user.UnknownGroupError
	switch {
	case errors.As(err, &noUser), errors.As(err, &noGroup), errors.Is(err, fs.ErrNotExist):
		known[name] = -1
		return id, nil // ErrNotExist: a system without an /etc/passwd
	case err != nil:
		return 0, err
	}
	known[name], err = strconv.Atoi(s)
	return known[name], err
}

// owner is whom an entry's file belongs to, a uid of -1 meaning whoever made
// it. Directories without an entry are the process's own.
func (at *attributes) owner(e *entry) (uid, gid int) {
	switch {
	case !at.root:
		return -1, at.gid
	case e.owner == nil:
		return at.uid, at.gid
	}
	ids := at.ids[e.owner]
	return ids[0], ids[1]
}

// madeIn says below which open directory files are made. With a default ACL of
// that, the kernel does not heed the umask (acl(5), "OBJECT CREATION AND DEFAULT
// ACLs").
func (at *attributes) madeIn(dir int) {
	n, err := unix.Fgetxattr(dir, "system.posix_acl_default", nil)
	at.inherits = err == nil && n > 0
}

// permissions is the mode, without the type, that an entry's file gets.
func (at *attributes) permissions(e *entry) uint32 {
	switch {
	case at.root, at.exact, e.implicit:
		return e.mode & 0o7777
	}
	return e.mode & 0o777 &^ umask
}

// setFile gives an open regular file its owner, mode and time; name is where
// it is in the directory dir. It must have been made with the entry's mode.
func (at *attributes) setFile(fd, dir int, name string, e *entry) error {
	if at.root {
		uid, gid := at.owner(e)
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	// After chown, which takes setuid away, and without the umask.
	if mode := at.permissions(e); mode&(0o7000|umask) != 0 || at.inherits {
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	return setTime(dir, name, e)
}

// setDir gives an open directory its owner, mode and time.
func (at *attributes) setDir(fd int, e *entry) error {
	if !e.implicit { // while the mode allows it
		if err := setTime(fd, ".", e); err != nil {
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

// setOther gives a new file that is not to be opened its owner, mode and time.
// It must have been made with the entry's mode.
func (at *attributes) setOther(dir int, name string, e *entry) error {
	if at.root {
		uid, gid := at.owner(e)
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if mode := at.permissions(e); !e.isSymlink() && (mode&(0o7000|umask) != 0 || at.inherits) {
		if err := chmodOther(dir, name, e.kind(), mode); err != nil {
			return err
		}
	}
	return setTime(dir, name, e)
}

// match reports whether a file has the owner, mode and time of an entry.
func (at *attributes) match(st *unix.Stat_t, e *entry) bool {
	uid, gid := at.owner(e)
	return (uid < 0 || int(st.Uid) == uid) && int(st.Gid) == gid &&
		(e.isSymlink() || st.Mode&0o7777 == at.permissions(e)) &&
		(e.implicit || st.Mtim == e.mtime)
}

// mayRepair reports whether match can be made true of a file without replacing
// it. What is to run with its owner's rights is replaced: its bytes were
// compared while somebody else may have had the right to write them. So is what
// has another name, be it outside of dest, which is to stay as it is.
func (at *attributes) mayRepair(st *unix.Stat_t, e *entry) bool {
	return st.Nlink == 1 && e.mode&(unix.S_ISUID|unix.S_ISGID) == 0 && (at.root || int(st.Uid) == at.uid)
}

// repair makes match true of a file that is there.
func (at *attributes) repair(dir int, name string, e *entry) error {
	uid, gid := at.owner(e)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if uid >= 0 && int(st.Uid) != uid || int(st.Gid) != gid {
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		st.Mode &^= 0o6000
	}
	if mode := at.permissions(e); !e.isSymlink() && st.Mode&0o7777 != mode {
		if err := chmodOther(dir, name, e.kind(), mode); err != nil {
			return err
		}
	}
	return setTime(dir, name, e)
}

// chmodOther changes the mode of a file of a certain type, unopened.
// fchmodat(2) would follow a symbolic link that somebody put there instead;
// Linux can be told not to since 6.6 only.
func chmodOther(dir int, name string, kind, mode uint32) error {
	fd, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind {
		return errReplaced
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

// errReplaced is what the swap of a file by another process comes to.
var errReplaced = errors.New("was replaced by something else meanwhile")

func setTime(dir int, name string, e *entry) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, e.mtime}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// openat is openat(2), which file systems in user space may interrupt. Go's
// own needs more system calls, to find out that a file cannot be polled.
func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openDir opens a directory in a directory, and not what a symbolic link in
// its place leads to.
func openDir(dir int, name string) (fd int, err error) {
	return openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
