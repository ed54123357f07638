package releases

import (
	"errors"
	"fmt"
	"log"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// ErrForeign reports that dest is something that this package did not make.
var ErrForeign = errors.New("expected a symbolic link to a release")

// link returns the target of dest, "" if dest does not exist. It is an error if
// dest is anything but a link to a name in the directory of its releases.
func (s *Store) link() (string, error) {
	var st unix.Stat_t
	err := unix.Fstatat(s.parent, s.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return "", nil
	case err != nil:
		return "", fmt.Errorf("dest %s: %w", s.dest, err)
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", s.foreign("is not a symbolic link", "mv -T %[1]s %[2]s", "ln -s %[3]s %[1]s")
	}
	target, err := unixfs.ReadLink(s.parent, s.name)
	if err != nil {
		return "", fmt.Errorf("dest %s: %w", s.dest, err)
	}
	if s.releaseOf(target) == "" {
		if unix.Fstatat(s.parent, s.name+"/.", &st, 0) != nil {
			return "", fmt.Errorf("dest %s is a symbolic link to %q, which is not a directory: %w in %s, or nothing: remove it", s.dest, target, ErrForeign, s.name+Suffix)
		}
		return "", s.foreign("is a symbolic link to "+fmt.Sprintf("%q", target), "cp -a %[1]s/. %[2]s", "ln -sfn %[3]s %[1]s")
	}
	return target, nil
}

// releaseOf returns the name in the directory of the releases that a target of dest
// leads to, "" if it leads elsewhere.
func (s *Store) releaseOf(target string) string {
	name, ok := strings.CutPrefix(target, s.name+Suffix+"/")
	if !ok || name == "." || name == ".." || strings.Contains(name, "/") {
		return ""
	}
	return name
}

// foreign returns an error that says what dest is instead of a link to a release, and
// which commands make what is there the first release. In the commands, %[1]s is dest,
// %[2]s the release, and %[3]s the target of the link.
func (s *Store) foreign(what, move, link string) error {
	const first = "/before"
	dir := s.dest + Suffix
	commands := "mkdir -p " + quote(dir) + " && " + fmt.Sprintf(move+" && "+link, quote(s.dest), quote(dir+first), quote(s.name+Suffix+first))
	return fmt.Errorf("dest %s %s: %w in %s, or nothing (to make what is there the first release, run: %s)", s.dest, what, ErrForeign, s.name+Suffix, commands)
}

// quote quotes a word for a shell, if that is necessary.
func quote(word string) string {
	special := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_/.,:+@%-", c)
	}
	if !strings.ContainsFunc(word, special) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Check is Store.Check for a dest whose Store is not needed otherwise.
func Check(dest string) error {
	s, err := Open(dest)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Check()
}

// Check returns an error if dest is neither a link to one of its releases nor
// missing. The error says how to make it one.
func (s *Store) Check() error {
	_, err := s.link()
	return err
}

// temporaryLink returns the name of a link that is about to become dest.
func (s *Store) temporaryLink() string { return "." + s.name + ".new" }

// Switch makes a finished release the current one. If Prune is called, the manifest
// becomes that of the release. After an error, Undo puts back what Switch has changed.
func (s *Store) Switch(name string, manifest []byte) error {
	var err error = unix.ENOENT
	if s.dir >= 0 {
		_, err = s.statMark(name)
	}
	if err != nil {
		return fmt.Errorf("the release %s was removed meanwhile: %w", name, err)
	}
	if s.target, err = s.link(); err != nil {
		return err
	}
	s.deployed, s.manifest = name, manifest
	if s.releaseOf(s.target) == name {
		log.Printf("%s is the current release already", name)
		return nil
	}
	if err := s.point(s.name + Suffix + "/" + name); err != nil {
		return fmt.Errorf("switch %s to the release %s: %w", s.dest, name, err)
	}
	log.Printf("Switched %s to the release %s", s.dest, name)
	return nil
}

// point makes dest a link to target, or removes it if target is "", and waits until
// that is on disk.
func (s *Store) point(target string) error {
	if target == "" {
		if err := unix.Unlinkat(s.parent, s.name, 0); err != nil && err != unix.ENOENT {
			return err
		}
		return unixfs.FlushDir(s.parent)
	}
	temporary := s.temporaryLink()
	if err := unix.Symlinkat(target, s.parent, temporary); err != nil {
		return fmt.Errorf("create the link %s: %w", temporary, err)
	}
	if err := unix.Renameat(s.parent, temporary, s.parent, s.name); err != nil {
		return errors.Join(err, unix.Unlinkat(s.parent, temporary, 0))
	}
	return unixfs.FlushDir(s.parent)
}

// Undo puts dest back to what it was before Switch, and removes the release that
// this run made. A release that was there before stays.
func (s *Store) Undo() {
	if s.made != "" {
		// The mark goes first, so that a process that is killed from here on leaves a
		// release that is not used again. On a full disk, the link may need its space.
		s.warn("remove the manifest of the release "+s.made, unix.Unlinkat(s.dir, s.made+markSuffix, 0))
	}
	if s.deployed != "" && !s.switchBack() {
		return // dest may still lead to the release
	}
	if s.made != "" {
		s.removeMade()
	}
}

// switchBack puts dest back to what it was before Switch. It logs what dest is then,
// or why that failed.
func (s *Store) switchBack() bool {
	now, err := s.link()
	if err == nil && now != s.target {
		err = s.point(s.target)
	}
	switch {
	case err != nil:
		log.Printf("[ERROR] put %s back to %q: %v", s.dest, s.target, err)
	case s.target == "":
		log.Printf("No release is live: %s does not exist, as before", s.dest)
	default:
		log.Printf("The release %s is live", s.releaseOf(s.target))
	}
	return err == nil
}
