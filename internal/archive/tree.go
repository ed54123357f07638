package archive

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// tree is what stands in a directory once an archive is extracted there, kept
// up while the archive is read: a later entry replaces an earlier one, and a
// name that leads through a symbolic link ends up where tar(1) would put it.
// So whoever writes the tree to disk meets each name once, and has no link to
// follow.
type Tree struct {
	Root     *Entry
	Owners   map[Owner]*Owner
	HasLinks bool // has had hard links
	warned   map[string]bool
}

// entry is a file of any type: an inode, that is, which several names of the
// tree may share.
type Entry struct {
	Mode     uint32 // type and permissions as in stat(2)'s st_mode
	Implicit bool   // a directory without an entry of its own
	Names    int    // how many names the tree has for it
	Owner    *Owner
	Mtime    unix.Timespec
	Size     int64 // of a regular file, its holes included
	Offset   int64 // of its first byte in the archive's data
	Segments []Segment
	Device   uint64
	Target   string // of a symbolic link
	Children map[string]*Entry
}

// owner is whom an archive names. The ids hold where this machine does not
// know the names.
type Owner struct {
	User, Group string
	UID, GID    int
}

func NewTree() *Tree {
	t := &Tree{Owners: map[Owner]*Owner{}, warned: map[string]bool{}}
	t.Root = &Entry{Mode: unix.S_IFDIR | 0o777&^unixfs.Umask(), Implicit: true, Names: 1}
	return t
}

func (e *Entry) Kind() uint32    { return e.Mode & unix.S_IFMT }
func (e *Entry) IsDir() bool     { return e.Kind() == unix.S_IFDIR }
func (e *Entry) IsRegular() bool { return e.Kind() == unix.S_IFREG }
func (e *Entry) IsSymlink() bool { return e.Kind() == unix.S_IFLNK }

// ByOffset puts names of a directory into the order of their bytes in the
// archive, and names that have none into their own.
func (e *Entry) ByOffset(a, b string) int {
	return cmp.Or(cmp.Compare(e.Children[a].Offset, e.Children[b].Offset), cmp.Compare(a, b))
}

// FileMode is the permissions with setuid, setgid and sticky, in Go's terms.
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

// newEntry makes what a tar header describes. It is nil for a hard link, which
// is but a name.
func (t *Tree) newEntry(hdr *tar.Header) (*Entry, error) {
	e := &Entry{Mode: uint32(hdr.Mode) & 0o7777}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= unix.S_IFREG
		if strings.HasSuffix(hdr.Name, "/") {
			e.Mode ^= unix.S_IFREG ^ unix.S_IFDIR // as BSD's tar wrote directories
		}
	case tar.TypeLink:
		return nil, nil
	case tar.TypeSymlink:
		e.Mode |= unix.S_IFLNK
		e.Target = hdr.Linkname
	case tar.TypeDir, 'D': // D: with a list of its files, for incremental backups
		e.Mode |= unix.S_IFDIR
	case tar.TypeFifo:
		e.Mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= unix.S_IFCHR
		if hdr.Typeflag == tar.TypeBlock {
			e.Mode ^= unix.S_IFCHR ^ unix.S_IFBLK
		}
		e.Device = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case 'M':
		return nil, errors.New("is the rest of a file that begins in another volume")
	default:
		e.Mode |= unix.S_IFREG
		t.warn("unknown type "+string(rune(hdr.Typeflag)), "archive entry %q has the unknown type %q, taken for a regular file", hdr.Name, hdr.Typeflag)
	}
	e.Mtime = unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	const noID = 1<<32 - 1 // chown(2) would leave the owner alone
	if hdr.Uid < 0 || hdr.Uid >= noID || hdr.Gid < 0 || hdr.Gid >= noID {
		return nil, fmt.Errorf("impossible owner %d:%d", hdr.Uid, hdr.Gid)
	}
	o := Owner{hdr.Uname, hdr.Gname, hdr.Uid, hdr.Gid}
	// For tar(1), an id in a PAX header counts for more than a name.
	if hdr.PAXRecords["uid"] != "" {
		o.User = ""
	}
	if hdr.PAXRecords["gid"] != "" {
		o.Group = ""
	}
	e.Owner = t.InternOwner(o)
	return e, nil
}

