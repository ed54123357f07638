package treesync

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Options are the parameters of Sync and SyncDir. The zero value excludes
// nothing and lists nothing.
type Options struct {
	// Mode is the mode of dest if the archive has no entry for its own root.
	// Of the bits beyond the permissions, those of chmod(2) count, as a manifest
	// writes them: 02755 is setgid. SyncDir does not use it.
	Mode fs.FileMode
	// Excludes are rules in the syntax of rsync's --exclude.
	Excludes []string
	// ExcludeFrom is the path of a file in the archive, or below the directory
	// from, with rules as in rsync's --exclude-from. They come before Excludes,
	// and the first rule that matches a name decides. "" is no file.
	ExcludeFrom string
	// List gets the paths that are deleted, created or changed, one a line, as
	// rsync -v prints them. If it is nil, none are listed.
	List io.Writer

	log    *log.Logger // gets what is logged of a sync that succeeds; nil is the standard logger
	report progress.Reporter
}

// setRootMode gives the root of an archive Mode if the archive has no entry for it.
func (o *Options) setRootMode(root *archive.Entry) {
	if root.Implicit() {
		root.Mode = unix.S_IFDIR | uint32(o.Mode)&0o7777
	}
}

// Sync makes the directory dest equal to what Extract would create from the
// archive, as rsync -a --delete does after that, except that it compares the
// contents of files instead of their sizes and times. It creates dest if only
// the last element of the path is missing. If dest is a symbolic link to a
// directory, that directory is synced.
//
// Names that the options exclude are neither created nor deleted. Sync removes
// them from the archive's tree, so Extract would not create them afterwards.
//
// When Sync returns nil, all that it changed is on disk. If it fails before it
// commits, dest is as it was. If ctx ends before that, the error is its cause; a
// commit is not interrupted.
func Sync(ctx context.Context, a *archive.Archive, dest string, o Options) error {
	attrs, err := newAttributes(ctx, a.Tree)
	if err != nil {
		return err
	}
	o.setRootMode(a.Tree.Root)
	return syncTree(ctx, a.Tree, archiveContents{a.Data()}, attrs, dest, o)
}

// SyncDir makes the directory dest equal to the directory from, as Sync does
// with an archive. Modes are copied as they are, without regard to the umask.
func SyncDir(ctx context.Context, from, dest string, o Options) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := readTree(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	attrs, err := newAttributes(ctx, tree)
	if err != nil {
		return err
	}
	attrs.exact = true
	return syncTree(ctx, tree, dirContents{root}, attrs, unixfs.CleanPath(dest), o)
}

func syncTree(ctx context.Context, tree *archive.Tree, from contents, attrs *attributes, dest string, o Options) error {
	rules, err := excludeRules(tree, from, o)
	if err != nil {
		return err
	}
	prune(tree.Root, rules)
	destFD, created, err := openDest(dest)
	if err != nil {
		return err
	}
	defer unix.Close(destFD)
	s := &staging{attrs: attrs, report: o.report}
	defer s.close()
	compared := &comparison{rules: rules, attrs: attrs, contents: from, staging: s}
	p, err := compared.compare(ctx, tree.Root, destFD)
	if err == nil {
		err = s.flush(ctx)
	}
	if err != nil {
		s.undo()
		err = explain(err, p, destFD, dest)
		if created {
			unixfs.Warn("remove dest, which was not there before", os.Remove(dest))
		}
		return err
	}
	// From here on nothing may stop half-way, not even at the end of ctx.
	c := &committer{plan: p, attrs: attrs, staging: s}
	took, err := c.run(destFD)
	if err != nil {
		if created {
			_ = os.Remove(dest) // fails if something was put there
		}
		return fmt.Errorf("sync to %s: %w", dest, err)
	}
	report(p, dest, created, took, o)
	if err := c.flush(ctx, created); err != nil {
		return fmt.Errorf("sync to %s: the new files are in place, but a power failure may undo that: %w", dest, err)
	}
	return nil
}

