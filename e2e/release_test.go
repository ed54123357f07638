package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// files maps the paths of a tree's regular files to their content.
type files map[string]string

// release is a packed version of an application.
type release struct {
	files    files
	archive  []byte // tar.gz
	checksum string // SHA-256, in hex
}

// newRelease packs a small application. Releases with different names differ in
// every way that a sync must handle: changed, added and removed files.
func newRelease(t *testing.T, name string) *release {
	t.Helper()
	return pack(t, files{
		"version":            name + "\n",
		"bin/app":            "#!/bin/sh\necho " + name + "\n",
		"lib/same.txt":       "the same in every release\n",
		"only-in-" + name:    name + "\n",
		"assets/ü b/" + name: strings.Repeat(name, 10000),
		"assets/" + name:     "",
	})
}

// packed counts the packed releases.
var packed atomic.Int64

// pack packs files into a release. Every release has different times, because
// rsync considers a file unchanged if its size and time are the same.
func pack(t *testing.T, f files) *release {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	modified := time.Now().Add(-24*time.Hour + time.Duration(packed.Add(1))*time.Second)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(f[name])), ModTime: modified, Format: tar.FormatPAX}
		if strings.HasPrefix(name, "bin/") {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return &release{files: f, archive: b.Bytes(), checksum: hex.EncodeToString(sum[:])}
}

// gzipped compresses data.
func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// manifest returns the release's manifest, followed by more lines of YAML.
func (r *release) manifest(src, dest string, more ...string) string {
	return fmt.Sprintf("src: %s\nchecksum: %s\ndest: %s\n", quote(src), r.checksum, quote(dest)) + strings.Join(append(more, ""), "\n")
}

// quote returns s as a YAML string.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// badManifest returns a manifest with a wrong checksum.
func (r *release) badManifest(src, dest string, more ...string) string {
	wrong := hex.EncodeToString(make([]byte, sha256.Size))
	return strings.Replace(r.manifest(src, dest, more...), r.checksum, wrong, 1)
}

// write writes data to a file and creates its directory if necessary. The file
// appears in one step, so that a server never sees a part of it.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(filepath.Dir(filepath.Dir(path)), "write-*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		t.Fatal(err)
	}
}

// read returns the content of a file.
func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// differs returns an error if the tree at dir does not contain exactly these
// files.
func (f files) differs(dir string) error {
	found := files{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		found[rel] = string(data)
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if content, ok := found[name]; !ok {
			return fmt.Errorf("%s: %s is missing", dir, name)
		} else if content != f[name] {
			return fmt.Errorf("%s: %s contains %.60q, want %.60q", dir, name, content, f[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if _, ok := f[name]; !ok {
			return fmt.Errorf("%s: %s should not be there", dir, name)
		}
	}
	return nil
}

// wantDeployed checks that dest equals the release.
func (r *release) wantDeployed(t *testing.T, dest string) {
	t.Helper()
	if err := r.files.differs(dest); err != nil {
		t.Errorf("dest is not the release: %v", err)
	}
}

// wantMissing checks that path does not exist.
func wantMissing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err == nil {
		t.Errorf("%s exists", path)
	} else if !os.IsNotExist(err) {
		t.Error(err)
	}
}

// wantFile checks the content of a file.
func wantFile(t *testing.T, path, content string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if string(data) != content {
		t.Errorf("%s contains %q, want %q", filepath.Base(path), data, content)
	}
}

// wantFileHas checks that a file contains all the words.
func wantFileHas(t *testing.T, path string, words ...string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	for _, w := range words {
		if !strings.Contains(string(data), w) {
			t.Errorf("%s lacks %q:\n%s", filepath.Base(path), w, data)
		}
	}
}

// incompressible returns a release whose archive has about the given size in
// bytes.
func incompressible(t *testing.T, size int) *release {
	t.Helper()
	random := rand.NewChaCha8([32]byte{})
	data := make([]byte, size/4)
	f := files{}
	for i := range 4 {
		if _, err := random.Read(data); err != nil {
			t.Fatal(err)
		}
		f[fmt.Sprintf("data/%d", i)] = string(data)
	}
	return pack(t, f)
}
