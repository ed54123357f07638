package treesync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// staging is all that a sync changes in dest before it commits.
type staging struct {
	attrs *attributes

	mu     sync.Mutex // guards the following, and stagedIn of dirPlans
	dirs   []*stagingDir
	opened []openedDir
}

// stagingDir is the staging directory of one mount in dest: rename(2) does not
// work from one mount to another, so each needs its own. It is in the mount's
// top directory, and is created when something is staged.
type stagingDir struct {
	top       *dirPlan      // of the top directory
	topFD     int           // the open top directory
	topMtime  unix.Timespec // of the top directory as it was
	topOpened bool          // the top directory got another mode, see open
	parent    string        // a path of the top directory
	temp      *unixfs.TempDir
	names     int // how many names nextName has returned
}

// openedDir is a directory whose mode openDir changed.
type openedDir struct {
	fd   int
	mode uint32 // as it was
}

// addDir adds the staging directory of a mount whose top directory is open as
// fd.
func (s *staging) addDir(fd int, mtime unix.Timespec, p *dirPlan) (*stagingDir, error) {
	topFD, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Not by its path in dest: whoever may write there could have made it lead
	// elsewhere by now.
	d := &stagingDir{top: p, topFD: topFD, topMtime: mtime, parent: unixfs.DescriptorPath(topFD)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, d)
	return d, nil
}

// openDir opens a directory of dest. If an ordinary user has no right to read
// his own directory, it changes the mode, which undo restores.
func (s *staging) openDir(parent int, name string) (int, error) {
	fd, err := unixfs.OpenDir(parent, name)
	if err != unix.EACCES {
		return fd, err
	}
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || unixfs.Chmod(parent, name, unix.S_IFDIR, st.Mode&0o7777|unix.S_IRWXU) != nil {
		return fd, err
	}
	if fd, err = unixfs.OpenDir(parent, name); err != nil {
		return fd, err
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = append(s.opened, openedDir{kept, st.Mode})
	return fd, nil
}

// openFor opens the subdirectory of the staging directory that holds what is
// staged for a directory of dest, and creates both if need be.
func (s *staging) openFor(p *dirPlan) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, err := p.staging.open()
	if err != nil {
		return -1, err
	}
	if p.stagedIn == "" {
		name := p.staging.nextName()
		if err := unix.Mkdirat(fd, name, 0o700); err != nil {
			return -1, err
		}
		p.stagedIn = name
	}
	return unixfs.OpenDir(fd, p.stagedIn)
}

// nextName returns the staging directory of a directory of dest, which must not
// be closed, and a name that is free there.
func (s *staging) nextName(p *dirPlan) (fd int, name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, err = p.staging.open()
	return fd, p.staging.nextName(), err
}

// open returns the descriptor of the staging directory, which remove closes. It
// creates the directory if need be.
func (d *stagingDir) open() (int, error) {
	if d.temp != nil {
		return d.temp.Fd(), nil
	}
	temp, err := unixfs.NewTempDir(d.parent, unixfs.TempPrefix)
	if errors.Is(err, fs.ErrPermission) && unix.Fchmod(d.topFD, d.top.mode&0o7777|unix.S_IRWXU) == nil {
		d.topOpened = true // it was a read-only directory of this user's own
		temp, err = unixfs.NewTempDir(d.parent, unixfs.TempPrefix)
	}
	if err != nil {
		return -1, err
	}
	d.temp = temp
	// In a directory with setgid, all that is staged would get its group.
	if err := errors.Join(unix.Fchown(temp.Fd(), -1, os.Getegid()), unix.Fchmod(temp.Fd(), 0o700)); err != nil {
		return -1, fmt.Errorf("prepare the staging directory: %w", err)
	}
	return temp.Fd(), nil
}

func (d *stagingDir) nextName() string {
	d.names++
	return strconv.Itoa(d.names)
}

// undo leaves no trace of the staging in dest.
func (s *staging) undo() {
	unixfs.Warn("clean up", s.remove())
	for _, d := range s.dirs {
		if d.temp != nil {
			unixfs.Warn("set back the time of dest", unixfs.SetModTime(d.topFD, ".", d.topMtime))
		}
		if d.topOpened {
			unixfs.Warn("set back the mode of dest", unix.Fchmod(d.topFD, d.top.mode&0o7777))
		}
	}
	for _, d := range s.opened {
		unixfs.Warn("set back the mode of a directory", unix.Fchmod(d.fd, d.mode&0o7777))
	}
}

// remove deletes the staging directories with all that is in them.
func (s *staging) remove() error {
	w := newWorkers(context.Background())
	for _, d := range s.dirs {
		if d.temp != nil {
			w.stopOn(removeAll(w, s.attrs.root, d.topFD, filepath.Base(d.temp.Path)))
		}
	}
	w.end() // whatever is left, TempDir.Remove tries again
	var errs []error
	for _, d := range s.dirs {
		if err := d.temp.Remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove the staging directory: %w", err))
		}
	}
	return errors.Join(errs...)
}

// close closes the directories that the staging kept open.
func (s *staging) close() {
	for _, d := range s.dirs {
		unix.Close(d.topFD)
	}
	for _, d := range s.opened {
		unix.Close(d.fd)
	}
}

// removeAll deletes name in the directory dir, with all that is in it, by
// several workers. asRoot is whether the process runs as root, who needs no
// right to a directory to empty it.
func removeAll(w *workers, asRoot bool, dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM { // POSIX has EPERM for a directory
		return err
	}
	fd, err := unixfs.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !asRoot {
		// If this fails where it is needed, so does what follows.
		unix.Fchmod(fd, 0o700)
	}
	list, err := unixfs.ReadDir(fd)
	if err != nil {
		return err
	}
	work := w.newGroup()
	const batch = 64
	for chunk := range slices.Chunk(list, batch) {
		work.do(func() error {
			for _, child := range chunk {
				if err := removeAll(w, asRoot, fd, child.Name); err != nil {
					return fmt.Errorf("%s: %w", child.Name, err)
				}
			}
			return nil
		})
	}
	work.wait()
	if w.stopped() {
		return nil // the workers have the error
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}
