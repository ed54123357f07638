//go:build linux

package stretcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// MvSyncStrategy syncs by renaming a directory to one that must not exist yet.
type MvSyncStrategy struct{}

var errDestExists = errors.New("dest exists already, and the strategy mv does not replace it")

func (s *MvSyncStrategy) name() string { return "mv" }

func (s *MvSyncStrategy) prepare(string) error { return nil }

func (s *MvSyncStrategy) problem(dest string) (certain bool, err error) {
	if _, err = os.Lstat(dest); err == nil {
		err = fmt.Errorf("mv to %s: %w", dest, errDestExists)
	} else {
		err = destcheck.Problem(dest)
	}
	return err != nil, err
}

func (s *MvSyncStrategy) checkArchive(*archive.Archive) error { return nil }

func (s *MvSyncStrategy) fillsHoles() bool { return false }

// deploy extracts the archive beside dest and renames it to dest.
func (s *MvSyncStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	dest := d.manifest.Dest
	if _, err := s.problem(dest); err != nil {
		return err // before the archive is extracted
	}
	parent, prefix := unixfs.TempBeside(dest)
	return d.extractTo(ctx, parent, prefix, src, func(from string) error {
		return s.syncFlushed(ctx, from, dest)
	})
}

func (s *MvSyncStrategy) preview(ctx context.Context, d *deployment, src *archive.Archive) (iter.Seq[preview.Item], error) {
	tree, err := treesync.FreshArchive(ctx, src, treesync.Options{Mode: d.manifest.destMode()})
	if err != nil {
		return nil, err
	}
	return tree.Preview(ctx, "")
}

// syncFlushed is Sync with all files on disk before the rename, so that none can
// be incomplete after a power cut, and with the rename on disk at the end. If that
// fails, to does not exist, so that the next deployment can succeed.
func (s *MvSyncStrategy) syncFlushed(ctx context.Context, from, to string) error {
	dir := filepath.Dir(from) // on the same file system as to
	if err := progress.Flush(ctx, dir); err != nil {
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	if err := s.Sync(from, to); err != nil {
		return err
	}
	if err := progress.Flush(ctx, dir); err != nil {
		unixfs.Warn("undo mv to "+to, unixfs.RenameNew(to, from))
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	return nil
}

// Sync renames from to to. It fails where to exists, even as an empty
// directory, or is on another file system.
func (s *MvSyncStrategy) Sync(from, to string) error {
	to = unixfs.CleanPath(to)
	err := unixfs.RenameNew(from, to)
	if errors.Is(err, unix.EEXIST) {
		err = errDestExists
	}
	if err != nil {
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	return nil
}
