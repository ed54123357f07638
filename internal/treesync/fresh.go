package treesync

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Fresh is a tree without what the excludes match, to be created where nothing
// exists yet.
type Fresh struct {
	tree     *archive.Tree
	contents contents
	attrs    *attributes
	cloner   cloner
	from     *os.Root // the directory that is copied, nil for an archive
}

// FreshArchive returns the tree that Extract would create from the archive. The
// excludes are removed from the archive's own tree. Of the options, Mode, Excludes
// and ExcludeFrom count, as for Sync.
func FreshArchive(ctx context.Context, a *archive.Archive, o Options) (*Fresh, error) {
	f := &Fresh{tree: a.Tree, contents: archiveContents{a.Data()}}
	o.setRootMode(a.Tree.Root)
	return f, f.prepare(ctx, o)
}

// FreshDir returns the tree of the directory from, which is copied with its modes
// as they are. Of the options, Excludes and ExcludeFrom count, as for SyncDir.
func FreshDir(ctx context.Context, from string, o Options) (*Fresh, error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return nil, err
	}
	f := &Fresh{from: root, contents: dirContents{root}}
	if f.tree, err = readTree(from); err == nil {
		err = f.prepare(ctx, o)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	f.attrs.exact = true
	return f, nil
}

func (f *Fresh) prepare(ctx context.Context, o Options) (err error) {
	if f.attrs, err = newAttributes(ctx, f.tree); err != nil {
		return err
	}
	rules, err := excludeRules(f.tree, f.contents, o)
	if err != nil {
		return err
	}
	f.tree.Root.Prune("", rules.Excluded)
	return nil
}

// Close closes the directory that is copied. It does not close the archive.
func (f *Fresh) Close() error {
	if f.from == nil {
		return nil
	}
	return f.from.Close()
}

// Size returns how many bytes the files of the tree have.
func (f *Fresh) Size() int64 { return f.tree.Root.StoredSize() }

// Cloned returns how many bytes Create did not have to write, since the new files
// share them with those of base.
func (f *Fresh) Cloned() int64 { return f.cloner.bytes.Load() }

// Explain adds to an error of Create, after which what it created has been removed
// again, how much space that needs on the file system of the open directory dir. Of
// an error that is not about space, it returns err.
func (f *Fresh) Explain(err error, dir int) error {
	if !unixfs.IsFull(err) {
		return err
	}
	return explainSpace(err, f.Size()-f.Cloned(), f.tree.Root.Count(), freeAt(dir), "; dest is unchanged")
}

// ReplaceByLink puts a symbolic link to target at a clean, relative path of the
// tree, and returns what the tree had there, nil if nothing. Missing directories
// above it are added; one that is not a directory is an error.
func (f *Fresh) ReplaceByLink(path, target string) (*archive.Entry, error) {
	now := unix.NsecToTimespec(time.Now().UnixNano())
	return f.tree.ReplaceBySymlink(path, target, now)
}

// Create creates the tree in an empty directory, which is open as dir and gets the
// owner, mode and time of the tree's root. What the directory base has of the
// contents is not written again if the file system can share it; base may be -1.
//
// On an error, some of the files may exist. If ctx ends before all of them do, the
// error is its cause.
func (f *Fresh) Create(ctx context.Context, dir, base int) error {
	x, err := f.extractor(ctx, dir)
	if err != nil {
		return err
	}
	if err := x.tree(ctx, dir, base, f.tree.Root, progress.Reporter{}); err != nil {
		return err
	}
	if !f.tree.Root.Implicit() {
		return nil
	}
	return unix.Fchmod(dir, f.attrs.permissions(f.tree.Root))
}

// CreateEntry creates an entry that ReplaceByLink returned, with all that is below
// it, as name in the open directory dir.
func (f *Fresh) CreateEntry(ctx context.Context, e *archive.Entry, dir int, name string) error {
	x, err := f.extractor(ctx, dir)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		x.workers.stopOn(x.file(dir, -1, name, name, e))
		return x.workers.end()
	}
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	fd, err := unixfs.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := x.tree(ctx, fd, -1, e, progress.Reporter{}); err != nil {
		return err
	}
	return unix.Fchmod(fd, f.attrs.permissions(e)) // tree leaves it to the caller where the archive has no entry for it
}

func (f *Fresh) extractor(ctx context.Context, dir int) (*extractor, error) {
	x, err := newExtractor(ctx, f.tree, f.contents, f.attrs, dir)
	if err != nil {
		return nil, err
	}
	x.cloner = &f.cloner
	return x, nil
}

// Remove deletes name in the open directory dir, with all that is in it, by several
// workers. It is not an error if there is nothing.
func Remove(dir int, name string) error {
	return removeNow(os.Geteuid() == 0, dir, name, name)
}
