package tartest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Extent is a part of a sparse file that is not a hole, in bytes.
type Extent struct{ Offset, Length int64 }

// SparseArchive is an archive in the format that an option of tar(1) names.
type SparseArchive struct {
	Option string
	Data   []byte
}

// SparseFiles returns files that mostly consist of holes, for SparseArchives.
func SparseFiles() map[string][]Extent {
	var many []Extent
	for i := range int64(300) {
		many = append(many, Extent{i << 14, 1 + i})
	}
	return map[string][]Extent{
		"hole":       {{1 << 16, 0}},
		"end":        {{1 << 20, 5}},
		"start":      {{0, 5}, {3 << 20, 0}},
		"some":       {{4096, 4096}, {65536, 100}, {1 << 30, 7}, {2 << 30, 0}},
		"many":       many,
		"more names": {{8192, 8192}},
	}
}

// SparseArchives packs files by tar(1) in each of its sparse formats. The
// extents of a file consist of the letter x, and the last one ends where the
// file does, so an extent of no bytes makes the file end with a hole. The
// archives also have a file "plain" of 5 bytes, which is not sparse.
func SparseArchives(t testing.TB, files map[string][]Extent) []SparseArchive {
	t.Helper()
	dir := t.TempDir()
	for name, extents := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range extents {
			if _, err := f.WriteAt(bytes.Repeat([]byte{'x'}, int(x.Length)), x.Offset); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(x.Offset + x.Length); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	var made []SparseArchive
	for _, options := range [][]string{
		{"--format=gnu"},
		{"--format=oldgnu"},
		{"--format=pax", "--sparse-version=0.0"},
		{"--format=pax", "--sparse-version=0.1"},
		{"--format=pax", "--sparse-version=1.0"},
	} {
		args := append([]string{"-C", dir, "-S", "--mtime=@1000000000", "-cf", "-"}, options...)
		data, err := exec.Command("tar", append(args, ".")...).Output()
		if err != nil {
			t.Fatalf("tar %v: %v", args, err)
		}
		made = append(made, SparseArchive{options[len(options)-1], data})
	}
	return made
}
