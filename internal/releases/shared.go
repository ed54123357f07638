package releases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// sharedPath is a path that a tree has a link for.
type sharedPath struct {
	path  string
	entry *archive.Entry // what the archive had there, nil if nothing
}

// linkShared replaces shared paths in the tree by links to the shared directory.
func (s *Store) linkShared(tree *treesync.Fresh, paths []string) ([]sharedPath, error) {
	if err := cmp.Or(destcheck.CheckSharedPaths(paths)...); err != nil {
		return nil, fmt.Errorf("shared: %w", err)
	}
	var list []sharedPath
	for _, p := range paths {
		p = path.Clean(p)
		// Up to the release, out of it, and out of the directory of the releases.
		up := strings.Repeat("../", strings.Count(p, "/")+2)
		old, err := tree.ReplaceByLink(p, up+s.name+sharedSuffix+"/"+p)
		if err != nil {
			return nil, fmt.Errorf("shared path %s: %w", p, err)
		}
		list = append(list, sharedPath{p, old})
	}
	return list, nil
}

// makeShared creates the shared paths that do not exist: as the archive has them,
// or as directories. They stay whatever becomes of the release, since a running
// program may have written to them.
func (s *Store) makeShared(ctx context.Context, tree *treesync.Fresh, paths []sharedPath) error {
	if len(paths) == 0 {
		return nil
	}
	top, err := makeDir(s.parent, s.name+sharedSuffix)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	made := false
	for _, p := range paths {
		created, err := s.makeOne(ctx, tree, top, p)
		if err != nil {
			return fmt.Errorf("create the shared path %s in %s%s: %w", p.path, s.dest, sharedSuffix, err)
		}
		made = made || created
	}
	if !made || sameFilesystem(top, s.dir) { // make flushes that of s.dir
		return nil
	}
	return progress.Reporter{}.Flush(ctx, top)
}

// makeOne creates a shared path, with the directories above it, unless it exists.
func (s *Store) makeOne(ctx context.Context, tree *treesync.Fresh, top int, p sharedPath) (created bool, err error) {
	dir, err := unixfs.OpenDir(top, ".")
	if err != nil {
		return false, err
	}
	names := strings.Split(p.path, "/")
	for _, name := range names[:len(names)-1] {
		next, err := makeDir(dir, name)
		unix.Close(dir)
		if err != nil {
			return false, err
		}
		dir = next
	}
	defer unix.Close(dir)
	name := names[len(names)-1]
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		return false, err
	}
	if p.entry == nil {
		made, err := makeDir(dir, name)
		if err != nil {
			return false, err
		}
		return true, unix.Close(made)
	}
	// The name appears when all of it is there. A killed run leaves a temporary
	// directory, which Clean removes.
	temp, err := unixfs.NewTempDir(unixfs.DescriptorPath(top), unixfs.TempPrefix)
	if err != nil {
		return false, err
	}
	defer func() { s.warn("remove a temporary directory", temp.Remove()) }()
	if err := tree.CreateEntry(ctx, p.entry, temp.Fd(), name); err != nil {
		return false, err
	}
	err = unixfs.RenameNew(path.Join(temp.Path, name), path.Join(unixfs.DescriptorPath(dir), name))
	if errors.Is(err, unix.EEXIST) {
		return false, nil // a program has created it meanwhile
	}
	return err == nil, err
}

// sameFilesystem reports whether two open files are known to be on one file system.
func sameFilesystem(a, b int) bool {
	var sa, sb unix.Stat_t
	return unix.Fstat(a, &sa) == nil && unix.Fstat(b, &sb) == nil && sa.Dev == sb.Dev
}
