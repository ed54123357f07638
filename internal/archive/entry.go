package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"
)

// Entry is a name in a Tree, with the file of any type that has it. An archive
// may have millions of them, so an Entry has 64 bytes, and what few of them need
// is elsewhere, see Inode.
type Entry struct {
	Name   string // in its directory, "" for the root
	Owner  *Owner // nil for an implicit directory
	Size   int64  // of a regular file in bytes, holes included
	Offset int64  // of a regular file's first byte in the archive's Data
	inode  *Inode // nil if all of it is zero
	sec    int64  // the modification time
	nsec   int32
	Mode   uint32 // type and permissions, as in st_mode of stat(2)
}

// Inode has the properties that only some entries have. If a file has several names,
// each of which is an Entry, these share one Inode.
type Inode struct {
	children children // of a directory
	segments []Segment
	target   string
	device   uint64
	links    int // how many names the file has in the tree, if it ever was the target of a hard link
	implicit bool
}

// Owner is the owner of an entry as it is in the archive. An id is used if its name
// is empty or is not known to this machine.
type Owner struct {
	User, Group string
	UID, GID    int
}

// NoID takes the place of an id that is not a valid number, if there is a name.
const NoID = -1

// Segment is a part of a sparse file that the archive stores, in bytes from the
// start of that file. Between the segments are holes. The archive stores the
// segments of a file one after another, from the entry's Offset on.
type Segment struct {
	Offset, Length int64
}

// newEntry makes an entry from a header, without its name and contents. It
// returns nil for a hard link, which adds a name but no inode.
func (t *Tree) newEntry(h *header) (*Entry, error) {
	e := &Entry{Mode: h.mode, sec: h.sec, nsec: h.nsec}
	switch h.typ {
	case typeRegular, typeOldRegular, typeContiguous, typeSparse:
		if h.isOldDir() {
			e.Mode |= unix.S_IFDIR
		} else {
			e.Mode |= unix.S_IFREG
		}
	case typeLink:
		return nil, nil
	case typeSymlink:
		e.Mode |= unix.S_IFLNK
		if len(h.target) >= unix.PathMax {
			return nil, fmt.Errorf("the target of the symbolic link: %w", unix.ENAMETOOLONG)
		}
		e.SetTarget(string(h.target))
	case typeDir, typeDumpDir:
		e.Mode |= unix.S_IFDIR
	case typeFifo:
		e.Mode |= unix.S_IFIFO
	case typeChar:
		e.Mode |= unix.S_IFCHR
		e.SetDevice(h.device())
	case typeBlock:
		e.Mode |= unix.S_IFBLK
		e.SetDevice(h.device())
	case typeMultiVolume:
		return nil, errors.New("is the rest of a file that begins in another volume")
	default:
		e.Mode |= unix.S_IFREG
		t.warnOnce("unknown type "+string(rune(h.typ)), "archive entry %q has the unknown type %q, taken for a regular file", h.name, h.typ)
	}
	e.Owner = t.ownerOf(h)
	return e, nil
}

// ownerOf is InternOwner for the owner in a header. It is fast if that is also the
// owner of the entry before, as for most entries.
func (t *Tree) ownerOf(h *header) *Owner {
	if o := t.lastOwner; o != nil && o.UID == h.uid && o.GID == h.gid && o.User == string(h.user) && o.Group == string(h.group) {
		return o
	}
	t.lastOwner = t.InternOwner(Owner{string(h.user), string(h.group), h.uid, h.gid})
	return t.lastOwner
}

// Kind returns the type bits of the mode, such as unix.S_IFREG.
func (e *Entry) Kind() uint32 { return e.Mode & unix.S_IFMT }

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Kind() == unix.S_IFDIR }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Kind() == unix.S_IFREG }

// IsSymlink reports whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return e.Kind() == unix.S_IFLNK }

// Mtime returns the modification time.
func (e *Entry) Mtime() unix.Timespec { return unix.Timespec{Sec: e.sec, Nsec: int64(e.nsec)} }

// SetMtime sets the modification time.
func (e *Entry) SetMtime(t unix.Timespec) { e.sec, e.nsec = t.Sec, int32(t.Nsec) }

// Implicit reports whether the entry is a directory that exists only because of
// the names below it.
func (e *Entry) Implicit() bool { return e.inode != nil && e.inode.implicit }

// Inode returns a pointer that is the same for all names of a file that has
// several, and nil for most other entries.
func (e *Entry) Inode() *Inode { return e.inode }

// Links returns how many names the tree has for the file.
func (e *Entry) Links() int {
	if e.inode == nil || e.inode.links == 0 {
		return 1
	}
	return e.inode.links
}

// Segments returns the segments of a sparse file. They are nil for other files.
func (e *Entry) Segments() []Segment {
	if e.inode == nil {
		return nil
	}
	return e.inode.segments
}

// Target returns the target of a symbolic link.
func (e *Entry) Target() string {
	if e.inode == nil {
		return ""
	}
	return e.inode.target
}

// SetTarget sets the target of a symbolic link.
func (e *Entry) SetTarget(target string) { e.details().target = target }

// Device returns the number of a device, as in st_rdev of stat(2).
func (e *Entry) Device() uint64 {
	if e.inode == nil {
		return 0
	}
	return e.inode.device
}

// SetDevice sets the number of a device.
func (e *Entry) SetDevice(device uint64) { e.details().device = device }

// details returns the inode, which it makes if there is none.
func (e *Entry) details() *Inode {
	if e.inode == nil {
		e.inode = &Inode{}
	}
	return e.inode
}

// link returns a further name of the entry's file.
func (e *Entry) link(name string) *Entry {
	e.details().links = e.Links() + 1
	further := *e
	further.Name = name
	return &further
}

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
	e.Mode, e.Owner, e.sec, e.nsec = later.Mode, later.Owner, later.sec, later.nsec
	if e.inode != nil {
		e.inode.implicit = false
	}
}

// Count returns how many names there are from e down, that of e included.
func (e *Entry) Count() int64 {
	n := int64(1)
	for child := range e.Children() {
		n += child.Count()
	}
	return n
}

// StoredSize returns how many bytes the regular files from e down consist of,
// without their holes. A file counts once for each of its names.
func (e *Entry) StoredSize() (n int64) {
	for child := range e.Children() {
		n += child.StoredSize()
	}
	if !e.IsRegular() {
		return n
	}
	if e.Segments() == nil {
		return n + e.Size
	}
	for _, seg := range e.Segments() {
		n += seg.Length
	}
	return n
}

// Prune removes the names below the directory e that excluded returns true for.
// excluded is called with the path of a name, which begins with dir, the path
// of e, and with whether the name is a directory. It is not called for names in
// a directory that it excludes.
func (e *Entry) Prune(dir string, excluded func(path string, isDir bool) bool) {
	e.Filter(func(child *Entry) bool {
		path := path.Join(dir, child.Name)
		if excluded(path, child.IsDir()) {
			return false
		}
		child.Prune(path, excluded)
		return true
	})
}
