package stretcher

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is what stands in a directory once an archive is extracted there, kept
// up while the archive is read: a later entry replaces an earlier one, and a
// name that leads through a symbolic link ends up where tar(1) would put it.
// So whoever writes the tree to disk meets each name once, and has no link to
// follow.
type tree struct {
	root   *entry
	owners map[owner]*owner
	linked bool // has had hard links
	warned map[string]bool
}

// entry is a file of any type: an inode, that is, which several names of the
// tree may share.
type entry struct {
	mode     uint32 // type and permissions as in stat(2)'s st_mode
	implicit bool   // a directory without an entry of its own
	names    int    // how many names the tree has for it
	owner    *owner
	mtime    unix.Timespec
	size     int64 // of a regular file, its holes included
	offset   int64 // of its first byte in the archive's data
	segments []segment
	device   uint64
	target   string // of a symbolic link
	children map[string]*entry
}

// owner is whom an archive names. The ids hold where this machine does not
// know the names.
type owner struct {
	user, group string
	uid, gid    int
}

func newTree() *tree {
	t := &tree{owners: map[owner]*owner{}, warned: map[string]bool{}}
	t.root = &entry{mode: unix.S_IFDIR | 0o777&^umask, implicit: true, names: 1}
	return t
}

func (e *entry) kind() uint32    { return e.mode & unix.S_IFMT }
func (e *entry) isDir() bool     { return e.kind() == unix.S_IFDIR }
func (e *entry) isRegular() bool { return e.kind() == unix.S_IFREG }
func (e *entry) isSymlink() bool { return e.kind() == unix.S_IFLNK }

// byOffset puts names of a directory into the order of their bytes in the
// archive, and names that have none into their own.
func (e *entry) byOffset(a, b string) int {
	return cmp.Or(cmp.Compare(e.children[a].offset, e.children[b].offset), cmp.Compare(a, b))
}

// fileMode is the permissions with setuid, setgid and sticky, in Go's terms.
func (e *entry) fileMode() fs.FileMode {
	mode := fs.FileMode(e.mode & 0o777)
	if e.mode&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if e.mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if e.mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// newEntry makes what a tar header describes. It is nil for a hard link, which
// is but a name.
func (t *tree) newEntry(hdr *tar.Header) (*entry, error) {
	e := &entry{mode: uint32(hdr.Mode) & 0o7777}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.mode |= unix.S_IFREG
		if strings.HasSuffix(hdr.Name, "/") {
			e.mode ^= unix.S_IFREG ^ unix.S_IFDIR // as BSD's tar wrote directories
		}
	case tar.TypeLink:
		return nil, nil
	case tar.TypeSymlink:
		e.mode |= unix.S_IFLNK
		e.target = hdr.Linkname
	case tar.TypeDir, 'D': // D: with a list of its files, for incremental backups
		e.mode |= unix.S_IFDIR
	case tar.TypeFifo:
		e.mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		e.mode |= unix.S_IFCHR
		if hdr.Typeflag == tar.TypeBlock {
			e.mode ^= unix.S_IFCHR ^ unix.S_IFBLK
		}
		e.device = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case 'M':
		return nil, errors.New("is the rest of a file that begins in another volume")
	default:
		e.mode |= unix.S_IFREG
		t.warn("unknown type "+string(rune(hdr.Typeflag)), "archive entry %q has the unknown type %q, taken for a regular file", hdr.Name, hdr.Typeflag)
	}
	e.mtime = unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	const noID = 1<<32 - 1 // chown(2) would leave the owner alone
	if hdr.Uid < 0 || hdr.Uid >= noID || hdr.Gid < 0 || hdr.Gid >= noID {
		return nil, fmt.Errorf("impossible owner %d:%d", hdr.Uid, hdr.Gid)
	}
	o := owner{hdr.Uname, hdr.Gname, hdr.Uid, hdr.Gid}
	// For tar(1), an id in a PAX header counts for more than a name.
	if hdr.PAXRecords["uid"] != "" {
		o.user = ""
	}
	if hdr.PAXRecords["gid"] != "" {
		o.group = ""
	}
	e.owner = t.internOwner(o)
	return e, nil
}

func (t *tree) internOwner(o owner) *owner {
	if known := t.owners[o]; known != nil {
		return known
	}
	t.owners[o] = &o
	return &o
}

// warn logs the first of the warnings of a kind.
func (t *tree) warn(kind, format string, args ...any) {
	if !t.warned[kind] {
		t.warned[kind] = true
		log.Printf("[WARN] "+format, args...)
	}
}

