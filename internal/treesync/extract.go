package stretcher

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// extract makes what the archive holds in dir, an empty directory, as
// tar xf does: with the owners, exact modes and devices it names where root
// runs it; else as the caller's own, with modes under the umask and without
// setuid, setgid and sticky. dir itself changes only if the archive has an
// entry for it.
//
// Nothing outside dir is touched, whatever the archive says and whoever else
// writes to dir meanwhile: every name is looked up in an open directory, which
// was itself opened in its parent, never through a symbolic link.
func (a *archive) extract(ctx context.Context, dir string) error {
	if err := a.extractTo(ctx, dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func (a *archive) extractTo(ctx context.Context, dir string) error {
	attrs, err := newAttributes(a.tree)
	if err != nil {
		return err
	}
	root, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	attrs.madeIn(root)
	x := &extraction{contents: spooled{a.data}, attrs: attrs, crew: newCrew(ctx), made: map[*entry]string{}, linked: a.tree.linked}
	x.fill(root, "", a.tree.root)
	if err := x.crew.end(); err != nil {
		return err
	}
	if !x.linked {
		return nil
	}
	if err := x.makeLinks(ctx, root); err != nil {
		return err
	}
	return x.finish(ctx, root, "", a.tree.root)
}

// extraction writes a tree to disk.
type extraction struct {
	contents contents
	attrs    *attributes
	crew     *crew

	// Links may be of a file that another directory's worker makes, so they
	// come after all files, and then the directories' modes and times.
	linked bool

	mu    sync.Mutex
	made  map[*entry]string // where the first of several names is; nil makes each a file of its own
	links []link
}

// contents is where the bytes of a tree's regular files are.
type contents interface {
	// open returns a window on the file that has the entry's bytes, from its
	// offset on. It is to be closed.
	open(e *entry) (*window, error)
}

// spooled is contents that are all in one file.
type spooled struct{ tar io.ReaderAt }

func (s spooled) open(*entry) (*window, error) {
	w := windows.Get().(*window)
	if w.file != s.tar {
		w.file, w.size = s.tar, 0
	}
	return w, nil
}

// window is a part of a file in memory. The next one who opens the same file
// gets it as it was: the contents of small files follow one another there, and
// so one read brings several.
type window struct {
	file   io.ReaderAt
	closer io.Closer // of the file, if it is to be closed with the window
	buf    [128 << 10]byte
	offset int64
	size   int
}

var windows = sync.Pool{New: func() any { return new(window) }}

// bytes returns n bytes of the file, at most as many as buf has, until the next
// call.
func (w *window) bytes(offset int64, n int) ([]byte, error) {
	if offset < w.offset || offset+int64(n) > w.offset+int64(w.size) {
		var err error
		w.offset = offset
		if w.size, err = w.file.ReadAt(w.buf[:], offset); w.size < n {
			return nil, err
		}
	}
	return w.buf[offset-w.offset:][:n], nil
}

func (w *window) Close() error {
	var err error
	if w.closer != nil {
		err = w.closer.Close()
		w.file, w.closer = nil, nil
	}
	windows.Put(w)
	return err
}

// link is a further name of an entry.
type link struct {
	e    *entry
	path string
}

// fill makes what a directory holds, and then gives the directory its mode
// and time: not before, as the mode may forbid to write, and every file made
// changes the time.
func (x *extraction) fill(fd int, dir string, d *entry) {
	names := slices.SortedFunc(maps.Keys(d.children), d.byOffset)
	var pending sync.WaitGroup
	const batch = 16
	for names := range slices.Chunk(names, batch) {
		x.crew.do(&pending, func() error {
			for _, name := range names {
				e := d.children[name]
				if e.isDir() {
					continue
				}
				if err := x.file(fd, path.Join(dir, name), name, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, name := range names {
		if e := d.children[name]; e.isDir() {
			x.crew.do(&pending, func() error { return x.directory(fd, path.Join(dir, name), name, e) })
		}
	}
	x.crew.wait(&pending)
	if x.linked || x.crew.ctx.Err() != nil {
		return
	}
	x.crew.stopOn(x.setDir(fd, dir, d))
}

func (x *extraction) setDir(fd int, dir string, d *entry) error {
	if d.implicit && (dir == "" || !x.attrs.inherits) {
		return nil // made by the caller, or made with the right mode
	}
	if err := x.attrs.setDir(fd, d); err != nil {
		return fmt.Errorf("%s: %w", path.Join(".", dir), err)
	}
	return nil
}

func (x *extraction) directory(parent int, path, name string, d *entry) error {
	mode := uint32(0o777) // less the umask, where the archive does not say
	if !d.implicit {
		mode = 0o700
	}
	if err := unix.Mkdirat(parent, name, mode); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fd, err := openDir(parent, name)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	x.fill(fd, path, d)
	return nil
}

// file makes anything but a directory.
func (x *extraction) file(dir int, path, name string, e *entry) error {
	if err := x.crew.ctx.Err(); err != nil {
		return err
	}
	if x.made != nil && e.names > 1 && x.isFurtherName(e, path) {
		return nil
	}
	var err error
	switch {
	case e.isRegular():
		err = x.regular(dir, name, e)
	case e.isSymlink():
		err = unix.Symlinkat(e.target, dir, name)
	default:
		if err = unix.Mknodat(dir, name, e.mode&(unix.S_IFMT|0o777), int(e.device)); err == unix.EPERM && e.kind() != unix.S_IFIFO {
			err = fmt.Errorf("only root can make a device: %w", err)
		}
	}
	if err == nil && !e.isRegular() {
		err = x.attrs.setOther(dir, name, e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// isFurtherName reports, and notes for makeLinks, that the entry is being made
// under another name.
func (x *extraction) isFurtherName(e *entry, path string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, made := x.made[e]; made {
		x.links = append(x.links, link{e, path})
		return true
	}
	x.made[e] = path
	return false
}

func (x *extraction) regular(dir int, name string, e *entry) (err error) {
	fd, err := openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, e.mode&0o777)
	if err != nil {
		return err
	}
	defer func() {
		if closed := unix.Close(fd); err == nil {
			err = closed // some file systems report only now that they are full
		}
	}()
	if err := copyContents(x.crew.ctx, fd, x.contents, e); err != nil {
		return err
	}
	return x.attrs.setFile(fd, dir, name, e)
}

// copyContents writes the entry's bytes to a new file, leaving its holes.
func copyContents(ctx context.Context, fd int, contents contents, e *entry) error {
	segments := e.segments
	if segments == nil {
		segments = []segment{{0, e.size}}
	} else if err := unix.Ftruncate(fd, e.size); err != nil {
		return err
	}
	data, err := contents.open(e)
	if err != nil {
		return err
	}
	defer data.Close()
	from := e.offset
	for _, seg := range segments {
		for done := int64(0); done < seg.length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, err := data.bytes(from, int(min(int64(len(data.buf)), seg.length-done)))
			if err != nil {
				return fmt.Errorf("read what is to be written: %w", err)
			}
			if err := writeAt(fd, b, seg.offset+done); err != nil {
				return err
			}
			from += int64(len(b))
			done += int64(len(b))
		}
	}
	return nil
}

func writeAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// makeLinks makes the further names of files that have several.
func (x *extraction) makeLinks(ctx context.Context, root int) error {
	for _, l := range x.links {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := linkBelow(root, x.made[l.e], l.path); err != nil {
			return fmt.Errorf("%s: link to %s: %w", l.path, x.made[l.e], err)
		}
	}
	return nil
}

func linkBelow(root int, from, to string) error {
	fromDir, err := openBelow(root, path.Dir(from))
	if err != nil {
		return err
	}
	defer unix.Close(fromDir)
	toDir, err := openBelow(root, path.Dir(to))
	if err != nil {
		return err
	}
	defer unix.Close(toDir)
	return unix.Linkat(fromDir, path.Base(from), toDir, path.Base(to), 0)
}

// openBelow opens a directory by its path from root, each component in the one
// before.
func openBelow(root int, path string) (int, error) {
	fd, err := openDir(root, ".")
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return -1, err
		}
		var next int
		next, err = openDir(fd, name)
		unix.Close(fd)
		fd = next
	}
	return fd, err
}

// finish gives the directories their modes and times, the deepest first.
func (x *extraction) finish(ctx context.Context, fd int, dir string, d *entry) error {
	for name, e := range d.children {
		if !e.isDir() {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := path.Join(dir, name)
		child, err := openDir(fd, name)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		err = x.finish(ctx, child, path, e)
		unix.Close(child)
		if err != nil {
			return err
		}
	}
	return x.setDir(fd, dir, d)
}
