package unixfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RenameNew renames from to to. It fails with unix.EEXIST where to exists, even as
// an empty directory, which rename(2) would replace. After an error, from is where it
// was.
func RenameNew(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	mode := st.Mode & 0o7777
	// An ordinary user cannot rename a directory without write permission for
	// it, since its entry ".." is changed.
	readOnly := st.Mode&unix.S_IFMT == unix.S_IFDIR && mode&unix.S_IWUSR == 0 && int(st.Uid) == os.Geteuid()
	if readOnly {
		if err := Chmod(unix.AT_FDCWD, from, unix.S_IFDIR, mode|unix.S_IWUSR); err != nil {
			return err
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system does not know RENAME_NOREPLACE.
		if _, err = os.Lstat(to); err == nil {
			err = unix.EEXIST
		} else if errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(from, to)
		}
	}
	if err != nil || !readOnly {
		return err
	}
	if err = Chmod(unix.AT_FDCWD, to, unix.S_IFDIR, mode); err != nil {
		Warn("undo the renaming of "+from, os.Rename(to, from))
	}
	return err
}
