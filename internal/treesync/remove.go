package treesync

import (
	"cmp"
	"context"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// removeNow is removeAll with workers of its own, and returns their error.
func removeNow(asRoot bool, dir int, name, namePath string) error {
	w := newWorkers(context.Background())
	w.stopOn(removeAll(w, asRoot, dir, name, namePath))
	return w.end()
}

// removeAll deletes name in the directory dir, with all that is in it, by
// several workers. What is mounted there is an error: its files are not those of the
// tree, but may be what a command has mounted into a release. asRoot is whether the
// process runs as root, which needs no permissions for a directory to empty it. In
// errors, the path of name is namePath.
func removeAll(w *workers, asRoot bool, dir int, name, namePath string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		w.removed.AddFiles(1)
		return nil
	}
	denied := func(err error) error { return pathError{namePath, unixfs.ExplainDenied(dir, name, err)} }
	if err != unix.EISDIR && err != unix.EPERM { // POSIX has EPERM for a directory
		return denied(err)
	}
	fd, openErr := unixfs.OpenDir(dir, name)
	switch {
	case openErr == unix.ENOTDIR || openErr == unix.ELOOP:
		return denied(err)
	case openErr != nil && unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil:
		return nil // it was closed to this user, but empty
	case openErr != nil:
		return denied(openErr)
	}
	defer unix.Close(fd)
	if same, err := onSameMount(dir, fd); err != nil || !same {
		return denied(cmp.Or(err, error(unix.EBUSY)))
	}
	if !asRoot {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IRWXU != unix.S_IRWXU {
			// If this fails where it is needed, so does what follows.
			_ = unix.Fchmod(fd, st.Mode&0o7777|unix.S_IRWXU)
		}
	}
	list, err := unixfs.ReadDir(fd, 0)
	if err != nil {
		return denied(err)
	}
	work := w.newGroup()
	const batch = 64
	for chunk := range slices.Chunk(list, batch) {
		work.do(func() error {
			for _, child := range chunk {
				if err := removeAll(w, asRoot, fd, child.Name, path.Join(namePath, child.Name)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	work.wait()
	if w.stopped() {
		return nil // the workers have the error
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return denied(err)
	}
	return nil
}

// onSameMount reports whether two open directories are on the same mount.
func onSameMount(a, b int) (bool, error) {
	ofA, err := unixfs.TraitsOf(a, "")
	if err != nil {
		return false, err
	}
	ofB, err := unixfs.TraitsOf(b, "")
	return ofA.Mount == ofB.Mount, err
}
