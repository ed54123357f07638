// Package destcheck tells whether a directory may be deployed to, and what its
// dest_mode means. Everything in dest that the archive lacks is deleted, so a dest
// that is mistyped, or made of a variable that is empty, can delete the files of the
// whole system.
package destcheck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// system are the directories of the system's hierarchy (hier(7), and the
// Filesystem Hierarchy Standard 3.0), as patterns of filepath.Match. The directories
// below them that are not listed may be deployed to.
var system = []string{
	"/bin", "/boot", "/boot/efi", "/dev", "/dev/shm", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found",
	"/media", "/mnt", "/proc", "/root", "/run", "/sbin", "/snap", "/sys", "/tmp",
	"/etc/cron.*", "/etc/init.d", "/etc/opt", "/etc/ssh", "/etc/ssl", "/etc/systemd", "/etc/systemd/system",
	"/lib/*-linux-*", "/lib/modules", "/lib/systemd", "/lib/systemd/system",
	"/run/lock", "/run/stretcher", "/run/user", "/run/user/[0-9]*",
	"/usr", "/usr/bin", "/usr/games", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/libx32",
	"/usr/local", "/usr/sbin", "/usr/share", "/usr/src",
	"/usr/lib/*-linux-*", "/usr/lib/modules", "/usr/lib/systemd", "/usr/lib/systemd/system",
	"/usr/local/bin", "/usr/local/etc", "/usr/local/games", "/usr/local/include", "/usr/local/lib", "/usr/local/lib64",
	"/usr/local/libexec", "/usr/local/man", "/usr/local/sbin", "/usr/local/share", "/usr/local/src",
	"/var", "/var/backups", "/var/cache", "/var/lib", "/var/local", "/var/lock", "/var/log", "/var/mail", "/var/opt", "/var/run",
	"/var/spool", "/var/spool/cron", "/var/spool/cron/crontabs", "/var/tmp",
}

// shared are directories for the files of whoever runs the host. One that is
// empty may be the place of the only application.
var shared = []string{"/opt", "/srv"}

// Check refuses a dest that is not an absolute path, that is the root directory
// or a directory of the system's hierarchy, or that is the directory for
// temporary files. Symbolic links, ".." and bind mounts do not hide one. /opt and
// /srv themselves are refused unless they are empty or missing. The error is one
// line that begins with "dest".
func Check(dest string) error {
	p := resolve(dest)
	if err := checkPlace(dest, p); err != nil {
		return err
	}
	if temp, err := filepath.Abs(os.TempDir()); err == nil && p.is(temp) {
		return fmt.Errorf("dest %s is the directory for temporary files (TMPDIR), whose other files would be deleted: name a directory below it", show(dest))
	}
	return checkShared(dest, p, shared)
}

// CheckName is the part of Check that is the same on every host: it looks only at the
// name.
func CheckName(dest string) error {
	return checkPlace(dest, place{names: []string{filepath.Clean(dest)}})
}

// checkPlace refuses a dest that is not an absolute path, or whose place is the root
// directory or a directory of the system.
func checkPlace(dest string, p place) error {
	if !filepath.IsAbs(dest) {
		return fmt.Errorf("dest %q is not an absolute path: it has to begin with /", dest)
	}
	if strings.ContainsRune(dest, 0) {
		return fmt.Errorf("dest %q has a NUL byte", dest)
	}
	if p.is("/") {
		return fmt.Errorf("dest %s is the root directory, whose other files would be deleted: name a directory below it", show(dest))
	}
	if name := p.oneOf(system); name != "" {
		return fmt.Errorf("dest %s is %sa directory of the system, whose other files would be deleted: name a directory below it", show(dest), also(name, dest))
	}
	return nil
}

// checkShared refuses a dest whose place is one of the directories, unless it is
// empty.
func checkShared(dest string, p place, directories []string) error {
	name := p.oneOf(directories)
	if name == "" {
		return nil
	}
	empty, err := isEmpty(name)
	if err != nil {
		return fmt.Errorf("dest %s is refused unless it is empty, which cannot be told: %w", show(dest), err)
	}
	if !empty {
		return fmt.Errorf("dest %s is %snot empty, and its other files would be deleted: name a directory below it, such as %s/app", show(dest), also(name, dest), name)
	}
	return nil
}

// also returns the name of the directory, with a comma, if dest has another name.
func also(name, dest string) string {
	if filepath.Clean(dest) == name {
		return ""
	}
	return name + ", "
}

// place is what a path leads to.
type place struct {
	names []string    // the path without "..", and without symbolic links
	info  fs.FileInfo // nil where nothing is there, or nobody can tell
}

// resolve returns the place of a path, as far as this user can tell.
func resolve(path string) place {
	p := place{names: []string{unixfs.CleanPath(path)}}
	if real, err := unixfs.RealPath(path); err == nil {
		p.names = append(p.names, real)
	}
	if info, err := os.Stat(path); err == nil {
		p.info = info
	}
	return p
}

// is reports whether p is the directory at path, also under another name or by a
// bind mount.
func (p place) is(path string) bool {
	for _, name := range p.names {
		if name == path {
			return true
		}
	}
	info, err := os.Stat(path)
	return p.info != nil && err == nil && os.SameFile(p.info, info)
}

// oneOf returns which of the directories p is, or "". They may be patterns.
func (p place) oneOf(directories []string) string {
	for _, pattern := range directories {
		for _, name := range p.names {
			if ok, err := filepath.Match(pattern, name); ok && err == nil {
				return name
			}
		}
	}
	if p.info == nil {
		return ""
	}
	for _, pattern := range directories {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // the patterns are constants, and a test matches each
		}
		for _, path := range found {
			if p.is(path) {
				return path
			}
		}
	}
	return ""
}

// isEmpty reports whether the directory has no entries, or does not exist.
func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// show returns a path for an error, with control characters escaped.
func show(path string) string {
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
