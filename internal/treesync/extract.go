package treesync

import (
	"context"
	"fmt"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Extract creates in dir, which must be an empty directory, the files that the
// archive describes, as tar xf does. Run by root, they get the owners, modes
// and device numbers that the archive names. Run by another user, they belong
// to that user, the umask applies, setuid, setgid and sticky bits are dropped,
// and a device is an error (unix.EPERM). dir itself gets a mode, owner and time
// only if the archive has an entry for it.
//
// On an error, which begins with dir, some of the files may exist. If ctx ends
// before all of them do, the error is its cause.
func Extract(ctx context.Context, a *archive.Archive, dir string) error {
	free, err := unixfs.FreeSpace(dir)
	if err != nil {
		return err
	}
	err = extract(ctx, a, dir, progress.Reporter{})
	if unixfs.IsFull(err) {
		err = explainSpace(err, a.Tree.Root.StoredSize(), a.Tree.Root.Count(), free, "")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func extract(ctx context.Context, a *archive.Archive, dir string, report progress.Reporter) error {
	attrs, err := newAttributes(ctx, a.Tree)
	if err != nil {
		return err
	}
	root, err := unixfs.OpenDir(unix.AT_FDCWD, dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	x, err := newExtractor(ctx, a.Tree, archiveContents{a.Data()}, attrs, root)
	if err != nil {
		return err
	}
	return x.tree(ctx, root, -1, a.Tree.Root, report)
}

// tree creates what is in the directory d, open as root, and sets the attributes
// of d. base is as for fill.
func (x *extractor) tree(ctx context.Context, root, base int, d *archive.Entry, report progress.Reporter) error {
	x.done = report.Start("Extracting", amountBelow(d))
	defer x.done.End()
	x.fill(root, base, "", d)
	if err := x.workers.end(); err != nil {
		return err
	}
	if !x.linksFiles() {
		return nil
	}
	if err := x.makeLinks(ctx, root); err != nil {
		return err
	}
	return x.setDirs(ctx, root, "", d)
}

// amountBelow returns how many names and bytes there are below a directory.
func amountBelow(d *archive.Entry) func() (files, bytes int64) {
	return func() (int64, int64) { return d.Count() - 1, d.StoredSize() }
}

// extractor creates the files of a tree.
type extractor struct {
	contents contents
	attrs    *attributes
	workers  *workers
	done     *progress.Step
	cloner   *cloner // nil for a tree of which nothing exists yet

	mu sync.Mutex // guards the following, while workers fill them
	// firstNames has the path under which an entry with several names is
	// created. If it is nil, each name becomes a file of its own.
	firstNames map[*archive.Inode]string
	links      []link
}

// newExtractor returns an extractor that creates what is in a tree below the open
// directory dir.
func newExtractor(ctx context.Context, t *archive.Tree, from contents, attrs *attributes, dir int) (*extractor, error) {
	if err := attrs.checkDefaultACL(dir); err != nil {
		return nil, err
	}
	x := &extractor{contents: from, attrs: attrs, workers: newWorkers(ctx)}
	if t.HasLinks {
		x.firstNames = map[*archive.Inode]string{}
	}
	return x, nil
}

// link is a further name of an entry.
type link struct {
	entry *archive.Entry
	path  string
}

// linksFiles reports whether further names of a file become hard links. They
// are made after all files, since another worker may create the file they link
// to, and so the directories get their modes and times only then.
func (x *extractor) linksFiles() bool { return x.firstNames != nil }

// fill creates what is in a directory, and then sets the directory's owner,
// mode and time. Before that the mode might forbid to create files in it, and
// each file changes the time. base is an open directory whose files may have the
// contents already, or -1.
func (x *extractor) fill(fd, base int, dir string, d *archive.Entry) {
	children := d.ByOffset()
	work := x.workers.newGroup()
	for batch := range batches(children, func(e *archive.Entry) int64 { return e.Size }) {
		work.do(func() error {
			for _, e := range batch {
				if e.IsDir() {
					continue
				}
				if err := x.file(fd, base, path.Join(dir, e.Name), e.Name, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, e := range children {
		if e.IsDir() {
			work.do(func() error { return x.directory(fd, base, path.Join(dir, e.Name), e.Name, e) })
		}
	}
	work.wait()
	if x.linksFiles() || x.workers.stopped() {
		return
	}
	x.workers.stopOn(x.setDir(fd, dir, d))
}

func (x *extractor) setDir(fd int, dir string, d *archive.Entry) error {
	if d.Implicit() && (dir == "" || !x.attrs.hasDefaultACL.Load()) {
		return nil // created by the caller, or with the right mode
	}
	if err := x.attrs.setDir(fd, d); err != nil {
		return pathError{path.Join(".", dir), err}
	}
	return nil
}

// directory creates name in the directory parent, with all that is in it.
// dirPath is its path in the tree.
func (x *extractor) directory(parent, parentBase int, dirPath, name string, d *archive.Entry) error {
	mode := uint32(0o777) // less the umask, if the archive has no entry for it
	if !d.Implicit() {
		mode = 0o700
	}
	if err := unix.Mkdirat(parent, name, mode); err != nil {
		return pathError{dirPath, err}
	}
	fd, err := unixfs.OpenDir(parent, name)
	if err != nil {
		return pathError{dirPath, err}
	}
	defer unix.Close(fd)
	base := -1
	if parentBase >= 0 {
		if base, err = unixfs.OpenDir(parentBase, name); err == nil {
			defer unix.Close(base)
		}
	}
	x.fill(fd, base, dirPath, d)
	x.done.AddFiles(1)
	return nil
}

// errDevice also concerns root, which lacks the capability in most containers.
var errDevice = fmt.Errorf("making a device takes root and the capability CAP_MKNOD: %w", unix.EPERM)

// file creates name in the directory dir: a file of any type but a directory.
// filePath is its path in the tree.
func (x *extractor) file(dir, base int, filePath, name string, e *archive.Entry) error {
	if err := x.workers.ctx.Err(); err != nil {
		return err
	}
	if x.linksFiles() && e.Links() > 1 && x.isFurtherName(e, filePath) {
		x.done.AddFiles(1)
		x.done.AddBytes(e.StoredSize())
		return nil
	}
	var err error
	switch {
	case e.IsRegular():
		err = x.regular(dir, base, name, e)
	case e.IsSymlink():
		err = unix.Symlinkat(e.Target(), dir, name)
	default:
		if err = unix.Mknodat(dir, name, e.Mode&(unix.S_IFMT|0o777), int(e.Device())); err == unix.EPERM && e.Kind() != unix.S_IFIFO {
			err = errDevice
		}
	}
	if err == nil && !e.IsRegular() {
		err = x.attrs.setOther(dir, name, e)
	}
	if err != nil {
		return pathError{filePath, err}
	}
	x.done.AddFiles(1)
	return nil
}

// isFurtherName reports whether the entry is created under another name. If so,
// makeLinks will link filePath to that.
func (x *extractor) isFurtherName(e *archive.Entry, filePath string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, exists := x.firstNames[e.Inode()]; exists {
		x.links = append(x.links, link{e, filePath})
		return true
	}
	x.firstNames[e.Inode()] = filePath
	return false
}

func (x *extractor) regular(dir, base int, name string, e *archive.Entry) (err error) {
	fd, err := unixfs.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, e.Mode&0o777)
	if err != nil {
		return err
	}
	defer func() {
		// Some file systems report only now that they are full.
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}()
	cloned, err := x.cloner.clone(x.workers.ctx, fd, base, name, x.contents, e, x.done)
	if err == nil && !cloned {
		err = copyContents(x.workers.ctx, fd, x.contents, e, x.done)
	}
	if err != nil {
		return err
	}
	return x.attrs.setFile(fd, dir, name, e)
}

// makeLinks creates the further names of files that have several.
func (x *extractor) makeLinks(ctx context.Context, root int) error {
	for _, l := range x.links {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		first := x.firstNames[l.entry.Inode()]
		if err := linkBelow(root, first, l.path); err != nil {
			return pathError{l.path, fmt.Errorf("link to %s: %w", escape(first), err)}
		}
	}
	return nil
}

// linkBelow is linkat(2) with paths below the directory root that it does not
// follow symbolic links in.
func linkBelow(root int, from, to string) error {
	fromDir, err := unixfs.OpenBelow(root, path.Dir(from))
	if err != nil {
		return err
	}
	defer unix.Close(fromDir)
	toDir, err := unixfs.OpenBelow(root, path.Dir(to))
	if err != nil {
		return err
	}
	defer unix.Close(toDir)
	return unix.Linkat(fromDir, path.Base(from), toDir, path.Base(to), 0)
}

// setDirs sets the owners, modes and times of a directory and those below it,
// the deepest first.
func (x *extractor) setDirs(ctx context.Context, fd int, dir string, d *archive.Entry) error {
	for e := range d.Children() {
		if !e.IsDir() {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		subPath := path.Join(dir, e.Name)
		sub, err := unixfs.OpenDir(fd, e.Name)
		if err != nil {
			return pathError{subPath, err}
		}
		err = x.setDirs(ctx, sub, subPath, e)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return x.setDir(fd, dir, d)
}
