package destcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Problem returns why a deployment to dest would fail as things are now: dest is
// a file or cannot be written to, or its parent is missing, is a file or cannot
// be written to. It is nil where nothing is wrong. The error is one line that
// begins with "dest".
//
// A command can mend all of this before dest is needed, so before pre has run
// the error is only a warning.
func Problem(dest string) error {
	path := unixfs.CleanPath(dest)
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("dest %s is a file, expected a directory or nothing", show(dest))
	case err == nil:
		if err := writable(path); err != nil {
			return fmt.Errorf("dest %s %w", show(dest), err)
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return cannotLook(dest, path, err)
	}
	if target, err := os.Readlink(path); err == nil {
		return fmt.Errorf("dest %s is a symbolic link to %s, which does not exist", show(dest), show(target))
	}
	parent := filepath.Dir(path)
	switch _, err := os.Stat(parent); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("dest %s: its parent directory %s does not exist: create it, by a pre command for instance", show(dest), show(parent))
	case err != nil:
		return cannotLook(dest, parent, err)
	}
	if err := writable(parent); err != nil {
		return fmt.Errorf("dest %s does not exist, and its parent directory %s %w", show(dest), show(parent), err)
	}
	return nil
}

// DirectoryProblem is Problem for a deployment that makes dest, or changes the directory
// that is there, and whether it will certainly fail because of it.
func DirectoryProblem(dest string) (certain bool, err error) {
	err = Problem(dest)
	info, statErr := os.Stat(dest)
	if err == nil || statErr != nil || !info.IsDir() {
		return err != nil, err
	}
	// Its owner can make a directory writable, and where only files below others
	// change, it need not be writable.
	if unixfs.OwnerOf(info) == os.Geteuid() && !errors.Is(unix.Access(dest, unix.W_OK), unix.EROFS) {
		return false, nil
	}
	return false, err
}

// LinkProblem returns why dest, if it is a symbolic link, could not be replaced by
// another one as things are now: its parent directory cannot be written to. The error
// is one line that begins with "dest".
func LinkProblem(dest string) error {
	parent := filepath.Dir(unixfs.CleanPath(dest))
	if err := writable(parent); err != nil {
		return fmt.Errorf("dest %s cannot be made a link to another release: its parent directory %s %w", show(dest), show(parent), err)
	}
	return nil
}

// cannotLook explains why stat(2) of path failed: an ancestor may be a file, or
// may be closed to this user.
func cannotLook(dest, path string, err error) error {
	if errors.Is(err, unix.ENOTDIR) {
		for parent := filepath.Dir(path); parent != "/"; parent = filepath.Dir(parent) {
			if info, err := os.Stat(parent); err == nil && !info.IsDir() {
				return fmt.Errorf("dest %s: %s is a file, expected a directory", show(dest), show(parent))
			}
		}
	}
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("dest %s cannot be reached by %s: %w", show(dest), whoAmI(), err)
	}
	return fmt.Errorf("dest %s: %w", show(dest), err)
}

// writable returns why this process cannot create and remove files in dir.
func writable(dir string) error {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	switch {
	case errors.Is(err, unix.EROFS):
		return errors.New("is on a read-only file system")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("is not writable by " + whoAmI())
	case err != nil:
		return fmt.Errorf("cannot be written to: %w", err)
	}
	return nil
}

// whoAmI names the user that this process runs as.
func whoAmI() string {
	id := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("user %s (uid %s)", u.Username, id)
	}
	return "uid " + id
}
