package stretcher

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/rsyncfilter"
)

// builtinStrategy does what rsync -a --delete does, with the excludes of the
// manifest, but compares the contents of files and not their times.
//
// All that is new is first staged in a directory inside dest, so that until
// then a failure leaves dest as it was. Then each file is put in place by one
// rename, and what the archive lacks is taken out. A run that is killed leaves
// every file whole, the old or the new one.
type builtinStrategy struct{ *Manifest }

// Sync makes the directory to equal to the directory from.
func (s *builtinStrategy) Sync(from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := readTree(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	attrs, err := newAttributes(tree)
	if err != nil {
		return err
	}
	attrs.exact = true
	return s.sync(context.Background(), tree, filesBelow{root}, attrs, plainPath(to))
}

// syncArchive makes the directory to equal to what extracting the archive
// makes, without extracting it. mode is for to itself, if the archive has no
// entry for it. The archive cannot be extracted afterwards: what is excluded
// is gone from its index.
func (s *builtinStrategy) syncArchive(ctx context.Context, a *archive, to string, mode fs.FileMode) error {
	attrs, err := newAttributes(a.tree)
	if err != nil {
		return err
	}
	if a.tree.root.implicit {
		a.tree.root.mode = unix.S_IFDIR | uint32(mode)&0o7777
	}
	return s.sync(ctx, a.tree, spooled{a.data}, attrs, to)
}

func (s *builtinStrategy) sync(ctx context.Context, t *tree, contents contents, attrs *attributes, to string) error {
	rules, err := s.rules(t, contents)
	if err != nil {
		return err
	}
	t.root.prune("", rules)
	for name, e := range t.root.children {
		if e.isDir() && isTempName(name) {
			log.Printf("[WARN] %s is not synced: such names are for temporary directories", name)
			delete(t.root.children, name)
		}
	}
	dest, created, err := openDest(to)
	if err != nil {
		return err
	}
	defer unix.Close(dest)
	sweepTempDirs(to, tempPrefix)
	y := &syncing{rules: rules, attrs: attrs, contents: contents}
	defer y.closeAreas()
	if err := y.stage(ctx, t.root, dest, to); err != nil {
		y.undoAreas()
		if created {
			logError("remove dest, which was not there before", os.Remove(to))
		}
		return fmt.Errorf("sync to %s: %w", to, err)
	}
	// From here on nothing may stop half-way, not even the end of ctx.
	start := time.Now()
	err = y.commit(dest)
	took := time.Since(start)
	leftover := y.removeAreas()
	if err == nil {
		err = y.finishAreas()
	}
	if err == nil {
		err = leftover
	} else {
		logError("clean up", leftover)
	}
	if err != nil {
		return fmt.Errorf("sync to %s: %w", to, err)
	}
	y.report(to, created, took)
	return nil
}

// rules are those of exclude_from, a file of the tree, and then of excludes.
func (s *builtinStrategy) rules(t *tree, contents contents) (*rsyncfilter.List, error) {
	rules := &rsyncfilter.List{}
	if s.ExcludeFrom != "" {
		if err := addRules(rules, t, contents, s.ExcludeFrom); err != nil {
			return nil, fmt.Errorf("exclude_from %s: %w", s.ExcludeFrom, err)
		}
	}
	for _, pattern := range s.Excludes {
		if err := rules.Add(pattern); err != nil {
			return nil, fmt.Errorf("excludes: %w", err)
		}
	}
	return rules, nil
}

func addRules(rules *rsyncfilter.List, t *tree, contents contents, name string) error {
	e, err := t.lookUp(strings.TrimLeft(name, "/"))
	if err != nil {
		return err
	}
	if !e.isRegular() {
		return errors.New("not a regular file")
	}
	r, err := e.reader(contents)
	if err != nil {
		return err
	}
	defer r.Close()
	return rules.AddFrom(r)
}

// prune removes what the rules exclude from below a directory.
func (e *entry) prune(dir string, rules *rsyncfilter.List) {
	for name, child := range e.children {
		path := path.Join(dir, name)
		if rules.Excluded(path, child.isDir()) {
			delete(e.children, name)
		} else if child.isDir() {
			child.prune(path, rules)
		}
	}
}

// openDest opens the directory to sync to, and makes it where only its own
// level is missing.
func openDest(to string) (fd int, created bool, err error) {
	err = unix.Mkdir(to, 0o700)
	created = err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		if _, exists := os.Stat(to); exists != nil { // else an EROFS, say, of a mount point
			return -1, false, &fs.PathError{Op: "mkdir", Path: to, Err: err}
		}
	}
	// Without O_NOFOLLOW: dest itself may be a symbolic link.
	fd, err = openat(unix.AT_FDCWD, to, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, false, &fs.PathError{Op: "open", Path: to, Err: err}
	}
	return fd, created, nil
}

