package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Tree is the tree of files that tar(1) would create from an archive in an empty
// directory. It is kept up to date while the archive is read: a later entry
// replaces an earlier one of the same name, and an entry whose path leads
// through a symbolic link is added where the link leads to. So the tree can be
// written to disk without following a link and without replacing a file.
type Tree struct {
	Root     *Entry
	Owners   map[Owner]*Owner // the owners of all entries, see InternOwner
	HasLinks bool             // some entry of the archive was a hard link

	lastOwner *Owner
	memory    int64           // bytes that the entries and owners take, about
	warned    map[string]bool // the kinds of warnings that have been logged
}

// NewTree returns a tree that consists of an implicit root directory.
func NewTree() *Tree {
	return &Tree{Root: newImplicitDir(""), Owners: map[Owner]*Owner{}, warned: map[string]bool{}}
}

// newImplicitDir makes a directory that the archive has no entry for. Like
// tar(1), it gives the directory the mode that mkdir(1) would.
func newImplicitDir(name string) *Entry {
	return &Entry{Name: name, Mode: unix.S_IFDIR | 0o777&^unixfs.Umask(), inode: &Inode{implicit: true}}
}

// InternOwner returns a pointer to an owner equal to o. Equal owners have equal
// pointers, so entries share them, and their names are looked up only once.
func (t *Tree) InternOwner(o Owner) *Owner {
	if known := t.Owners[o]; known != nil {
		return known
	}
	t.Owners[o] = &o
	t.memory += ownerMemory + int64(len(o.User)+len(o.Group))
	return &o
}

// Bytes of memory, about, that an entry takes with its place in the table of its
// directory, that its Inode takes, and that an Owner takes with its place in Owners.
const (
	entryMemory = 80
	inodeMemory = 128
	ownerMemory = 160
)

// FileMemory returns about how many bytes of memory a file with a base name takes.
func FileMemory(base string) int64 { return entryMemory + int64(len(base)) }

// warnOnce logs a warning, unless one of the same kind has been logged before.
func (t *Tree) warnOnce(kind, format string, args ...any) {
	if !t.warned[kind] {
		t.warned[kind] = true
		log.Printf("[WARN] "+format, args...)
	}
}

// add adds what a header describes to the tree, and returns the entry. offset is
// where its data begins in the tar.
func (t *Tree) add(h *header, offset int64) (*Entry, error) {
	e, err := t.newEntry(h)
	if err != nil {
		return nil, err
	}
	if e != nil && e.IsRegular() {
		e.Size, e.Offset = h.fileSize, offset
		if h.segments != nil {
			e.details().segments = h.segments
		}
	}
	name, err := t.cleanName(string(h.name))
	if err != nil {
		return nil, err
	}
	if name == "" {
		if e == nil || !e.IsDir() {
			return nil, errors.New("is not a directory, in the place of the root directory")
		}
		t.Root.setAttributes(e)
		return t.Root, nil
	}
	var target *Entry
	if e == nil {
		if target, err = t.linkTarget(string(h.target)); err != nil {
			return nil, err
		}
		t.HasLinks = true
	}
	parent, base, err := t.parentOf(name, true)
	if err != nil {
		return nil, err
	}
	old := parent.Child(base)
	switch {
	case old == nil:
	case target != nil && (old == target || old.inode != nil && old.inode == target.inode):
		return old, nil // a hard link to itself
	case old.IsDir() && e != nil && e.IsDir():
		old.setAttributes(e)
		return old, nil
	case old.HasChildren():
		return nil, errors.New("replaces a directory that is not empty")
	case old.Links() > 1:
		old.inode.links--
	}
	// Without Clone, the name would keep the memory of the whole path.
	base = strings.Clone(base)
	t.memory += FileMemory(base)
	if e != nil && e.inode != nil {
		t.memory += inodeMemory + int64(len(e.inode.target)) + 16*int64(len(e.inode.segments))
	}
	if target != nil {
		e = target.link(base)
	} else {
		e.Name = base
	}
	parent.Put(e)
	return e, nil
}

