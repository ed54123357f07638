package treesync

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// previewing is a comparison that changes nothing. What would make a sync fail does
// not end it, so that all differences are found.
type previewing struct {
	keepsDest bool // dest is only compared with, so no change of it can fail

	mu       sync.Mutex // guards the following, and differences of dirPlans
	problems []error
}

// Preview returns what Sync would create, change and delete in dest, and changes
// nothing. A dest of "" stands for one that does not exist.
//
// The error is why Sync would fail. The items are then those that could be found out
// nevertheless. Directories that this user cannot read are logged.
func Preview(ctx context.Context, a *archive.Archive, dest string, o Options) (iter.Seq[preview.Item], error) {
	attrs, err := newAttributes(ctx, a.Tree)
	if err != nil {
		return noItems, err
	}
	o.setRootMode(a.Tree.Root)
	from := archiveContents{a.Data()}
	rules, err := excludeRules(a.Tree, from, o)
	if err != nil {
		return noItems, err
	}
	prune(a.Tree.Root, rules)
	return previewTree(ctx, a.Tree, from, attrs, rules, dest, &previewing{})
}

// Preview returns how the tree differs from the directory base, as Preview does for
// a sync: an item is changed if both have it. A base of "" has nothing.
func (f *Fresh) Preview(ctx context.Context, base string) (iter.Seq[preview.Item], error) {
	return previewTree(ctx, f.tree, f.contents, f.attrs, &rsyncfilter.List{}, base, &previewing{keepsDest: true})
}

func noItems(func(preview.Item) bool) {}

func previewTree(ctx context.Context, tree *archive.Tree, from contents, attrs *attributes, rules *rsyncfilter.List, dest string, v *previewing) (iter.Seq[preview.Item], error) {
	created := func(yield func(preview.Item) bool) { createdItems(".", tree.Root, yield) }
	if dest == "" {
		return created, attrs.mayCreate(".", tree.Root)
	}
	// Without O_NOFOLLOW: dest itself may be a symbolic link.
	fd, err := unixfs.Openat(unix.AT_FDCWD, dest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if _, missing := os.Lstat(dest); errors.Is(missing, os.ErrNotExist) {
		return created, attrs.mayCreate(".", tree.Root)
	}
	if err != nil {
		return noItems, destError(dest, err)
	}
	defer unix.Close(fd)
	s := &staging{attrs: attrs}
	defer s.close()
	compared := &comparison{rules: rules, attrs: attrs, contents: from, staging: s, preview: v}
	p, err := compared.compare(ctx, tree.Root, fd)
	if err != nil {
		return noItems, fmt.Errorf("compare with %s: %w", dest, err)
	}
	if err = firstOf(v.problems); err != nil {
		err = explain(err, p, fd, dest)
	}
	return func(yield func(preview.Item) bool) { p.root.items(attrs, yield) }, err
}

// openDir opens a directory of dest.
func (c *comparison) openDir(parent int, name string) (int, error) {
	if c.preview != nil {
		return unixfs.OpenDir(parent, name)
	}
	return c.staging.openDir(parent, name)
}

// fail returns an error that ends a sync. A preview goes on.
func (c *comparison) fail(err error) error {
	v := c.preview
	if v == nil || err == nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.keepsDest:
	case errors.Is(err, errNotWritable): // says more than others
		v.problems = slices.Insert(v.problems, 0, err)
	default:
		v.problems = append(v.problems, err)
	}
	return nil
}

// failRead is fail for the error of opening the directory name.
func (c *comparison) failRead(parent int, name string, err error) error {
	if c.preview == nil || !errors.Is(err, unix.EACCES) {
		return c.fail(err)
	}
	log.Printf("[WARN] %v: what would change in it is not known", err)
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && int(st.Uid) == c.attrs.uid {
		return nil // a sync opens it by changing its mode
	}
	return c.fail(err)
}

// findAbandoned plans the removal of what the sweep of a sync would remove.
func (p *dirPlan) findAbandoned() error {
	return unixfs.RemoveAbandoned(p.staging.parent(), unixfs.TempPrefix, func(name string) error {
		p.deleted = append(p.deleted, path.Join(p.path, name)+"/")
		return nil
	})
}

// stageNothing does in a preview what stage does in a sync.
func (c *comparison) stageNothing(p *dirPlan, name string, e *archive.Entry) error {
	c.plan.bytes.Add(e.StoredSize())
	c.done.AddFiles(int(e.Count()))
	c.done.AddBytes(e.StoredSize())
	return c.fail(c.attrs.mayCreate(path.Join(p.path, name), e))
}

