package treesync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// staging is all that a sync changes in dest before it commits.
type staging struct {
	attrs  *attributes
	report progress.Reporter

	mu     sync.Mutex // guards the following, and stagedIn of dirPlans
	dirs   []*stagingDir
	opened []openedDir
}

// stagingDir is the staging directory of one mount in dest: rename(2) does not
// work from one mount to another, so each needs its own. It is in the mount's
// top directory, and is created when something is staged.
type stagingDir struct {
	top       *dirPlan // of the top directory
	topDir    openDir  // the top directory, open as long as the staging
	topOpened bool     // the top directory got another mode, see open
	temp      *unixfs.TempDir
	changed   bool // something on the mount is to be changed, or was by sweep
	names     int  // how many names nextName has returned
}

// openedDir is a directory whose mode openDir changed.
type openedDir struct {
	fd   int
	mode uint32 // as it was
}

// addDir adds the staging directory of a mount whose top directory is dir.
func (s *staging) addDir(dir openDir, p *dirPlan) (*stagingDir, error) {
	topFD, err := unix.FcntlInt(uintptr(dir.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := &stagingDir{top: p, topDir: openDir{topFD, dir.traits}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, d)
	return d, nil
}

// parent returns a path of the top directory. It is not the path in dest:
// whoever may write there could have made that lead elsewhere by now.
func (d *stagingDir) parent() string { return unixfs.DescriptorPath(d.topDir.fd) }

// sweep removes the staging directories that killed runs left in the top
// directory. If one cannot be removed, that is an error: it may hold what was in
// dest, and dest would not be equal to the archive. asRoot is as for removeAll.
func (d *stagingDir) sweep(asRoot bool) error {
	var errs []error
	err := unixfs.RemoveAbandoned(d.parent(), unixfs.TempPrefix, func(name string) error {
		d.changed = true
		errs = append(errs, removeNow(asRoot, d.topDir.fd, name, path.Join(d.top.path, name)))
		return nil
	})
	if err := firstOf(append(errs, err)); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
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
// staged for a directory of dest, which is open as dir, and creates both if need
// be.
func (s *staging) openFor(dir int, p *dirPlan) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, err := p.staging.open()
	if err != nil {
		return -1, err
	}
	if p.stagedIn != "" {
		return unixfs.OpenDir(fd, p.stagedIn)
	}
	name := p.staging.nextName()
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return -1, p.error("", fmt.Errorf("create a directory for what is staged: %w", err))
	}
	p.stagedIn = name
	stagedIn, err := unixfs.OpenDir(fd, name)
	if err != nil {
		return -1, p.error("", err)
	}
	if err := s.attrs.copyDefaultACL(dir, stagedIn); err != nil {
		unix.Close(stagedIn)
		return -1, p.error("", err)
	}
	return stagedIn, nil
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
	if err := d.topDir.traits.Fixed("the directory"); err != nil {
		return -1, d.top.error("", err) // in an append-only one, it could not be removed again
	}
	temp, err := unixfs.NewTempDir(d.parent(), unixfs.TempPrefix)
	if errors.Is(err, fs.ErrPermission) && unix.Fchmod(d.topDir.fd, d.top.mode&0o7777|unix.S_IRWXU) == nil {
		d.topOpened = true // it was a read-only directory of this user's own
		temp, err = unixfs.NewTempDir(d.parent(), unixfs.TempPrefix)
	}
	if errors.Is(err, unix.EACCES) && d.top.path == "" {
		return -1, errNotWritable
	}
	if err != nil {
		// Without the path, which is one of /proc.
		if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return -1, d.top.error("", fmt.Errorf("create the staging directory: %w", err))
	}
	d.temp = temp
	// In a directory with setgid, all that is staged would get its group, and in
	// one with a default ACL that ACL.
	if err := cmp.Or(unix.Fchown(temp.Fd(), -1, os.Getegid()), unix.Fchmod(temp.Fd(), 0o700), dropDefaultACL(temp.Fd())); err != nil {
		return -1, fmt.Errorf("prepare the staging directory: %w", err)
	}
	return temp.Fd(), nil
}

func (d *stagingDir) nextName() string {
	d.names++
	return strconv.Itoa(d.names)
}

// flush waits until all that is staged is on disk. If it were renamed before
// that, a power cut could leave files that are empty or end early.
func (s *staging) flush(ctx context.Context) error {
	for _, d := range s.dirs {
		if d.temp == nil {
			continue
		}
		if err := s.report.Flush(ctx, d.temp.Fd()); err != nil {
			return d.top.error("", err)
		}
	}
	return nil
}

// undo leaves no trace of the staging in dest.
func (s *staging) undo() {
	unixfs.Warn("clean up", s.remove())
	for _, d := range s.dirs {
		if d.temp != nil {
			unixfs.Warn("set back the time of dest", unixfs.SetModTime(d.topDir.fd, ".", d.top.was.mtime))
		}
		if d.topOpened {
			unixfs.Warn("set back the mode of dest", unix.Fchmod(d.topDir.fd, d.top.mode&0o7777))
		}
	}
	for _, d := range s.opened {
		unixfs.Warn("set back the mode of a directory", unix.Fchmod(d.fd, d.mode&0o7777))
	}
}

// remove deletes the staging directories with all that is in them.
func (s *staging) remove() error {
	err := s.removeContents()
	var left error
	for _, d := range s.dirs {
		// This removes what the workers, which stop at an error, have not.
		if failed := d.temp.Remove(); failed != nil {
			left = cmp.Or(err, failed) // err has the better path
		}
	}
	if left != nil {
		return fmt.Errorf("remove the staging directory: %w", left)
	}
	return nil
}

// removeContents deletes the staging directories by several workers, and stops
// at the first error. It leaves them locked.
func (s *staging) removeContents() error {
	w := newWorkers(context.Background())
	w.removed = s.report.Start("Deleting", nil)
	defer w.removed.End()
	for _, d := range s.dirs {
		if d.temp != nil {
			name := filepath.Base(d.temp.Path)
			w.stopOn(removeAll(w, s.attrs.root, d.topDir.fd, name, path.Join(d.top.path, name)))
		}
	}
	return w.end()
}

// close closes the directories that the staging kept open. A staging directory that
// is still there is left to the next run.
func (s *staging) close() {
	for _, d := range s.dirs {
		d.temp.Leave()
		unix.Close(d.topDir.fd)
	}
	for _, d := range s.opened {
		unix.Close(d.fd)
	}
}