// linkTarget returns the entry that a hard link refers to.
func (t *Tree) linkTarget(target string) (*Entry, error) {
	name, err := t.cleanName(target)
	var e *Entry
	if err == nil && name != "" {
		var parent *Entry
		var base string
		if parent, base, err = t.parentOf(name, false); err == nil {
			e = parent.Child(base)
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

// cleanName returns a name of the archive as a path relative to the root, with
// no empty and no "." components. For the root itself it returns "".
func (t *Tree) cleanName(name string) (string, error) {
	if hasDotDot(name) {
		return "", errors.New(`the name has ".." in it`)
	}
	if len(name) >= unix.PathMax {
		// tar(1) could not create it either, and the directories in a name of a
		// megabyte would take too much memory.
		return "", unix.ENAMETOOLONG
	}
	if strings.HasPrefix(name, "/") {
		t.warnOnce("leading slash", "removing the leading / from the archive's names, as in %q", name)
	}
	// These steps allocate nothing for a name that is clean, as most are.
	for _, redundant := range []string{"//", "/./"} {
		for strings.Contains(name, redundant) {
			name = strings.ReplaceAll(name, redundant, "/")
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

// hasDotDot reports whether a path has ".." as a component.
func hasDotDot(path string) bool {
	for c := range strings.SplitSeq(path, "/") {
		if c == ".." {
			return true
		}
	}
	return false
}

// parentOf returns the directory that holds a clean name, and the last component
// of the name. If create is set, missing directories are created.
func (t *Tree) parentOf(name string, create bool) (parent *Entry, base string, err error) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return t.Root, name, nil
	}
	links := 0
	parent, err = t.walk(t.Root, name[:i], create, &links)
	return parent, name[i+1:], err
}

// maxLinks is how many symbolic links Linux follows in one path
// (path_resolution(7)).
const maxLinks = 40

// walk returns the directory at a path below dir. It follows a symbolic link
// only if the link's target is below the directory that holds the link. tar(1)
// delays the creation of other links until all files are extracted, so no entry
// can lead through them either. links counts the links followed so far.
func (t *Tree) walk(dir *Entry, path string, create bool, links *int) (*Entry, error) {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		next := dir.Child(name)
		switch {
		case next == nil && create:
			next = newImplicitDir(strings.Clone(name))
			t.memory += entryMemory + inodeMemory + int64(len(name))
			dir.Put(next)
		case next == nil:
			return nil, fmt.Errorf("%q of its path does not exist", name)
		case next.IsSymlink():
			if strings.HasPrefix(next.Target(), "/") || hasDotDot(next.Target()) {
				return nil, fmt.Errorf("%q of its path is a symbolic link out of there, to %q", name, next.Target())
			}
			if *links++; *links > maxLinks {
				return nil, fmt.Errorf("%q of its path: %w", name, unix.ELOOP)
			}
			var err error
			if next, err = t.walk(dir, next.Target(), false, links); err != nil {
				return nil, err
			}
		case !next.IsDir():
			return nil, fmt.Errorf("%q of its path is not a directory", name)
		}
		dir = next
	}
	return dir, nil
}

// LookUp returns the entry at a path, which may have "." and ".." in it. It
// follows symbolic links, also in the last component, as long as they stay in
// the tree. It returns fs.ErrNotExist, unix.ENOTDIR or unix.ELOOP as open(2)
// would, and another error for a path that leaves the tree.
func (t *Tree) LookUp(name string) (*Entry, error) {
	path := []*Entry{t.Root} // the directories from the root to the current one
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
		e := dir.Child(name)
		switch {
		case e == nil:
			return nil, fs.ErrNotExist
		case !e.IsSymlink():
			path = append(path, e)
			continue
		case strings.HasPrefix(e.Target(), "/"):
			return nil, fmt.Errorf("%q is a symbolic link out of the archive, to %q", name, e.Target())
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		left = append(strings.Split(e.Target(), "/"), left...)
	}
	return path[len(path)-1], nil
}

// ReplaceBySymlink puts a symbolic link to target, with a modification time, at a
// clean, relative path, and returns what was there, nil if nothing. Directories of
// the path that the tree lacks are added. Symbolic links are not followed: one in
// the place of a directory is an error, like any other file.
func (t *Tree) ReplaceBySymlink(path, target string, mtime unix.Timespec) (*Entry, error) {
	dir := t.Root
	names := strings.Split(path, "/")
	base := names[len(names)-1]
	for i, name := range names[:len(names)-1] {
		next := dir.Child(name)
		if next == nil {
			next = newImplicitDir(name)
			dir.Put(next)
		}
		if !next.IsDir() {
			return nil, fmt.Errorf("%q is not a directory in the archive", strings.Join(names[:i+1], "/"))
		}
		dir = next
	}
	old := dir.Child(base)
	link := &Entry{Name: base, Mode: unix.S_IFLNK | 0o777}
	link.SetTarget(target)
	link.SetMtime(mtime)
	dir.Put(link)
	return old, nil
}