// mayCreate returns an error if an entry, or one below it, is a device that this
// process cannot make.
func (at *attributes) mayCreate(entryPath string, e *archive.Entry) error {
	if kind := e.Kind(); (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && !unixfs.HasCapability(unix.CAP_MKNOD) {
		return pathError{entryPath, errDevice}
	}
	for child := range e.Children() {
		if err := at.mayCreate(path.Join(entryPath, child.Name), child); err != nil {
			return err
		}
	}
	return nil
}

// addDifferences notes why a name is to be replaced or repaired.
func (c *comparison) addDifferences(dir openDir, p *dirPlan, old unixfs.Dirent, e *archive.Entry, d decision) {
	differs := c.differences(dir, old, e, d)
	c.preview.mu.Lock()
	defer c.preview.mu.Unlock()
	if p.differences == nil {
		p.differences = map[string][]string{}
	}
	p.differences[old.Name] = differs
}

func (c *comparison) differences(dir openDir, old unixfs.Dirent, e *archive.Entry, d decision) []string {
	if old.Kind != e.Kind() {
		return []string{"type " + preview.KindName(old.Kind) + " -> " + preview.KindName(e.Kind())}
	}
	var list []string
	switch {
	case d.same:
	case e.IsSymlink():
		target, _ := unixfs.ReadLink(dir.fd, old.Name) // gone meanwhile, if this fails
		list = append(list, "target "+target+" -> "+e.Target())
	case !e.IsRegular():
		list = append(list, "device")
	case unix.Faccessat2(dir.fd, old.Name, unix.R_OK, unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW) == unix.EACCES:
		list = append(list, "contents (the present ones cannot be read)")
	default:
		list = append(list, "contents")
	}
	var st unix.Stat_t
	if unix.Fstatat(dir.fd, old.Name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return list // gone meanwhile
	}
	return append(list, c.attrs.differences(&st, e)...)
}

// differences describes what differs says.
func (at *attributes) differences(st *unix.Stat_t, e *archive.Entry) []string {
	var list []string
	owner, group, mode, time := at.differs(st, e)
	uid, gid := at.owner(e)
	if owner {
		list = append(list, fmt.Sprintf("owner %d -> %d", st.Uid, uid))
	}
	if group {
		list = append(list, fmt.Sprintf("group %d -> %d", st.Gid, gid))
	}
	if mode {
		list = append(list, fmt.Sprintf("mode %04o -> %04o", st.Mode&0o7777, at.permissions(e)))
	}
	if time {
		list = append(list, "time")
	}
	return list
}

// items yields what a plan does in a directory of dest, and below it.
func (p *dirPlan) items(attrs *attributes, yield func(preview.Item) bool) bool {
	if p.differs {
		st := unix.Stat_t{Mode: p.mode, Uid: uint32(p.was.uid), Gid: uint32(p.was.gid), Mtim: p.was.mtime}
		own := preview.Item{Kind: preview.Change, Path: path.Join(".", p.path), Dir: true, Differs: attrs.differences(&st, p.entry)}
		if !yield(own) {
			return false
		}
	}
	type part struct {
		path string
		show func() bool
	}
	var parts []part
	for _, name := range p.staged {
		at := path.Join(p.path, name)
		parts = append(parts, part{at, func() bool { return createdItems(at, p.entry.Child(name), yield) }})
	}
	for _, name := range p.swapped {
		at, e := path.Join(p.path, name), p.entry.Child(name)
		item := preview.Item{Kind: preview.Change, Path: at, Dir: e.IsDir(), Differs: p.differences[name], Bytes: ownSize(e)}
		parts = append(parts, part{at, func() bool { return yield(item) && createdBelow(at, e, yield) }})
	}
	for _, name := range p.repairs {
		item := preview.Item{Kind: preview.Change, Path: path.Join(p.path, name), Differs: p.differences[name]}
		parts = append(parts, part{item.Path, func() bool { return yield(item) }})
	}
	for _, deleted := range p.deleted {
		at, isDir := strings.CutSuffix(deleted, "/")
		parts = append(parts, part{at, func() bool { return yield(preview.Item{Kind: preview.Delete, Path: at, Dir: isDir}) }})
	}
	for _, sub := range p.subdirs {
		parts = append(parts, part{sub.path, func() bool { return sub.items(attrs, yield) }})
	}
	slices.SortFunc(parts, func(a, b part) int { return preview.ComparePaths(a.path, b.path) })
	for _, part := range parts {
		if !part.show() {
			return false
		}
	}
	return true
}

// createdItems yields a new entry and all that is below it.
func createdItems(at string, e *archive.Entry, yield func(preview.Item) bool) bool {
	return yield(preview.Item{Kind: preview.Create, Path: at, Dir: e.IsDir(), Bytes: ownSize(e)}) && createdBelow(at, e, yield)
}

func createdBelow(at string, e *archive.Entry, yield func(preview.Item) bool) bool {
	for _, child := range e.ByName() {
		if !createdItems(path.Join(at, child.Name), child, yield) {
			return false
		}
	}
	return true
}

// ownSize returns how many bytes an entry has, what is below it aside.
func ownSize(e *archive.Entry) int64 {
	if e.IsDir() {
		return 0
	}
	return e.StoredSize()
}