func (t *Tree) InternOwner(o Owner) *Owner {
	if known := t.Owners[o]; known != nil {
		return known
	}
	t.Owners[o] = &o
	return &o
}

// warn logs the first of the warnings of a kind.
func (t *Tree) warn(kind, format string, args ...any) {
	if !t.warned[kind] {
		t.warned[kind] = true
		log.Printf("[WARN] "+format, args...)
	}
}

// add puts what a tar header describes into the tree, and returns it. The data
// of a regular file is at offset of the tar, and of a sparse one it has just
// the segments.
func (t *Tree) add(hdr *tar.Header, offset int64, segments []Segment) (*Entry, error) {
	e, err := t.newEntry(hdr)
	if err != nil {
		return nil, err
	}
	if e != nil && e.IsRegular() {
		e.Size, e.Offset, e.Segments = hdr.Size, offset, segments
	}
	name, err := t.cleanName(hdr.Name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if e == nil || !e.IsDir() {
			return nil, errors.New("is not a directory, in the place of the root directory")
		}
		t.Root.describe(e)
		return t.Root, nil
	}
	if e == nil {
		if e, err = t.linkTarget(hdr.Linkname); err != nil {
			return nil, err
		}
		t.HasLinks = true
	}
	parent, base, err := t.parentOf(name, true)
	if err != nil {
		return nil, err
	}
	old := parent.Children[base]
	switch {
	case old == nil, old == e:
	case old.IsDir() && e.IsDir():
		old.describe(e)
		return old, nil
	case old.IsDir() && len(old.Children) > 0:
		return nil, errors.New("replaces a directory that is not empty")
	default:
		old.Names--
	}
	if parent.Children == nil {
		parent.Children = map[string]*Entry{}
	}
	if old != e {
		e.Names++
	}
	parent.Children[base] = e
	return e, nil
}

// describe gives a directory what a later entry says of it.
func (e *Entry) describe(by *Entry) {
	e.Implicit, e.Mode, e.Owner, e.Mtime = false, by.Mode, by.Owner, by.Mtime
}

// linkTarget finds the target of a hard link.
func (t *Tree) linkTarget(target string) (*Entry, error) {
	name, err := t.cleanName(target)
	var e *Entry
	if err == nil && name != "" {
		var parent *Entry
		var base string
		if parent, base, err = t.parentOf(name, false); err == nil {
			e = parent.Children[base]
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("hard link to %q: %w", target, err)
	case e == nil:
		return nil, fmt.Errorf("hard link to %q, which is not in the archive before it", target)
	case e.IsDir():
		return nil, fmt.Errorf("hard link to %q, which is a directory", target)
	}
	return e, nil
}

// cleanName makes a name as it is in an archive relative to the root, which
// itself is "".
func (t *Tree) cleanName(name string) (string, error) {
	if hasDotDot(name) {
		return "", errors.New(`the name has ".." in it`)
	}
	if len(name) >= unix.PathMax {
		return "", unix.ENAMETOOLONG // for tar(1), and more than an entry should cost
	}
	if strings.HasPrefix(name, "/") {
		t.warn("leading slash", "removing the leading / from the archive's names, as in %q", name)
	}
	// Most names are clean, and are kept as they are.
	for _, odd := range []string{"//", "/./"} {
		for strings.Contains(name, odd) {
			name = strings.ReplaceAll(name, odd, "/")
		}
	}
	for strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") {
		name = name[strings.IndexByte(name, '/')+1:]
	}
	name = strings.TrimSuffix(name, "/")
	name = strings.TrimSuffix(name, "/.")
	if name == "." {
		name = ""
	}
	return name, nil
}

