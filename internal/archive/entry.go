package archive

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is a file of any type in a Tree. It corresponds to an inode: several
// names of the tree may share it, if there are hard links.
type Entry struct {
	Mode     uint32 // type and permissions, as in st_mode of stat(2)
	Implicit bool   // a directory that exists only because of the names below it
	Names    int    // how many names the tree has for the entry
	Owner    *Owner // nil for an implicit directory
	Mtime    unix.Timespec
	Size     int64     // of a regular file in bytes, holes included
	Offset   int64     // of a regular file's first byte in the archive's Data
	Segments []Segment // of a sparse file; nil for other files
	Device   uint64    // the number of a device, as in st_rdev of stat(2)
	Target   string    // of a symbolic link
	Children map[string]*Entry
}

// Owner is the owner of an entry as the archive has it. The ids count where
// this machine does not know the names, or where these are empty.
type Owner struct {
	User, Group string
	UID, GID    int
}

// Segment is a part of a sparse file that the archive stores, in bytes from the
// start of that file. Between the segments are holes. The archive stores the
// segments of a file one after another, from the entry's Offset on.
type Segment struct {
	Offset, Length int64
}

// Entry types of GNU tar that archive/tar has no constants for ("Basic Tar
// Format" in the GNU tar manual).
const (
	typeDumpDir     = 'D' // a directory of an incremental backup; its data lists the names in it
	typeMultiVolume = 'M' // the rest of a file that begins on another volume
	typeVolumeLabel = 'V' // the name of the archive, not a file
)

// newEntry makes an entry from a tar header, without its name and contents. It
// returns nil for a hard link, which adds a name but no inode.
func (t *Tree) newEntry(hdr *tar.Header) (*Entry, error) {
	e := &Entry{Mode: uint32(hdr.Mode) & 0o7777}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if strings.HasSuffix(hdr.Name, "/") { // how old versions of tar write a directory
			e.Mode |= unix.S_IFDIR
		} else {
			e.Mode |= unix.S_IFREG
		}
	case tar.TypeLink:
		return nil, nil
	case tar.TypeSymlink:
		e.Mode |= unix.S_IFLNK
		e.Target = hdr.Linkname
	case tar.TypeDir, typeDumpDir:
		e.Mode |= unix.S_IFDIR
	case tar.TypeFifo:
		e.Mode |= unix.S_IFIFO
	case tar.TypeChar:
		e.Mode |= unix.S_IFCHR
		e.Device = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case tar.TypeBlock:
		e.Mode |= unix.S_IFBLK
		e.Device = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case typeMultiVolume:
		return nil, errors.New("is the rest of a file that begins in another volume")
	default:
		e.Mode |= unix.S_IFREG
		t.warnOnce("unknown type "+string(rune(hdr.Typeflag)), "archive entry %q has the unknown type %q, taken for a regular file", hdr.Name, hdr.Typeflag)
	}
	e.Mtime = unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	const noID = 1<<32 - 1 // chown(2) takes this id as a request to keep the owner
	if hdr.Uid < 0 || hdr.Uid >= noID || hdr.Gid < 0 || hdr.Gid >= noID {
		return nil, fmt.Errorf("impossible owner %d:%d", hdr.Uid, hdr.Gid)
	}
	o := Owner{hdr.Uname, hdr.Gname, hdr.Uid, hdr.Gid}
	// Like tar(1), let an id in a PAX header override the name.
	if hdr.PAXRecords["uid"] != "" {
		o.User = ""
	}
	if hdr.PAXRecords["gid"] != "" {
		o.Group = ""
	}
	e.Owner = t.InternOwner(o)
	return e, nil
}

// Kind returns the type bits of the mode, such as unix.S_IFREG.
func (e *Entry) Kind() uint32 { return e.Mode & unix.S_IFMT }

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Kind() == unix.S_IFDIR }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Kind() == unix.S_IFREG }

// IsSymlink reports whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return e.Kind() == unix.S_IFLNK }

// FileMode returns the permissions, setuid, setgid and sticky bits in the form
// of package fs, without the type.
func (e *Entry) FileMode() fs.FileMode {
	mode := fs.FileMode(e.Mode & 0o777)
	if e.Mode&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if e.Mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if e.Mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// setAttributes gives a directory the attributes of a later entry for it.
func (e *Entry) setAttributes(later *Entry) {
	e.Implicit, e.Mode, e.Owner, e.Mtime = false, later.Mode, later.Owner, later.Mtime
}

// ByOffset compares two names of a directory for slices.SortFunc: by the place
// of their data in the archive, so that the data is read in order, then by name.
func (e *Entry) ByOffset(a, b string) int {
	return cmp.Or(cmp.Compare(e.Children[a].Offset, e.Children[b].Offset), cmp.Compare(a, b))
}

// Count returns how many names there are from e down, that of e included.
func (e *Entry) Count() int64 {
	n := int64(1)
	for _, child := range e.Children {
		n += child.Count()
	}
	return n
}

// StoredSize returns how many bytes the regular files from e down consist of,
// without their holes. A file counts once for each of its names.
func (e *Entry) StoredSize() (n int64) {
	for _, child := range e.Children {
		n += child.StoredSize()
	}
	if !e.IsRegular() {
		return n
	}
	if e.Segments == nil {
		return n + e.Size
	}
	for _, seg := range e.Segments {
		n += seg.Length
	}
	return n
}

// Prune removes the names below the directory e that excluded returns true for.
// excluded is called with the path of a name, which begins with dir, the path
// of e, and with whether the name is a directory. It is not called for names in
// a directory that it excludes.
func (e *Entry) Prune(dir string, excluded func(path string, isDir bool) bool) {
	for name, child := range e.Children {
		path := path.Join(dir, name)
		if excluded(path, child.IsDir()) {
			delete(e.Children, name)
		} else if child.IsDir() {
			child.Prune(path, excluded)
		}
	}
}
