package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)





func indexBytes(t testing.TB, data []byte, maxSize int64) (*Archive, error) {
	t.Helper()
	spool, err := tempFile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	if _, err := spool.Write(data); err != nil {
		t.Fatal(err)
	}
	a, err := Index(t.Context(), bytes.NewReader(data), spool, maxSize)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

func mustIndex(t testing.TB, data []byte) *Archive {
	t.Helper()
	a, err := indexBytes(t, data, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var compressors = []struct {
	name    string
	command []string
}{
	{"tar", []string{"cat"}},
	{"gzip", []string{"gzip", "-c"}},
	{"bzip2", []string{"bzip2", "-c"}},
	{"xz", []string{"xz", "-c"}},
	{"zstd", []string{"zstd", "-qc"}},
}

func TestArchiveFormats(t *testing.T) {
	big := make([]byte, 700<<10) // more than a block of everything
	rand.NewChaCha8([32]byte{}).Read(big)
	data := makeTar(t, member{name: "a", body: "first"}, member{name: "big", body: string(big)}, member{name: "z", body: "last"})
	for _, c := range compressors {
		t.Run(c.name, func(t *testing.T) {
			packed := pipeThrough(t, data, c.command...)
			half := len(data) / 2
			parts := append(pipeThrough(t, data[:half], c.command...), pipeThrough(t, data[half:], c.command...)...)
			inputs := map[string][]byte{"one": packed, "two parts": parts, "nothing appended": append(bytes.Clone(packed), pipeThrough(t, nil, c.command...)...)}
			for name, input := range inputs {
				dir := t.TempDir()
				if err := mustIndex(t, input).extract(t.Context(), dir); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for file, want := range map[string]string{"a": "first", "big": string(big), "z": "last"} {
					if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
						t.Errorf("%s: %s has %d bytes, err %v; want %d bytes", name, file, len(got), err, len(want))
					}
				}
			}
		})
	}
}

// What follows an archive is judged as by tar(1), the oracle.
func TestArchiveTrailers(t *testing.T) {
	data := makeTar(t, member{name: "a", body: "first"})
	for _, c := range compressors {
		packed := pipeThrough(t, data, c.command...)
		for name, trailer := range map[string][]byte{
			"zeros":     make([]byte, 1000),
			"garbage":   []byte("some garbage here"),
			"zero junk": []byte("\x00\x00\x00\x00junk"),
			"magic":     packed[:2],
			"self":      packed,
		} {
			input := append(bytes.Clone(packed), trailer...)
			tarErr := extractByTar(t, input, t.TempDir())
			if _, err := indexBytes(t, input, 0); (err != nil) != (tarErr != nil) {
				t.Errorf("%s followed by %s: %v; tar: %v", c.name, name, err, tarErr)
			}
		}
		if c.name == "tar" {
			continue
		}
		for _, at := range []int{len(packed) - 6, len(packed) - 3, len(packed) / 2} {
			input := bytes.Clone(packed)
			input[at] ^= 0x55
			if tarErr := extractByTar(t, input, t.TempDir()); tarErr == nil {
				continue // gzip's length, for one, may be followed by the part that is damaged
			}
			if _, err := indexBytes(t, input, 0); err == nil {
				t.Errorf("%s with byte %d of %d damaged is taken", c.name, at, len(packed))
			}
		}
	}
}


func TestArchiveTruncated(t *testing.T) {
	members := []member{{name: "d/", typ: tar.TypeDir}, {name: "e", body: strings.Repeat("x", 3000)}, {name: "f"}, {name: "g", body: "x"}}
	data := makeTar(t, members...)
	lengths := []int{0, 1, 100}
	for n := 512; n <= len(data); n += 512 {
		lengths = append(lengths, n-256, n-1, n, n+1)
	}
	// tar(1) takes an archive that ends between two files, or amid a header.
	end := len(bytes.TrimRight(data, "\x00"))
	end += -end & 511
	for _, n := range lengths {
		n = min(n, len(data))
		_, err := indexBytes(t, data[:n], 0)
		if (err != nil) != (n < end+512) {
			t.Errorf("cut at %d, where the files end at %d: %v", n, end, err)
		}
		if err != nil && n >= 512 && !strings.Contains(err.Error(), "archive is truncated") {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	// tar(1) takes an archive that ends amid the headers of a long name.
	data = makeTar(t, member{name: strings.Repeat("n", 200), body: "x"})
	for n := 512; n < 4*512; n += 256 {
		if _, err := indexBytes(t, data[:n], 0); err == nil || !strings.Contains(err.Error(), "archive is truncated") {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for _, c := range compressors[1:] {
		packed := pipeThrough(t, data, c.command...)
		for n := range packed {
			_, err := indexBytes(t, packed[:n], 0)
			if err == nil {
				t.Errorf("%s cut at %d of %d is taken", c.name, n, len(packed))
			} else if n > 20 && !strings.Contains(err.Error(), "archive is truncated") {
				t.Errorf("%s cut at %d of %d: %v", c.name, n, len(packed), err)
			}
		}
	}
}

func TestArchiveRefused(t *testing.T) {
	good := makeTar(t, member{name: "a", body: "x"})
	damaged := bytes.Clone(makeTar(t, member{name: "a", body: "x"}, member{name: "b", body: "x"}))
	damaged[bytes.LastIndex(damaged, []byte("ustar"))] = 'X'
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "archive is empty"},
		{"compressed nothing", pipeThrough(t, nil, "gzip", "-c"), "archive is empty"},
		{"no entries", makeTar(t), "archive is empty"},
		{"zeros", make([]byte, 512), "archive is empty"},
		{"text", []byte("<html>not found</html>"), "not a tar archive"},
		{"long text", bytes.Repeat([]byte("not found "), 1000), "not a tar archive"},
		{"compressed text", pipeThrough(t, bytes.Repeat([]byte("not found "), 1000), "gzip", "-c"), "not a tar archive"},
		{"gzip magic only", []byte{0x1f, 0x8b}, "truncated"},
		{"damaged header", damaged, "archive is corrupt"},
		{"junk first", append(bytes.Repeat([]byte{7}, 1024), good...), "not a tar archive"},
		{"global header only", makeTarHeaders(t, &tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}), "archive is empty"},
	} {
		_, err := indexBytes(t, test.data, 0)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.name, err, test.want)
		}
	}
}


func TestArchiveMaxSize(t *testing.T) {
	data := makeTar(t, member{name: "a", body: strings.Repeat("x", 600)}, member{name: "b", body: strings.Repeat("y", 400)})
	data = append(data, make([]byte, 100_000)...)
	for _, c := range compressors {
		packed := pipeThrough(t, data, c.command...)
		if _, err := indexBytes(t, packed, 1000); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := indexBytes(t, packed, 999); err == nil || !strings.Contains(err.Error(), "-max-size") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// Refused on its header, before the rest is there.
	hdr := member{name: "bomb"}.header()
	hdr.Size = 1 << 50
	head := makeTarHeaders(t, hdr)
	block := errors.New("read too far")
	_, err := Index(t.Context(), io.MultiReader(bytes.NewReader(head), iotest.ErrReader(block)), nil, 1<<40)
	if err == nil || !errors.Is(err, block) && !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb by its header: %v", err)
	}
	// A hard link is a file of its own in dest.
	links := []member{{name: "a", body: strings.Repeat("x", 600)}, {name: "b", typ: tar.TypeLink, body: "a"}, {name: "c", typ: tar.TypeLink, body: "b"}}
	if _, err := indexBytes(t, makeTar(t, links...), 1800); err != nil {
		t.Errorf("hard links: %v", err)
	}
	if _, err := indexBytes(t, makeTar(t, links...), 1799); err == nil || !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb of hard links: %v", err)
	}
	// Headers are a bomb as well, if there are enough.
	many := bytes.Repeat(makeTar(t, member{name: "empty"})[:512], (headerAllowance+2000)/512)
	if _, err := indexBytes(t, many, 1000); err == nil || !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb of headers: %v", err)
	}
}

