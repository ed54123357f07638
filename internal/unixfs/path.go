package unixfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// RealPath returns the absolute path without symbolic links. Its last components
// need not exist.
func RealPath(path string) (string, error) {
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = dir + "/" + path
	}
	path = CleanPath(path)
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	parent, err := RealPath(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// CleanPath is filepath.Clean with the kernel's meaning of "..": the parent of
// the directory that a symbolic link before it leads to, where filepath.Clean
// removes the link's name. The result has no "..".
func CleanPath(path string) string {
	i := strings.LastIndex(path+"/", "/../")
	if i < 0 {
		return filepath.Clean(path)
	}
	up, rest := path[:i+len("/..")], path[min(i+len("/../"), len(path)):]
	real, err := filepath.EvalSymlinks(up)
	if err != nil {
		real = filepath.Clean(up) // a path that does not exist has no symbolic links
	}
	return filepath.Join(real, rest)
}
