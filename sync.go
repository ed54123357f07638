package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// RsyncDefaultOpts are the first arguments of rsync(1).
	RsyncDefaultOpts = []string{"-a", "--delete"}
	// RsyncVerboseOpt is the next one, unless it is "". See SetRsyncVerboseOpt.
	RsyncVerboseOpt = "-v"
)

// SetRsyncVerboseOpt sets RsyncVerboseOpt: "", -v, -vv or -vvv.
func SetRsyncVerboseOpt(opt string) error {
	switch opt {
	case "", "-v", "-vv", "-vvv":
		RsyncVerboseOpt = opt
		return nil
	}
	return fmt.Errorf("invalid rsync verbose option %q: expected -v, -vv, -vvv or nothing", opt)
}

// SyncStrategy makes the directory to equal to the directory from.
type SyncStrategy interface {
	Sync(from, to string) error
}

// NewSyncStrategy returns the strategy that the manifest names. Where it names
// none and rsync is not installed, that is builtin.
func NewSyncStrategy(m *Manifest) (SyncStrategy, error) {
	switch m.SyncStrategy {
	case "", "rsync":
		if _, err := exec.LookPath("rsync"); err == nil {
			return &RsyncStrategy{m}, nil
		}
		if m.SyncStrategy == "rsync" {
			return nil, errors.New("sync_strategy is rsync, but no rsync is in PATH: install it, or write sync_strategy: builtin")
		}
		log.Println("[WARN] no rsync in PATH: using sync_strategy builtin")
		return &builtinStrategy{m}, nil
	case "mv":
		return &MvSyncStrategy{}, nil
	case "builtin":
		return &builtinStrategy{m}, nil
	}
	return nil, invalidStrategy(m.SyncStrategy)
}

func invalidStrategy(name string) error {
	return fmt.Errorf("invalid strategy %q: expected rsync, mv or builtin", name)
}

// RsyncStrategy syncs by rsync(1), with the excludes of the manifest.
type RsyncStrategy struct {
	*Manifest
}

// Sync runs rsync -a --delete from/ to/. It fails where rsync does, or where
// exclude_from is no file inside of from.
func (s *RsyncStrategy) Sync(from, to string) error {
	return s.sync(context.Background(), &runner{}, from, to)
}

func (s *RsyncStrategy) sync(ctx context.Context, r *runner, from, to string) error {
	args := slices.Clone(RsyncDefaultOpts)
	if RsyncVerboseOpt != "" {
		args = append(args, RsyncVerboseOpt)
	}
	if s.ExcludeFrom != "" {
		file, err := excludeFile(from, s.ExcludeFrom)
		if err != nil {
			return err
		}
		args = append(args, "--exclude-from="+file)
	}
	for _, pattern := range s.Excludes {
		args = append(args, "--exclude="+pattern)
	}
	args = append(args, plainPath(from)+"/", plainPath(to)+"/")
	name := "rsync " + strings.Join(args, " ")
	log.Println("invoking command:", name)
	return r.log(ctx, name, exec.Command("rsync", args...))
}

// excludeFile returns the path of the file that exclude_from names in the
// extracted archive, after making sure that it is one and does not lead out of
// there.
func excludeFile(dir, name string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	relative := filepath.Clean(strings.TrimLeft(name, "/"))
	info, err := root.Stat(relative)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return "", fmt.Errorf("exclude_from %s: %w", name, err)
	}
	return filepath.Join(dir, relative), nil
}

// MvSyncStrategy syncs by renaming.
type MvSyncStrategy struct {
}

// Sync renames from to to. It fails where to exists, even as an empty
// directory, or is on another filesystem.
func (s *MvSyncStrategy) Sync(from, to string) error {
	to = plainPath(to)
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("mv to %s: %w", to, &fs.PathError{Op: "lstat", Path: from, Err: err})
	}
	mode := st.Mode & 0o7777
	// An ordinary user cannot move a directory that he may not write to.
	readOnly := st.Mode&unix.S_IFMT == unix.S_IFDIR && mode&unix.S_IWUSR == 0 && int(st.Uid) == os.Geteuid()
	if readOnly {
		if err := chmodOther(unix.AT_FDCWD, from, unix.S_IFDIR, mode|unix.S_IWUSR); err != nil {
			return fmt.Errorf("mv to %s: %w", to, err)
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The filesystem cannot tell; rename(2) would replace an empty directory.
		if _, err = os.Lstat(to); err == nil {
			err = unix.EEXIST
		} else if errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(from, to)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("mv to %s: dest exists already, and the strategy mv does not replace it", to)
	}
	if err == nil && readOnly {
		err = chmodOther(unix.AT_FDCWD, to, unix.S_IFDIR, mode)
	}
	if err != nil {
		return fmt.Errorf("mv to %s: %w", to, err)
	}
	return nil
}
