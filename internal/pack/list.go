package pack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// tree is the directory that is packed, without what is excluded.
type tree struct {
	root   *os.Root
	files  []*file        // of all types, in the order of the tar
	packed *progress.Step // how much of the tar has been written
}

// file is a file of any type.
type file struct {
	path   string // relative to the root
	header *tar.Header
	info   fs.FileInfo // when it was listed
	size   int64       // of the contents of a regular file, 0 for a further name of one

	firstPiece int // of the contents, in the index
}

// maxPath is how long a path and the target of a symbolic link may be, in bytes,
// so that Linux can create them (path_resolution(7)).
const maxPath = 4095

// list lists a directory. It is an error if out, where the archive is written to, is in
// it, because the archive would then contain itself.
func list(ctx context.Context, root *os.Root, o Options, out io.Writer) (*tree, error) {
	var self fs.FileInfo
	if file, ok := out.(*os.File); ok {
		var err error
		if self, err = file.Stat(); err != nil {
			return nil, err
		}
	}
	var rules rsyncfilter.List
	for _, rule := range o.Excludes {
		if err := rules.Add(rule); err != nil {
			return nil, fmt.Errorf("exclude %q: %w", rule, err)
		}
	}
	t := &tree{root: root}
	first := map[inode]string{} // the first name of each file that has several
	err := unixfs.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// The root itself has no entry: its mode, which is often that of a temporary
		// directory, would take precedence over dest_mode.
		if path == "." {
			return nil
		}
		if rules.Excluded(path, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if os.SameFile(info, self) {
			return errors.New("the archive would be in the directory that is packed: write it elsewhere by -o, or exclude the directory that it is in")
		}
		if info.Mode().Type() == fs.ModeSocket {
			log.Printf("[WARN] %s is a socket: left out", path)
			return nil
		}
		f, err := t.newFile(path, info, o, first)
		if err != nil {
			return fmt.Errorf("pack %s: %w", path, err)
		}
		t.files = append(t.files, f)
		return nil
	})
	return t, err
}

// inode identifies a file that has several names.
type inode struct{ device, number uint64 }

func (t *tree) newFile(path string, info fs.FileInfo, o Options, first map[inode]string) (*file, error) {
	if len(path) > maxPath {
		return nil, errors.New("the name is too long to be extracted")
	}
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if target, err = t.root.Readlink(path); err != nil {
			return nil, err
		}
		if len(target) > maxPath {
			return nil, errors.New("the target of the symbolic link is too long to be extracted")
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	h.Name = path
	if info.IsDir() {
		h.Name += "/"
	}
	// Names of users may stand for other numbers where the archive is extracted.
	h.Uname, h.Gname = "", ""
	if o.Owner != nil {
		h.Uname, h.Gname, h.Uid, h.Gid = o.Owner.user, o.Owner.group, o.Owner.uid, o.Owner.gid
	}
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.ModTime = info.ModTime().Truncate(time.Second)
	if !o.Latest.IsZero() && h.ModTime.After(o.Latest) {
		h.ModTime = o.Latest.Truncate(time.Second)
	}
	f := &file{path: path, header: h, info: info}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !info.IsDir() {
		id := inode{uint64(st.Dev), st.Ino}
		if name, ok := first[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, name, 0
			return f, nil
		}
		first[id] = path
	}
	f.size = h.Size
	return f, nil
}

// open opens a regular file.
func (t *tree) open(f *file) (*os.File, error) {
	in, err := t.root.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a fifo by now
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.changed()
	}
	if err != nil {
		return nil, err
	}
	if err := f.check(in); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// check returns an error if the file is not what it was when it was listed.
func (f *file) check(in *os.File) error {
	now, err := in.Stat()
	if err != nil {
		return err
	}
	if !sameFile(f.info, now) {
		return f.changed()
	}
	return nil
}

// sameFile reports whether a file seems to be what it was before.
func sameFile(before, now fs.FileInfo) bool {
	return os.SameFile(before, now) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime()) && now.Mode() == before.Mode()
}

func (f *file) changed() error {
	return fmt.Errorf("%s changed while it was packed: pack a directory that nothing writes to", f.path)
}