func TestArchiveArrivalFails(t *testing.T) {
	failed := errors.New("connection reset")
	data := makeTar(t, member{name: "a", body: strings.Repeat("x", 1<<20)})
	for _, c := range compressors {
		packed := pipeThrough(t, data, c.command...)
		arriving := io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(failed))
		_, err := Index(t.Context(), arriving, nil, 0)
		if !errors.Is(err, failed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// contextReader delivers data, and then nothing until its context ends.
type contextReader struct {
	ctx  context.Context
	data io.Reader
	dry  func()
}

func (r *contextReader) Read(p []byte) (int, error) {
	if n, err := r.data.Read(p); err == nil {
		return n, nil
	}
	r.dry()
	<-r.ctx.Done()
	return 0, r.ctx.Err()
}

func TestArchiveCancelled(t *testing.T) {
	data := makeTar(t, member{name: "a", body: strings.Repeat("x", 1<<20)})
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	_, err := Index(ctx, &contextReader{ctx, bytes.NewReader(data[:1<<19]), func() { cancel(stopped) }}, nil, 0)
	if !errors.Is(err, stopped) {
		t.Errorf("index: %v", err)
	}
	if err := mustIndex(t, data).extract(ctx, t.TempDir()); !errors.Is(err, stopped) {
		t.Errorf("extract: %v", err)
	}
}

func TestArchiveNoRoom(t *testing.T) {
	dir := mountTmpfs(t, "size=256k")
	t.Setenv("TMPDIR", dir)
	data := pipeThrough(t, makeTar(t, member{name: "a", body: strings.Repeat("x", 1<<20)}), "gzip", "-c")
	_, err := Index(t.Context(), bytes.NewReader(data), nil, 0)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Error(err)
	}
}


func TestArchiveRootMode(t *testing.T) {
	for _, name := range []string{".", "./", "/", "./."} {
		a := mustIndex(t, makeTar(t, member{name: name, typ: tar.TypeDir, mode: 0o2751}, member{name: "a"}))
		if mode, ok := a.RootMode(); !ok || mode != 0o751|os.ModeSetgid {
			t.Errorf("%s: %v, %v", name, mode, ok)
		}
	}
	if mode, ok := mustIndex(t, makeTar(t, member{name: "a"})).RootMode(); ok {
		t.Errorf("without an entry: %v", mode)
	}
}

func FuzzIndexArchive(f *testing.F) {
	whole := makeTar(f, member{name: "d/", typ: tar.TypeDir}, member{name: "d/" + strings.Repeat("n", 200), body: "x"},
		member{name: "s", typ: tar.TypeSymlink, body: "d"}, member{name: "s/h", body: "y"}, member{name: "l", typ: tar.TypeLink, body: "s/h"})
	f.Add(whole)
	for _, c := range compressors[1:] {
		f.Add(pipeThrough(f, whole, c.command...))
	}
	for _, sparse := range sparseArchives(f, map[string][]Segment{"s": {{1 << 16, 5}, {1 << 18, 0}}}) {
		f.Add(sparse.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 4 << 20
		a, err := indexBytes(t, data, limit)
		if err != nil {
			return
		}
		size := int64(len(data))
		if a.own != nil {
			size = 0
			for _, half := range a.own {
				info, err := half.Stat()
				if err != nil {
					t.Fatal(err)
				}
				size += info.Size()
			}
		}
		var check func(path string, e *Entry)
		check = func(path string, e *Entry) {
			stored := e.size
			if e.Segments != nil {
				stored = 0
				end := int64(0)
				for _, seg := range e.Segments {
					if seg.Offset < end || seg.Length <= 0 || seg.Length > e.size-seg.Offset {
						t.Errorf("%s: segment %v after %d of %d", path, seg, end, e.size)
					}
					end = seg.Offset + seg.Length
					stored += seg.Length
				}
			}
			if e.IsRegular() && (stored < 0 || stored > limit || e.offset < 0 || e.offset+stored > size) {
				t.Errorf("%s: %d bytes at %d of %d", path, stored, e.offset, size)
			}
			for name, child := range e.Children {
				if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || !e.IsDir() {
					t.Errorf("%q in %q", name, path)
				}
				check(path+"/"+name, child)
			}
		}
		check("", a.Tree.Root)
	})
}
