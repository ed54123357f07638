package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

type sparseArchive struct {
	name string
	data []byte
}

// sparseFiles are files of which most is holes. A segment of length 0 tells
// the size.
var sparseFiles = map[string][]Segment{
	"hole":       {},
	"end":        {{1 << 20, 5}},
	"start":      {{0, 5}, {3 << 20, 0}},
	"some":       {{4096, 4096}, {65536, 100}, {1 << 30, 7}, {2 << 30, 0}},
	"many":       manySegments(300),
	"more names": {{8192, 8192}},
}

// sparseArchives has tar(1) pack sparse files in each of its formats.
func sparseArchives(t testing.TB, files map[string][]Segment) []sparseArchive {
	t.Helper()
	dir := t.TempDir()
	for name, segments := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		size := int64(1 << 16)
		for _, seg := range segments {
			if _, err := f.WriteAt(bytes.Repeat([]byte{'x'}, int(seg.Length)), seg.Offset); err != nil {
				t.Fatal(err)
			}
			size = seg.Offset + seg.Length
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	var made []sparseArchive
	for _, options := range [][]string{
		{"--format=gnu"}, {"--format=oldgnu"},
		{"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"},
	} {
		args := append([]string{"-C", dir, "-S", "--mtime=@1000000000", "-cf", "-"}, options...)
		data, err := exec.Command("tar", append(args, ".")...).Output()
		if err != nil {
			t.Fatalf("tar %v: %v", args, err)
		}
		made = append(made, sparseArchive{options[len(options)-1], data})
	}
	return made
}

func manySegments(n int64) []Segment {
	var s []Segment
	for i := range n {
		s = append(s, Segment{i << 14, 1 + i})
	}
	return s
}

func TestSparseFormats(t *testing.T) {
	for _, sparse := range sparseArchives(t, sparseFiles) {
		t.Run(sparse.name, func(t *testing.T) {
			want, got := t.TempDir(), t.TempDir()
			if err := extractByTar(t, sparse.data, want); err != nil {
				t.Fatal(err)
			}
			if err := mustIndex(t, sparse.data).extract(t.Context(), got); err != nil {
				t.Fatal(err)
			}
			compareTrees(t, want, got)
			for _, name := range []string{"hole", "end", "start", "some", "many"} {
				var st [2]unix.Stat_t
				for i, dir := range []string{want, got} {
					if err := unix.Stat(filepath.Join(dir, name), &st[i]); err != nil {
						t.Fatal(err)
					}
				}
				if st[1].Blocks > st[0].Blocks {
					t.Errorf("%s takes %d blocks, by tar %d", name, st[1].Blocks, st[0].Blocks)
				}
			}
			// Stored: the test file of 5 bytes, plus the segments.
			var stored int64
			a := mustIndex(t, sparse.data)
			for _, e := range a.Tree.Root.Children {
				if e.Segments == nil {
					stored += e.size
				}
				for _, seg := range e.Segments {
					stored += seg.Length
				}
			}
			if stored > 6<<20 {
				t.Fatalf("%d bytes are stored", stored)
			}
			if _, err := indexBytes(t, sparse.data, stored); err != nil {
				t.Error(err)
			}
			if _, err := indexBytes(t, sparse.data, stored-1); err == nil {
				t.Error("-max-size does not count what is stored")
			}
		})
	}
}

// A hole of exabytes costs nothing.
func TestSparseHugeHole(t *testing.T) {
	records := paxRecord("GNU.sparse.size", "9223372036854775807") + paxRecord("GNU.sparse.numblocks", "1") +
		paxRecord("GNU.sparse.map", "9223372036854775807,0")
	pax := rawHeader("pax", tar.TypeXHeader, int64(len(records)))
	data := append(pax, records...)
	data = append(data, make([]byte, -len(records)&511)...)
	data = append(data, rawHeader("huge", tar.TypeReg, 0)...)
	data = append(data, make([]byte, 1024)...)
	a := mustIndex(t, data)
	if e := a.Tree.Root.Children["huge"]; e == nil || e.size != 1<<63-1 || len(e.Segments) != 0 || e.Segments == nil {
		t.Fatalf("%+v", e)
	}
	// The file system may have no such files: then that is the error.
	if err := a.extract(t.Context(), t.TempDir()); err != nil {
		t.Logf("not made here: %v", err)
	}
}

func FuzzSparseMap(f *testing.F) {
	for _, sparse := range sparseArchives(f, map[string][]Segment{"s": manySegments(30)}) {
		f.Add(sparse.data[:4096], "0,1,4,5", byte('S'), "", "", int64(1<<20))
	}
	f.Add(append(rawHeader("a", '0', 512), "2\n0\n5\n10\n3\n"...), "", byte('0'), "1", "0", int64(100))
	f.Fuzz(func(t *testing.T, header []byte, record string, typ byte, major, minor string, size int64) {
		hdr := &tar.Header{Typeflag: typ, Size: size, PAXRecords: map[string]string{paxSparseMap: record, paxSparseMajor: major, paxSparseMinor: minor}}
		segments, _, err := sparseMap(hdr, header)
		if err != nil {
			return
		}
		var end int64
		for _, seg := range segments {
			if seg.Offset < end || seg.Length <= 0 || seg.Length > size-seg.Offset {
				t.Fatalf("%v after %d, of %d", seg, end, size)
			}
			end = seg.Offset + seg.Length
		}
	})
}
