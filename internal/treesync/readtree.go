package treesync

import (
	"path"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// readTree describes the files in a directory. The Target of a regular file is
// its path below dir, for dirContents. Hard links are not recognized: each name
// is an entry of its own.
func readTree(dir string) (*archive.Tree, error) {
	// Without O_NOFOLLOW: dir itself may be a symbolic link.
	fd, err := unixfs.Openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	t := archive.NewTree()
	t.Root = newEntry(t, "", &st)
	return t, readDir(t, fd, "", t.Root)
}

// readDir adds to t what is in an open directory, whose entry is d.
func readDir(t *archive.Tree, fd int, dir string, d *archive.Entry) error {
	list, err := unixfs.ReadDir(fd, 0)
	if err != nil {
		return pathError{path.Join(".", dir), err}
	}
	for _, found := range list {
		filePath := path.Join(dir, found.Name)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, found.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError{filePath, err}
		}
		e := newEntry(t, found.Name, &st)
		d.Put(e)
		switch {
		case e.IsDir():
			err = readSubdir(t, fd, found.Name, filePath, e)
		case e.IsSymlink():
			var target string
			target, err = unixfs.ReadLink(fd, found.Name)
			e.SetTarget(target)
		case e.IsRegular():
			e.SetTarget(filePath)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readSubdir(t *archive.Tree, parent int, name, dir string, d *archive.Entry) error {
	fd, err := unixfs.OpenDir(parent, name)
	if err != nil {
		return pathError{dir, err}
	}
	defer unix.Close(fd)
	return readDir(t, fd, dir, d)
}

func newEntry(t *archive.Tree, name string, st *unix.Stat_t) *archive.Entry {
	owner := t.InternOwner(archive.Owner{UID: int(st.Uid), GID: int(st.Gid)})
	e := &archive.Entry{Name: name, Mode: st.Mode, Owner: owner, Size: st.Size}
	e.SetMtime(st.Mtim)
	if kind := e.Kind(); kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		e.SetDevice(st.Rdev)
	}
	return e
}
