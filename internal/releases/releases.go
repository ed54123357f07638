package releases

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// Suffix follows the name of dest in that of the directory of its releases.
	Suffix       = ".releases"
	sharedSuffix = ".shared"
	markSuffix   = ".yml" // of the manifest, after the name of its release
	timeLayout   = "20060102T150405.000Z"
)

// ID stands for what is in a release: two releases with the same ID are equal.
type ID string

const idDigits = 12 // of each of the two hex numbers in an ID

// NewID returns the ID of a release made from the archive with a checksum, which is
// in hex. The options, which are strings and slices of strings, are everything else
// that decides what is in the release.
func NewID(checksum string, options ...any) ID {
	checksum = strings.ToLower(checksum)
	digest := sha256.Sum256(fmt.Appendf([]byte(checksum), " %q", options))
	short := checksum + strings.Repeat("0", idDigits) // a directory that is copied has none
	return ID(fmt.Sprintf("%s-%x", short[:idDigits], digest[:idDigits/2]))
}

// parseName returns the time and the ID in the name of a release. ok is false for a
// name that this package does not make.
func parseName(name string) (made time.Time, id ID, ok bool) {
	at, rest, _ := strings.Cut(name, "-")
	made, err := time.Parse(timeLayout, at)
	if err != nil || made.Format(timeLayout) != at { // Parse also accepts a comma
		return made, "", false
	}
	checksum, digest, _ := strings.Cut(rest, "-")
	for _, number := range []string{checksum, digest} {
		if len(number) != idDigits || strings.Trim(number, "0123456789abcdef") != "" {
			return made, "", false
		}
	}
	return made, ID(rest), true
}

// isReleaseName reports whether this package makes such names for releases.
func isReleaseName(name string) bool {
	_, _, ok := parseName(name)
	return ok
}

// release is a directory that this package made.
type release struct {
	name     string
	id       ID
	made     time.Time
	finished bool
}

// Store has the releases of a dest. The caller holds the lock of dest as long as it
// changes anything.
type Store struct {
	dest   string
	name   string // the last element of dest
	parent int    // the open directory that dest is in
	dir    int    // the open directory of the releases, -1 if there is none

	made     string // the release that this run has made
	deployed string // the release that Switch made current, "" before that
	manifest []byte // with which it is deployed
	target   string // of the link before Switch, "" if there was none
}

// Open opens the directories of dest, a path without "..". Dest and its releases
// need not exist; its parent must.
func Open(dest string) (*Store, error) {
	s := &Store{dest: dest, name: filepath.Base(dest), dir: -1}
	var err error
	if s.parent, err = unixfs.Openat(unix.AT_FDCWD, filepath.Dir(dest), unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Dir(dest), err)
	}
	if s.dir, err = unixfs.OpenDir(s.parent, s.name+Suffix); err != nil && err != unix.ENOENT {
		s.Close()
		return nil, dirError(s.dest+Suffix, err)
	}
	return s, nil
}

// dirError explains why a directory of this package could not be opened.
func dirError(path string, err error) error {
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return fmt.Errorf("%s is not a directory: remove it, or choose another dest", path)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// Close closes the directories. On a nil Store it does nothing.
func (s *Store) Close() {
	if s == nil {
		return
	}
	unix.Close(s.parent)
	if s.dir >= 0 {
		unix.Close(s.dir)
	}
}

// create makes the directory of the releases unless it exists.
func (s *Store) create() (err error) {
	if s.dir < 0 {
		s.dir, err = makeDir(s.parent, s.name+Suffix)
	}
	return err
}

// makeDir makes a directory with mode 0755 unless it exists, and opens it.
func makeDir(parent int, name string) (int, error) {
	err := unix.Mkdirat(parent, name, 0o755)
	if err != nil && err != unix.EEXIST {
		return -1, fmt.Errorf("create %s: %w", name, err)
	}
	fd, openErr := unixfs.OpenDir(parent, name)
	if openErr != nil {
		return -1, dirError(name, openErr)
	}
	if err == nil { // whatever the umask is
		if err := unix.Fchmod(fd, 0o755); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("create %s: %w", name, err)
		}
	}
	return fd, nil
}

// list returns the releases that this package made for this user, in the order of
// their names, which is that of their times.
func (s *Store) list() ([]release, error) {
	found, err := s.names()
	if err != nil {
		return nil, err
	}
	return s.releasesAmong(found)
}

