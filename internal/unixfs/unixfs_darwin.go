package unixfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// TempFile creates a file without a name in the directory for temporary files. The
// kernel frees it with its last descriptor, however the process ends; a process that
// is killed before the name is removed leaves an empty file.
func TempFile() (*os.File, error) { return removedFile() }

// RenameNew renames from to to. It fails with unix.EEXIST where to exists
// (renamex_np(2), RENAME_EXCL). After an error, from is where it was.
func RenameNew(from, to string) error {
	err := unix.RenamexNp(from, to, unix.RENAME_EXCL)
	if !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	// The file system does not know RENAME_EXCL.
	if _, err = os.Lstat(to); err == nil {
		return unix.EEXIST
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}

// threadUmask returns the umask. Threads have none of their own here, so that of the
// process is stricter for an instant, but never more permissive.
func threadUmask() uint32 {
	old := unix.Umask(0o077)
	unix.Umask(old)
	return uint32(old)
}

// fragmentSize returns the unit in which statfs(2) counts blocks.
func fragmentSize(st *unix.Statfs_t) int64 { return int64(st.Bsize) }