// parentOf finds the directory that holds name, and its name in there. With
// create it makes what is missing of the path.
func (t *Tree) parentOf(name string, create bool) (parent *Entry, base string, err error) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return t.Root, name, nil
	}
	links := 0
	parent, err = t.walk(t.Root, name[:i], create, &links)
	return parent, name[i+1:], err
}

// LookUp finds an entry by its path, through links that stay in the tree.
func (t *Tree) LookUp(name string) (*Entry, error) {
	path := []*Entry{t.Root} // from there to where we are
	links := 0
	for left := strings.Split(name, "/"); len(left) > 0; {
		dir, name := path[len(path)-1], left[0]
		left = left[1:]
		switch {
		case !dir.IsDir():
			return nil, unix.ENOTDIR
		case name == "", name == ".":
			continue
		case name == ".." && len(path) == 1:
			return nil, errors.New("leads out of the archive, by .. or a symbolic link")
		case name == "..":
			path = path[:len(path)-1]
			continue
		}
		e := dir.Children[name]
		switch {
		case e == nil:
			return nil, fs.ErrNotExist
		case !e.IsSymlink():
			path = append(path, e)
			continue
		case strings.HasPrefix(e.Target, "/"):
			return nil, fmt.Errorf("%q is a symbolic link out of the archive, to %q", name, e.Target)
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		left = append(strings.Split(e.Target, "/"), left...)
	}
	return path[len(path)-1], nil
}

// follow checks that a link stays below the directory that holds it, and
// counts it.
func (e *Entry) follow(name string, links *int) error {
	if strings.HasPrefix(e.Target, "/") || hasDotDot(e.Target) {
		return fmt.Errorf("%q of its path is a symbolic link out of there, to %q", name, e.Target)
	}
	if *links++; *links > maxLinks {
		return fmt.Errorf("%q of its path: %w", name, unix.ELOOP)
	}
	return nil
}

// maxLinks is how many symbolic links Linux follows in one path.
const maxLinks = 40

// walk goes down from a directory, through links that stay below the one that
// holds them. tar(1) does not go through any others: it makes those last.
func (t *Tree) walk(dir *Entry, path string, create bool, links *int) (*Entry, error) {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		next := dir.Children[name]
		switch {
		case next == nil && create:
			next = &Entry{Mode: unix.S_IFDIR | 0o777&^unixfs.Umask(), Implicit: true, Names: 1}
			if dir.Children == nil {
				dir.Children = map[string]*Entry{}
			}
			dir.Children[name] = next
		case next == nil:
			return nil, fmt.Errorf("%q of its path does not exist", name)
		case next.IsSymlink():
			err := next.follow(name, links)
			if err != nil {
				return nil, err
			}
			if next, err = t.walk(dir, next.Target, false, links); err != nil {
				return nil, err
			}
		case !next.IsDir():
			return nil, fmt.Errorf("%q of its path is not a directory", name)
		}
		dir = next
	}
	return dir, nil
}

// hasDotDot reports whether a path has ".." as a component.
func hasDotDot(path string) bool {
	for c := range strings.SplitSeq(path, "/") {
		if c == ".." {
			return true
		}
	}
	return false
}

// Count returns how many entries there are from e down, e included.
func (e *Entry) Count() int64 {
	n := int64(1)
	for _, child := range e.Children {
		n += child.Count()
	}
	return n
}

// StoredSize returns how many bytes the regular files from e down contain,
// without their holes.
func (e *Entry) StoredSize() (n int64) {
	for _, child := range e.Children {
		n += child.StoredSize()
	}
	if !e.IsRegular() {
		return n
	}
	if e.Segments == nil {
		return e.Size
	}
	for _, seg := range e.Segments {
		n += seg.Length
	}
	return n
}

// Prune removes from below the directory e what excluded reports: it is given
// the path of each entry from the top of the tree, dir being that of e, and
// whether it is a directory. It is not asked about what is in an excluded
// directory.
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