// releasesAmong is list for names in the directory of the releases.
func (s *Store) releasesAmong(names []unixfs.Dirent) ([]release, error) {
	var list []release
	for _, d := range names {
		made, id, ok := parseName(d.Name)
		if !ok || !d.IsDir() {
			continue
		}
		r := release{name: d.Name, id: id, made: made}
		switch info, err := s.statMark(d.Name); {
		case err == unix.ENOENT:
		case err != nil:
			return nil, fmt.Errorf("%s: %w", s.ManifestPath(d.Name), err)
		case info.Mode&unix.S_IFMT != unix.S_IFREG || int(info.Uid) != os.Geteuid():
			continue // another user's
		default:
			r.finished = true
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b release) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

// names lists the directory of the releases, if there is one.
func (s *Store) names() ([]unixfs.Dirent, error) {
	if s.dir < 0 {
		return nil, nil
	}
	fd, err := unixfs.OpenDir(s.dir, ".") // since s.dir may have been read already
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", s.dest, Suffix, err)
	}
	defer unix.Close(fd)
	return unixfs.ReadDir(fd, 0)
}

// statMark is lstat(2) of the manifest of a release, which is its mark.
func (s *Store) statMark(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(s.dir, name+markSuffix, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// temporaryMark returns the name of the manifest of a release that is not finished.
func temporaryMark(name string) string { return "." + name + markSuffix }

// Clean removes what killed runs left: releases that are not finished, except for
// the current one, and temporary files. What cannot be removed is logged.
func (s *Store) Clean() error {
	target, err := s.link()
	if err != nil {
		return err
	}
	found, err := s.names()
	if err != nil {
		return err
	}
	list, err := s.releasesAmong(found)
	if err != nil {
		return err
	}
	for _, r := range list {
		if !r.finished && r.name != s.releaseOf(target) {
			s.warn("remove an unfinished release", treesync.Remove(s.dir, r.name))
		}
	}
	for _, d := range found {
		name, isMark := strings.CutSuffix(d.Name, markSuffix)
		name, temporary := strings.CutPrefix(name, ".")
		if !isMark || !isReleaseName(name) || d.IsDir() {
			continue
		}
		hasRelease := slices.ContainsFunc(found, func(d unixfs.Dirent) bool { return d.Name == name })
		if temporary || !hasRelease { // somebody may have removed the release
			s.warn("remove a manifest without a release", unix.Unlinkat(s.dir, d.Name, 0))
		}
	}
	if target, err := unixfs.ReadLink(s.parent, s.temporaryLink()); err == nil && s.releaseOf(target) != "" {
		s.warn("remove a link that an earlier run left", unix.Unlinkat(s.parent, s.temporaryLink(), 0))
	}
	if shared, err := unixfs.OpenDir(s.parent, s.name+sharedSuffix); err == nil {
		unixfs.SweepTempDirs(unixfs.DescriptorPath(shared), unixfs.TempPrefix)
		unix.Close(shared)
	}
	return nil
}

// warn logs the error of a step that does not fail the deployment, if there is one.
func (s *Store) warn(doing string, err error) {
	if err != nil {
		unixfs.Warn(doing+" of "+s.dest, err)
	}
}

// Find returns the name of the newest finished release with an ID, "" if there is
// none.
func (s *Store) Find(id ID) (string, error) {
	list, err := s.list()
	for _, r := range slices.Backward(list) {
		if r.finished && r.id == id {
			return r.name, err
		}
	}
	return "", err
}

// Before returns the name of the newest finished release that is older than the
// current one, and its manifest.
func (s *Store) Before() (name string, manifest []byte, err error) {
	target, err := s.link()
	if err != nil {
		return "", nil, err
	}
	current := s.releaseOf(target)
	if current == "" {
		return "", nil, fmt.Errorf("%s does not exist: there is no release to go back from", s.dest)
	}
	list, err := s.list()
	if err != nil {
		return "", nil, err
	}
	for _, r := range slices.Backward(list) {
		// A release with another name, which was made by hand, has no time.
		if r.finished && r.name < current && isReleaseName(current) {
			manifest, err := s.readManifest(r.name)
			return r.name, manifest, err
		}
	}
	return "", nil, fmt.Errorf("%s%s has no finished release that is older than the current one, %s", s.dest, Suffix, current)
}

// readManifest returns the manifest of a release. Since its commands will be run,
// it must not be one that another user can write.
func (s *Store) readManifest(name string) ([]byte, error) {
	path := s.ManifestPath(name)
	fd, err := unixfs.Openat(s.dir, name+markSuffix, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || unixfs.OwnerOf(info) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s can be written by another user, so its commands are not run", path)
	}
	return io.ReadAll(f)
}

// ManifestPath returns the path of the manifest of a release.
func (s *Store) ManifestPath(name string) string {
	return filepath.Join(s.dest+Suffix, name+markSuffix)
}

// Prune keeps the manifest that Switch was called with, and removes the oldest
// finished releases until there are at most keep, but never the current one. What
// fails is logged.
func (s *Store) Prune(keep int) {
	if s.deployed != "" {
		s.warn("keep the manifest of the release "+s.deployed, s.keepManifest(s.deployed, s.manifest))
	}
	target, err := s.link()
	var list []release
	if err == nil {
		list, err = s.list()
	}
	s.warn("look for old releases", err)
	for _, name := range tooOld(finished(list), s.releaseOf(target), keep) {
		log.Printf("Removing the old release %s", name)
		s.remove(name)
	}
}

// finished returns the names of the finished releases in a list.
func finished(list []release) []string {
	var names []string
	for _, r := range list {
		if r.finished {
			names = append(names, r.name)
		}
	}
	return names
}

// tooOld returns which of the releases, the oldest first, are to be removed so that
// keep are left. The current one never is.
func tooOld(names []string, current string, keep int) []string {
	var old []string
	for _, name := range names {
		if len(names)-len(old) > keep && name != current {
			old = append(old, name)
		}
	}
	return old
}

// Forget removes the mark of the release that dest leads to, if it is one, because
// its contents are about to be changed by another strategy.
func Forget(dest string) error {
	s, err := Open(dest)
	if err != nil {
		return nil // so dest leads to no release
	}
	defer s.Close()
	target, err := s.link()
	if name := s.releaseOf(target); err == nil && isReleaseName(name) {
		if err := unix.Unlinkat(s.dir, name+markSuffix, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s, since the contents of the release are about to change: %w", s.ManifestPath(name), err)
		}
	}
	return nil
}

// remove deletes a release. Its mark goes first, so that a release of which a part
// is missing is never used.
func (s *Store) remove(name string) {
	err := unix.Unlinkat(s.dir, name+markSuffix, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = treesync.Remove(s.dir, name)
	}
	s.warn("remove the release "+name, err)
}