// add puts what a tar header describes into the tree, and returns it. The data
// of a regular file is at offset of the tar, and of a sparse one it has just
// the segments.
func (t *tree) add(hdr *tar.Header, offset int64, segments []segment) (*entry, error) {
	e, err := t.newEntry(hdr)
	if err != nil {
		return nil, err
	}
	if e != nil && e.isRegular() {
		e.size, e.offset, e.segments = hdr.Size, offset, segments
	}
	name, err := t.cleanName(hdr.Name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if e == nil || !e.isDir() {
			return nil, errors.New("is not a directory, in the place of the root directory")
		}
		t.root.describe(e)
		return t.root, nil
	}
	if e == nil {
		if e, err = t.linkTarget(hdr.Linkname); err != nil {
			return nil, err
		}
		t.linked = true
	}
	parent, base, err := t.parentOf(name, true)
	if err != nil {
		return nil, err
	}
	old := parent.children[base]
	switch {
	case old == nil, old == e:
	case old.isDir() && e.isDir():
		old.describe(e)
		return old, nil
	case old.isDir() && len(old.children) > 0:
		return nil, errors.New("replaces a directory that is not empty")
	default:
		old.names--
	}
	if parent.children == nil {
		parent.children = map[string]*entry{}
	}
	if old != e {
		e.names++
	}
	parent.children[base] = e
	return e, nil
}

// describe gives a directory what a later entry says of it.
func (e *entry) describe(by *entry) {
	e.implicit, e.mode, e.owner, e.mtime = false, by.mode, by.owner, by.mtime
}

// linkTarget finds the target of a hard link.
func (t *tree) linkTarget(target string) (*entry, error) {
	name, err := t.cleanName(target)
	var e *entry
	if err == nil && name != "" {
		var parent *entry
		var base string
		if parent, base, err = t.parentOf(name, false); err == nil {
			e = parent.children[base]
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("hard link to %q: %w", target, err)
	case e == nil:
		return nil, fmt.Errorf("hard link to %q, which is not in the archive before it", target)
	case e.isDir():
		return nil, fmt.Errorf("hard link to %q, which is a directory", target)
	}
	return e, nil
}

// cleanName makes a name as it is in an archive relative to the root, which
// itself is "".
func (t *tree) cleanName(name string) (string, error) {
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
func (t *tree) parentOf(name string, create bool) (parent *entry, base string, err error) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return t.root, name, nil
	}
	links := 0
	parent, err = t.walk(t.root, name[:i], create, &links)
	return parent, name[i+1:], err
}

// lookUp finds an entry by its path, through links that stay in the tree.
func (t *tree) lookUp(name string) (*entry, error) {
	path := []*entry{t.root} // from there to where we are
	links := 0
	for left := strings.Split(name, "/"); len(left) > 0; {
		dir, name := path[len(path)-1], left[0]
		left = left[1:]
		switch {
		case !dir.isDir():
			return nil, unix.ENOTDIR
		case name == "", name == ".":
			continue
		case name == ".." && len(path) == 1:
			return nil, errors.New("leads out of the archive, by .. or a symbolic link")
		case name == "..":
			path = path[:len(path)-1]
			continue
		}
		e := dir.children[name]
		switch {
		case e == nil:
			return nil, fs.ErrNotExist
		case !e.isSymlink():
			path = append(path, e)
			continue
		case strings.HasPrefix(e.target, "/"):
			return nil, fmt.Errorf("%q is a symbolic link out of the archive, to %q", name, e.target)
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		left = append(strings.Split(e.target, "/"), left...)
	}
	return path[len(path)-1], nil
}

// follow checks that a link stays below the directory that holds it, and
// counts it.
func (e *entry) follow(name string, links *int) error {
	if strings.HasPrefix(e.target, "/") || hasDotDot(e.target) {
		return fmt.Errorf("%q of its path is a symbolic link out of there, to %q", name, e.target)
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
func (t *tree) walk(dir *entry, path string, create bool, links *int) (*entry, error) {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		next := dir.children[name]
		switch {
		case next == nil && create:
			next = &entry{mode: unix.S_IFDIR | 0o777&^umask, implicit: true, names: 1}
			if dir.children == nil {
				dir.children = map[string]*entry{}
			}
			dir.children[name] = next
		case next == nil:
			return nil, fmt.Errorf("%q of its path does not exist", name)
		case next.isSymlink():
			err := next.follow(name, links)
			if err != nil {
				return nil, err
			}
			if next, err = t.walk(dir, next.target, false, links); err != nil {
				return nil, err
			}
		case !next.isDir():
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
