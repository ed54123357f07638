package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tree maps the paths in a directory, relative to it, to their contents and
// attributes. The directory itself is ".".
type tree map[string]node

type node struct {
	kind    byte // tar.TypeDir, TypeReg, TypeSymlink or TypeLink
	mode    fs.FileMode
	mtime   int64  // in seconds; 0 for a directory without an entry in the archive
	content string // content of a file, or target of a link
}

func (n node) String() string {
	return fmt.Sprintf("%c %v %d bytes %.40q, mtime %d", n.kind, n.mode, len(n.content), n.content, n.mtime)
}

// pack returns a tar.gz of the tree.
func (tr tree) pack(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, path := range slices.Sorted(maps.Keys(tr)) {
		n := tr[path]
		h := &tar.Header{Name: path, Typeflag: n.kind, Mode: int64(n.mode.Perm()), ModTime: time.Unix(n.mtime, 0), Uid: os.Geteuid(), Gid: os.Getegid()}
		switch n.kind {
		case tar.TypeReg:
			h.Size = int64(len(n.content))
		case tar.TypeDir:
			if n.mtime == 0 {
				continue
			}
			h.Name = path + "/"
		default:
			h.Linkname = n.content
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if n.kind == tar.TypeReg {
			if _, err := w.Write([]byte(n.content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readTree returns the tree at dir, which may be a link to it. It is empty if dir
// does not exist.
func readTree(t *testing.T, dir string) tree {
	t.Helper()
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	tr := tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path == dir && os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := node{mode: info.Mode().Perm() | info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), mtime: info.ModTime().Unix()}
		switch info.Mode().Type() {
		case fs.ModeDir:
			n.kind = tar.TypeDir
		case fs.ModeSymlink:
			n.kind = tar.TypeSymlink
			n.content, err = os.Readlink(path)
		case 0:
			n.kind = tar.TypeReg
			var data []byte
			data, err = os.ReadFile(path)
			n.content = string(data)
		default:
			return fmt.Errorf("%s: unexpected %v", path, info.Mode())
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		tr[rel] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// extracted returns the tree as it is on disk after its extraction: hard links are
// files, and symlinks have mode 0777.
func (tr tree) extracted() tree {
	tr = maps.Clone(tr)
	for path, n := range tr {
		switch n.kind {
		case tar.TypeLink:
			tr[path] = tr[n.content]
		case tar.TypeSymlink:
			n.mode = 0o777
			tr[path] = n
		}
	}
	return tr
}

// differences describes how found, which was read from disk, differs from tr.
func (tr tree) differences(found tree) []string {
	var list []string
	want := tr.extracted()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w := want[path]
		f, ok := found[path]
		if w.mtime == 0 {
			f.mtime = 0
		}
		if !ok {
			list = append(list, fmt.Sprintf("%s is missing", path))
		} else if f != w {
			list = append(list, fmt.Sprintf("%s is %s, want %s", path, f, w))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if _, ok := want[path]; !ok {
			list = append(list, fmt.Sprintf("%s should not exist", path))
		}
	}
	return list
}

// openTree makes all directories of a tree writable, so that an ordinary user can
// remove it.
func openTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	})
}

// tortured returns two versions of an application with size files, which differ in
// every way that a deployment must handle. If clamped is true, some files differ
// only in content, while their size and time are the same, as in archives with
// clamped times. rsync(1) considers such files unchanged.
func tortured(size int, clamped bool) [2]tree {
	var versions [2]tree
	for v := range versions {
		const epoch = 1_700_000_000
		tr := tree{}
		dir := func(path string, mode fs.FileMode) {
			tr[path] = node{kind: tar.TypeDir, mode: mode, mtime: epoch + int64(len(path))}
		}
		file := func(path string, mode fs.FileMode, age int64, size int, version int) {
			line := fmt.Sprintf("version %d of %s\n", version, path)
			tr[path] = node{kind: tar.TypeReg, mode: mode, mtime: epoch + age, content: strings.Repeat(line, size/len(line)+1)[:size]}
		}
		link := func(path, target string) {
			tr[path] = node{kind: tar.TypeSymlink, mtime: epoch + int64(v), content: target}
		}
		if v == 0 {
			dir(".", 0o750)
		} else {
			tr["."] = node{kind: tar.TypeDir, mode: 0o755} // dest_mode's default
		}
		for d := range 12 {
			dir(fmt.Sprintf("d%d", d), 0o755)
			dir(fmt.Sprintf("d%d/sub", d), []fs.FileMode{0o755, 0o700, 0o555, 0o750}[(d+v)%4])
		}
		for i := range size {
			path := fmt.Sprintf("d%d/file-%d", i%12, i)
			if i%3 == 0 {
				path = fmt.Sprintf("d%d/sub/file-%d", i%12, i)
			}
			size := i * i * 37 % 20_000
			if i%60 == 5 {
				size = 400_000
			}
			switch i % 10 {
			case 0, 1, 2, 3: // the same in both versions
				file(path, 0o644, 0, size, 0)
			case 4, 5: // different content
				file(path, 0o644, int64(v), size, v)
			case 6: // different size and mode
				file(path, []fs.FileMode{0o600, 0o755}[v], int64(v), size+v, v)
			case 7, 8: // only in one of the versions
				if i%10 == 7+v {
					file(path, 0o640, 0, size, v)
				}
			case 9: // only different attributes
				file(path, []fs.FileMode{0o644, 0o444}[v], 100+int64(v), size, 0)
			}
		}
		dir("empty", 0o755)
		dir("ü b", 0o755)
		file("ü b/\"odd' $name\\", 0o644, int64(v), 100+v, v)
		file("zero", 0o644, int64(v), 0, v)
		dir("hard", 0o755)
		file("hard/a", 0o644, int64(v), 5000, v)
		tr["hard/b"] = node{kind: tar.TypeLink, content: "hard/a"}
		link("link", fmt.Sprintf("d%d", v))
		link("link-out", "/nonexistent/../etc")
		// These names have different types in the two versions.
		if v == 0 {
			file("file-or-dir", 0o644, 0, 3000, v)
			link("link-or-file", "zero")
			dir("dir-or-link", 0o755)
			file("dir-or-link/inside", 0o644, 0, 3000, v)
			dir("gone", 0o755)
			dir("gone/deep", 0o555)
			file("gone/deep/file", 0o444, 0, 3000, v)
		} else {
			dir("file-or-dir", 0o755)
			file("file-or-dir/inside", 0o644, 0, 3000, v)
			file("link-or-file", 0o644, 0, 3000, v)
			link("dir-or-link", "d0")
		}
		if clamped {
			for i := range 20 {
				file(fmt.Sprintf("d0/clamped-%d", i), 0o644, 0, 4000, v)
			}
		}
		versions[v] = tr
	}
	return versions
}
