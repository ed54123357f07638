package unixfs

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// WalkDir walks what is below an open directory, as fs.WalkDir does. A file system of
// package fs has no names but in UTF-8, so that directories with others would be errors.
func WalkDir(root *os.Root, f fs.WalkDirFunc) error {
	info, err := root.Stat(".")
	if err != nil {
		err = f(".", nil, err)
	} else {
		err = walkDir(root, ".", fs.FileInfoToDirEntry(info), f)
	}
	if err == fs.SkipDir || err == fs.SkipAll {
		return nil
	}
	return err
}

func walkDir(root *os.Root, name string, d fs.DirEntry, f fs.WalkDirFunc) error {
	if err := f(name, d, nil); err != nil || !d.IsDir() {
		if err == fs.SkipDir && d.IsDir() {
			return nil
		}
		return err
	}
	entries, err := readDir(root, name)
	if err != nil {
		if err = f(name, d, err); err == fs.SkipDir {
			return nil
		} else if err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := walkDir(root, path.Join(name, e.Name()), e, f); err == fs.SkipDir {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// readDir returns what is in a directory, sorted by name.
func readDir(root *os.Root, name string) ([]fs.DirEntry, error) {
	dir, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}
