package stretcher

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// stagingArea is where one mount of dest has what is to be renamed within it:
// a temporary directory in the mount's top one, made when it is needed.
type stagingArea struct {
	plan   *dirPlan      // of that directory
	dir    int           // the directory
	mtime  unix.Timespec // of it, before
	parent string        // a path of it
	temp   *tempDir
	names  int
	opened bool // for its owner, by another mode
}

// openedDir is another directory that had to be given a mode that lets its
// owner in.
type openedDir struct {
	fd   int
	mode uint32 // before
}

// openDir opens a directory of dest, also where its owner, an ordinary user, has
// no right to that, but may give it to himself.
func (y *syncing) openDir(parent int, name string) (int, error) {
	fd, err := openDir(parent, name)
	if err != unix.EACCES {
		return fd, err
	}
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || chmodOther(parent, name, unix.S_IFDIR, st.Mode&0o7777|unix.S_IRWXU) != nil {
		return fd, err
	}
	if fd, err = openDir(parent, name); err != nil {
		return fd, err
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.opened = append(y.opened, openedDir{kept, st.Mode})
	return fd, nil
}

func (y *syncing) newArea(fd int, mtime unix.Timespec, p *dirPlan) (*stagingArea, error) {
	dir, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// A path through what others may write to could lead elsewhere by now.
	a := &stagingArea{plan: p, dir: dir, mtime: mtime, parent: "/proc/self/fd/" + strconv.Itoa(dir)}
	if p != y.root {
		sweepTempDirs(a.parent, tempPrefix)
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.areas = append(y.areas, a)
	return a, nil
}

// open returns the descriptor of the temporary directory, which stays open.
func (a *stagingArea) open() (int, error) {
	if a.temp != nil {
		return int(a.temp.lock.Fd()), nil
	}
	temp, err := newTempDir(a.parent, tempPrefix)
	if errors.Is(err, fs.ErrPermission) && unix.Fchmod(a.dir, a.plan.mode&0o7777|unix.S_IRWXU) == nil {
		a.opened = true // it was the user's own, but read-only
		temp, err = newTempDir(a.parent, tempPrefix)
	}
	if err != nil {
		return -1, err
	}
	a.temp = temp
	fd := int(temp.lock.Fd())
	// A directory with setgid would hand its group on to all that is staged.
	if err := errors.Join(unix.Fchown(fd, -1, os.Getegid()), unix.Fchmod(fd, 0o700)); err != nil {
		return -1, fmt.Errorf("prepare the staging directory: %w", err)
	}
	return fd, nil
}

func (a *stagingArea) nextName() string {
	a.names++
	return strconv.Itoa(a.names)
}

// isTempName reports whether name is one of newTempDir's, for a dest.
func isTempName(name string) bool {
	number, ok := strings.CutPrefix(name, tempPrefix)
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// commit puts in place what is staged, then takes out what has to go, and then
// gives directories their modes and times. The crew makes it shorter.
func (y *syncing) commit(dest int) error {
	if y.counts.deleted.Load() == 0 {
		return y.inEach(dest, y.root, y.place, y.finish)
	}
	if err := y.inEach(dest, y.root, y.place, nil); err != nil {
		return err
	}
	return y.inEach(dest, y.root, y.remove, y.finish)
}

// inEach calls first in a directory before those below it, and last, unless
// it is nil, after them.
func (y *syncing) inEach(fd int, p *dirPlan, first, last func(int, *dirPlan) error) error {
	y.crew = newCrew(context.Background())
	y.crew.stopOn(y.inDir(fd, p, first, last))
	return y.crew.end()
}

func (y *syncing) inDir(fd int, p *dirPlan, first, last func(int, *dirPlan) error) error {
	if err := first(fd, p); err != nil {
		return err
	}
	var pending sync.WaitGroup
	for _, sub := range p.dirs {
		y.crew.do(&pending, func() error {
			child, err := openDir(fd, sub.name)
			if err != nil {
				return sub.error("", err)
			}
			defer unix.Close(child)
			return y.inDir(child, sub, first, last)
		})
	}
	y.crew.wait(&pending)
	if last != nil && y.crew.ctx.Err() == nil {
		return last(fd, p)
	}
	return nil
}

// place renames what is staged for a directory.
func (y *syncing) place(fd int, p *dirPlan) error {
	const needed = unix.S_IWUSR | unix.S_IXUSR
	if p.changes() && !y.attrs.root && p.mode&needed != needed {
		if err := unix.Fchmod(fd, p.mode&0o7777|needed); err != nil {
			return p.error("", err)
		}
	}
	if p.stage != "" {
		if err := y.placeStaged(fd, p); err != nil {
			return err
		}
	}
	for _, name := range p.repairs {
		if err := y.attrs.repair(fd, name, p.e.children[name]); err != nil {
			return p.error(name, err)
		}
	}
	return nil
}

func (y *syncing) placeStaged(fd int, p *dirPlan) error {
	area, err := p.area.open()
	if err != nil {
		return p.error("", err)
	}
	stage, err := openDir(area, p.stage)
	if err != nil {
		return p.error("", err)
	}
	defer unix.Close(stage)
	var pending sync.WaitGroup
	each := func(names []string, put func(name string) error) {
		const batch = 64
		for names := range slices.Chunk(names, batch) {
			y.crew.do(&pending, func() error {
				for _, name := range names {
					if err := put(name); err != nil {
						return p.error(name, err)
					}
				}
				return nil
			})
		}
	}
	each(p.staged, func(name string) error { return unix.Renameat(stage, name, fd, name) })
	each(p.swapped, func(name string) error { return y.swap(fd, stage, p, name) })
	y.crew.wait(&pending)
	// Unless it has what was swapped, it is empty: one less to remove later.
	unix.Unlinkat(area, p.stage, unix.AT_REMOVEDIR)
	return nil
}

// swap puts a staged name in the place of an old one. They are exchanged, since
// to free a large old file takes time, which is better spent afterwards.
func (y *syncing) swap(fd, stage int, p *dirPlan, name string) error {
	if unix.Renameat2(stage, name, fd, name, unix.RENAME_EXCHANGE) == nil {
		return nil
	}
	// Not every file system can exchange, nor may everybody.
	err := unix.Renameat(stage, name, fd, name)
	switch err {
	case unix.EISDIR, unix.ENOTDIR, unix.ENOTEMPTY, unix.EEXIST: // one of them is a directory
		if err := y.takeOut(fd, p, name); err != nil {
			return err
		}
		return unix.Renameat(stage, name, fd, name)
	}
	return err
}

// remove takes out what has to go.
func (y *syncing) remove(fd int, p *dirPlan) error {
	for _, name := range p.removals {
		if err := y.takeOut(fd, p, name); err != nil {
			return p.error(name, err)
		}
	}
	return nil
}

// takeOut moves a name to the staging area, which is one step for a directory
// too; what it holds is deleted with the area.
func (y *syncing) takeOut(fd int, p *dirPlan, name string) error {
	y.mu.Lock()
	area, err := p.area.open()
	to := p.area.nextName()
	y.mu.Unlock()
	if err == nil && unix.Renameat(fd, name, area, to) == nil {
		return nil
	}
	// The disk may be full. A directory may be one that its owner may not write
	// to, or on a lower layer of an overlay.
	return y.removeAll(fd, name)
}

func (y *syncing) removeAll(fd int, name string) error {
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	dir, err := openDir(fd, name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if !y.attrs.root {
		unix.Fchmod(dir, 0o700) // where it fails, and is needed, so does what follows
	}
	list, err := readDir(dir)
	if err != nil {
		return err
	}
	var pending sync.WaitGroup
	const batch = 64
	for children := range slices.Chunk(list, batch) {
		y.crew.do(&pending, func() error {
			for _, child := range children {
				if err := y.removeAll(dir, child.name); err != nil {
					return fmt.Errorf("%s: %w", child.name, err)
				}
			}
			return nil
		})
	}
	y.crew.wait(&pending)
	if y.crew.ctx.Err() != nil {
		return nil // what stopped the crew is known
	}
	return unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
}

// finish gives a directory its mode and time. One with a staging area has to
// wait until that is gone.
func (y *syncing) finish(fd int, p *dirPlan) error {
	if p == p.area.plan {
		return nil
	}
	return y.finishDir(fd, p)
}

func (y *syncing) finishDir(fd int, p *dirPlan) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case p.e == nil:
		if st.Mode != p.mode {
			err = unix.Fchmod(fd, p.mode&0o7777)
		}
	case !y.attrs.match(&st, p.e):
		if uid, gid := y.attrs.owner(p.e); !y.attrs.root && int(st.Gid) != gid {
			err = unix.Fchown(fd, uid, gid)
		}
		if err == nil {
			err = y.attrs.setDir(fd, p.e)
		}
	}
	if err != nil {
		return p.error("", err)
	}
	return nil
}

// finishAreas gives the directories that had staging areas their modes and
// times, dest itself last.
func (y *syncing) finishAreas() error {
	for _, a := range slices.Backward(y.areas) {
		if err := y.finishDir(a.dir, a.plan); err != nil {
			return err
		}
	}
	return nil
}

// undoAreas leaves no trace of the staging.
func (y *syncing) undoAreas() {
	logError("clean up", y.removeAreas())
	for _, a := range y.areas {
		if a.temp != nil {
			logError("set back the time of dest", setTime(a.dir, ".", &entry{mtime: a.mtime}))
		}
		if a.opened {
			logError("set back the mode of dest", unix.Fchmod(a.dir, a.plan.mode&0o7777))
		}
	}
	for _, d := range y.opened {
		logError("set back the mode of a directory", unix.Fchmod(d.fd, d.mode&0o7777))
	}
}

// removeAreas deletes the staging areas with all that is in them.
func (y *syncing) removeAreas() error {
	y.crew = newCrew(context.Background())
	for _, a := range y.areas {
		if a.temp != nil {
			y.crew.stopOn(y.removeAll(a.dir, filepath.Base(a.temp.path)))
		}
	}
	y.crew.end() // what is left is tried again
	var errs []error
	for _, a := range y.areas {
		if err := a.temp.remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove the staging directory: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (y *syncing) closeAreas() {
	for _, a := range y.areas {
		unix.Close(a.dir)
	}
	for _, d := range y.opened {
		unix.Close(d.fd)
	}
}

// mountID tells mounts apart, and file systems that are parts of one.
type mountID struct{ device, mount uint64 }

func mountOf(fd int, st *unix.Stat_t) mountID {
	id := mountID{device: st.Dev}
	var stx unix.Statx_t
	// Linux knows ids of mounts since 5.8; the device tells nearly as much.
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx) == nil && stx.Mask&unix.STATX_MNT_ID != 0 {
		id.mount = stx.Mnt_id
	}
	return id
}

// dirent is a name in a directory, and its type as in st_mode.
type dirent struct {
	name string
	kind uint32
}

// readDir reads an open directory, whose position is at its start. Unlike
// os.File's, it finds types by the descriptor where the file system does not
// tell them.
func readDir(fd int) ([]dirent, error) {
	var list []dirent
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := unix.Getdents(fd, buf[:32<<10])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return list, nil
		}
		for b := buf[:n]; len(b) > 0; {
			// struct linux_dirent64: inode, offset, length, type, name
			const head = 8 + 8 + 2 + 1
			record := b[:binary.NativeEndian.Uint16(b[16:])]
			b = b[len(record):]
			name, _, _ := strings.Cut(string(record[head:]), "\x00")
			if name == "." || name == ".." {
				continue
			}
			kind := uint32(record[18]) << 12
			if kind == 0 {
				var st unix.Stat_t
				if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
					continue
				} else if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				kind = st.Mode & unix.S_IFMT
			}
			list = append(list, dirent{name, kind})
		}
	}
}

// readLink reads a symbolic link in a directory.
func readLink(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