// CheckExcludes reports what keeps Sync from reading the rules of the options: an
// ExcludeFrom that is not a file in the archive, for example.
func CheckExcludes(a *archive.Archive, o Options) error {
	_, err := excludeRules(a.Tree, archiveContents{a.Data()}, o)
	return err
}

// excludeRules returns the rules of ExcludeFrom, followed by those of Excludes.
func excludeRules(tree *archive.Tree, from contents, o Options) (*rsyncfilter.List, error) {
	rules := &rsyncfilter.List{}
	if o.ExcludeFrom != "" {
		if err := addRulesFrom(rules, tree, from, o.ExcludeFrom); err != nil {
			return nil, fmt.Errorf("exclude_from %s: %w", o.ExcludeFrom, err)
		}
	}
	for _, pattern := range o.Excludes {
		if err := rules.Add(pattern); err != nil {
			return nil, fmt.Errorf("excludes: %w", err)
		}
	}
	return rules, nil
}

func addRulesFrom(rules *rsyncfilter.List, tree *archive.Tree, from contents, name string) error {
	// As for rsync(1), ".." removes the name before it, whatever that is.
	e, err := tree.LookUp(path.Clean(strings.TrimLeft(name, "/")))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("not in the archive: %w", fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	if !e.IsRegular() {
		return errors.New("not a regular file")
	}
	r, err := newReader(from, e)
	if err != nil {
		return err
	}
	defer r.Close()
	return rules.AddFrom(r)
}

// prune removes from the tree what is not to be synced: what the rules exclude,
// and names in its root that the next sweep would take for staging directories.
func prune(root *archive.Entry, rules *rsyncfilter.List) {
	root.Prune("", rules.Excluded)
	root.Filter(func(e *archive.Entry) bool {
		if !e.IsDir() || !unixfs.IsTempName(e.Name) {
			return true
		}
		log.Printf("[WARN] %s is not synced: such names are for temporary directories", e.Name)
		return false
	})
}

// openDest opens the directory dest, and creates it if only the last element of
// the path is missing.
func openDest(dest string) (fd int, created bool, err error) {
	err = unix.Mkdir(dest, 0o700)
	created = err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		// For an existing directory mkdir may also fail with EROFS, for example.
		if _, statErr := os.Stat(dest); statErr != nil {
			return -1, false, destError(dest, err)
		}
	}
	// Without O_NOFOLLOW: dest itself may be a symbolic link.
	fd, err = unixfs.Openat(unix.AT_FDCWD, dest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, false, destError(dest, err)
	}
	return fd, created, nil
}

// destError says what is wrong with dest, which could not be used because of err.
func destError(dest string, err error) error {
	if problem := destcheck.Problem(dest); problem != nil {
		return problem
	}
	return fmt.Errorf("dest %s: %w", dest, err)
}

// errNotWritable reports that this user may not create or delete files in dest.
var errNotWritable = errors.New("is not writable")

// explain makes an error of the comparison one of the sync to dest, which is as
// it was again.
func explain(err error, p *plan, destFD int, dest string) error {
	if errors.Is(err, errNotWritable) {
		return destError(dest, unix.EACCES)
	}
	if unixfs.IsFull(err) {
		err = explainSpace(err, p.bytes.Load(), p.created.Load()+p.changed.Load(), freeAt(destFD), "; dest is unchanged")
	}
	return fmt.Errorf("sync to %s: %w", dest, err)
}

// report lists and logs what was done; took is how long the commit took.
func report(p *plan, dest string, created bool, took time.Duration, o Options) {
	logger := cmp.Or(o.log, log.Default())
	if o.List != nil {
		if created {
			logger.Printf("created directory %s", dest)
		}
		lines := listing{bufio.NewWriterSize(o.List, 32<<10)}
		lines.deleted(p.root)
		lines.placed(p.root)
		unixfs.Warn("list what was synced", lines.w.Flush())
	}
	logger.Printf("Synced to %s: %d created, %d changed, %d deleted, %d unchanged, %s written, put in place within %s",
		dest, p.created.Load(), p.changed.Load(), p.deleted.Load(), p.unchanged.Load(), humanize.IBytes(uint64(p.bytes.Load())), took.Round(10*time.Microsecond))
}
