package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
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

// deploy extracts the archive beside dest and renames it to dest.
func (s *MvSyncStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	dest := d.manifest.Dest
	if _, err := s.problem(dest); err != nil {
		return err // before the archive is extracted
	}
	parent, prefix := besideDest(dest)
	return d.extractTo(ctx, parent, prefix, src, func(from string) error {
		return s.Sync(from, dest)
	})
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
	if err := s.rename(from, to); err != nil {
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	return nil
}

func (s *MvSyncStrategy) rename(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	mode := st.Mode & 0o7777
	// An ordinary user cannot rename a directory without write permission for
	// it, since its entry ".." is changed.
	readOnly := st.Mode&unix.S_IFMT == unix.S_IFDIR && mode&unix.S_IWUSR == 0 && int(st.Uid) == os.Geteuid()
	if readOnly {
		if err := unixfs.Chmod(unix.AT_FDCWD, from, unix.S_IFDIR, mode|unix.S_IWUSR); err != nil {
			return err
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system does not know RENAME_NOREPLACE, and without it
		// rename(2) would replace an empty directory.
		if _, err = os.Lstat(to); err == nil {
			err = unix.EEXIST
		} else if errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(from, to)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return errDestExists
	}
	if err == nil && readOnly {
		err = unixfs.Chmod(unix.AT_FDCWD, to, unix.S_IFDIR, mode)
	}
	return err
}
