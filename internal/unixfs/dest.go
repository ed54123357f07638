package unixfs

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// DestError says why the directory dest of a deployment cannot be created,
// opened or written to, which failed with err, and what to do about it. The
// result wraps err only where it has nothing to add.
func DestError(dest string, err error) error {
	parent := filepath.Dir(dest)
	var st, parentSt unix.Stat_t
	statErr := unix.Stat(dest, &st)
	switch {
	case statErr == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("dest %s is a file, expected a directory or nothing", dest)
	case statErr == nil && errors.Is(err, unix.EACCES):
		return fmt.Errorf("dest %s is not writable by %s", dest, currentUser())
	case statErr == nil:
		return fmt.Errorf("dest %s: %w", dest, err)
	}
	if target, linkErr := os.Readlink(dest); linkErr == nil {
		return fmt.Errorf("dest %s is a symbolic link to %s: %w", dest, target, statErr)
	}
	switch parentErr := unix.Stat(parent, &parentSt); {
	case parentErr == unix.ENOENT:
		return missingParent{fmt.Sprintf("dest %s: its parent directory %s does not exist: create it, by a pre command for instance", dest, parent)}
	case parentErr == unix.ENOTDIR, parentErr == nil && parentSt.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("dest %s: its parent %s is not a directory", dest, parent)
	case parentErr == nil && errors.Is(err, unix.EACCES):
		return fmt.Errorf("dest %s cannot be created: its parent directory %s is not writable by %s", dest, parent, currentUser())
	}
	return fmt.Errorf("dest %s: %w", dest, err)
}

// missingParent is fs.ErrNotExist with another text.
type missingParent struct{ text string }

func (e missingParent) Error() string { return e.text }
func (e missingParent) Unwrap() error { return unix.ENOENT }

// currentUser names the user of this process in an error.
func currentUser() string {
	uid := os.Geteuid()
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("user %s (uid %d)", u.Username, uid)
	}
	return fmt.Sprintf("the user with uid %d", uid)
}