// filesBelow is contents that are each in a file of its own, whose path an
// entry has for its target.
type filesBelow struct{ *os.Root }

func (f filesBelow) open(e *entry) (*window, error) {
	file, err := f.Open(e.target)
	if err != nil {
		return nil, err
	}
	w := windows.Get().(*window)
	w.file, w.closer, w.size = file, file, 0
	return w, nil
}

// readTree makes the tree of a directory.
func readTree(dir string) (*tree, error) {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0) // or what a link leads to
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	t := newTree()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	t.root = t.statEntry(&st)
	return t, t.readDir(fd, "", t.root)
}

func (t *tree) statEntry(st *unix.Stat_t) *entry {
	o := owner{uid: int(st.Uid), gid: int(st.Gid)}
	return &entry{mode: st.Mode, names: 1, owner: t.internOwner(o), mtime: st.Mtim, size: st.Size, device: st.Rdev}
}

func (t *tree) readDir(fd int, dir string, d *entry) error {
	list, err := readDir(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", path.Join(".", dir), err)
	}
	d.children = make(map[string]*entry, len(list))
	for _, found := range list {
		path := path.Join(dir, found.name)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, found.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		e := t.statEntry(&st)
		d.children[found.name] = e
		switch {
		case e.isDir():
			err = t.readSubdir(fd, found.name, path, e)
		case e.isSymlink():
			e.target, err = readLink(fd, found.name)
		case e.isRegular():
			e.target = path
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) readSubdir(parent int, name, path string, d *entry) error {
	fd, err := openDir(parent, name)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	return t.readDir(fd, path, d)
}

// report logs what has been done.
func (y *syncing) report(to string, created bool, took time.Duration) {
	if RsyncVerboseOpt != "" {
		if created {
			log.Printf("created directory %s", to)
		}
		out := newLineWriter()
		lines := bufio.NewWriterSize(out, 32<<10)
		y.root.list(func(line string) {
			lines.WriteString(escape(line))
			lines.WriteByte('\n')
		})
		lines.Flush()
		out.flush()
	}
	n := &y.counts
	log.Printf("Synced to %s: %d created, %d changed, %d deleted, %d unchanged, %s written, put in place within %s",
		to, n.created.Load(), n.changed.Load(), n.deleted.Load(), n.unchanged.Load(), humanize.IBytes(uint64(n.bytes.Load())), took.Round(10*time.Microsecond))
}

// unclear are control characters in a name, and what looks like one escaped.
var unclear = regexp.MustCompile(`[\x00-\x08\x0a-\x1f]|\\#[0-9]{3}`)

// escape writes control characters as rsync does, lest a name with a newline
// in it look like two.
func escape(name string) string {
	if !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == '\\' }) {
		return name
	}
	return unclear.ReplaceAllStringFunc(name, func(s string) string {
		return fmt.Sprintf(`\#%03o`, s[0]) + s[1:]
	})
}

// reader reads a regular file's bytes from first to last.
func (e *entry) reader(contents contents) (io.ReadCloser, error) {
	data, err := contents.open(e)
	if err != nil {
		return nil, err
	}
	if e.segments != nil {
		data.Close()
		return nil, errors.New("is a sparse file")
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(data.file, e.offset, e.size), data}, nil
}
