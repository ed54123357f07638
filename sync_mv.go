package stretcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// MvSyncStrategy syncs by renaming a directory to one that must not exist yet.
type MvSyncStrategy struct {
}

var errDestExists = errors.New("dest exists already, and the strategy mv does not replace it")

func (s *MvSyncStrategy) prepare(string) error { return nil }

func (s *MvSyncStrategy) problem(dest string) (certain bool, err error) {
	if _, err = os.Lstat(dest); err == nil {
		err = fmt.Errorf("mv to %s: %w", dest, errDestExists)
	} else {
		err = destcheck.Problem(dest)
	}
	return err != nil, err
}

func (s *MvSyncStrategy) fillsHoles() bool { return false }

// deploy extracts the archive beside dest and renames it to dest.
func (s *MvSyncStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	dest := d.manifest.Dest
	if _, err := s.problem(dest); err != nil {
		return err // before the archive is extracted
	}
	parent, prefix := besideDest(dest)
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
	dir, err := os.Open(filepath.Dir(from)) // on the same file system as to
	if err != nil {
		return err
	}
	defer dir.Close()
	defer progress.Reporter{}.Start("Flushing to disk", nil).End()
	if err := unixfs.Syncfs(ctx, int(dir.Fd())); err != nil {
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	if err := s.Sync(from, to); err != nil {
		return err
	}
	if err := unixfs.Syncfs(ctx, int(dir.Fd())); err != nil {
		unixfs.Warn("undo mv to "+to, unixfs.RenameNew(to, from))
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	return nil
}

// besideDest returns where mv makes its staging directory, and the prefix of
// its name: beside dest, because a directory can only be renamed within its
// file system. Of a long name of dest it has the first bytes only, so that the
// number at the end is within the limit of the file system, which is 255 bytes on
// most and 143 on eCryptfs. If two long names share one prefix, that does no harm,
// since a staging directory in use is locked.
func besideDest(dest string) (parent, prefix string) {
	const limit = 100
	name := filepath.Base(dest)
	if len(name) > limit {
		name = strings.ToValidUTF8(name[:limit], "") // some file systems take nothing else
	}
	return filepath.Dir(dest), "." + name + unixfs.TempPrefix
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
