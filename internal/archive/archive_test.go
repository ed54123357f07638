package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// indexBytes indexes an archive that arrives without delay.
func indexBytes(t testing.TB, data []byte, maxSize int64) (*Archive, error) {
	t.Helper()
	spool, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	if _, err := spool.Write(data); err != nil {
		t.Fatal(err)
	}
	a, err := Index(t.Context(), bytes.NewReader(data), spool, Limits{Size: maxSize})
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// contentsOf returns the contents of a file that is not sparse.
func contentsOf(t testing.TB, a *Archive, name string) string {
	t.Helper()
	e, err := a.Tree.LookUp(name)
	if err != nil || !e.IsRegular() || e.Segments() != nil {
		t.Fatalf("%s: %+v, %v", name, e, err)
	}
	b := make([]byte, e.Size)
	if n, err := a.Data().ReadAt(b, e.Offset); n < len(b) {
		t.Fatalf("%s: %v", name, err)
	}
	return string(b)
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
	t.Parallel()
	big := make([]byte, 700<<10) // more than a buffer of any reader
	rand.NewChaCha8([32]byte{}).Read(big)
	data := tartest.Make(t, tartest.Member{Name: "a", Body: "first"}, tartest.Member{Name: "big", Body: string(big)}, tartest.Member{Name: "z", Body: "last"})
	for _, c := range compressors {
		t.Run(c.name, func(t *testing.T) {
			packed := tartest.PipeThrough(t, data, c.command...)
			half := len(data) / 2
			parts := append(tartest.PipeThrough(t, data[:half], c.command...), tartest.PipeThrough(t, data[half:], c.command...)...)
			inputs := map[string][]byte{"one": packed, "two parts": parts, "nothing appended": append(bytes.Clone(packed), tartest.PipeThrough(t, nil, c.command...)...)}
			for name, input := range inputs {
				a := mustIndex(t, input)
				for file, want := range map[string]string{"a": "first", "big": string(big), "z": "last"} {
					if got := contentsOf(t, a, file); got != want {
						t.Errorf("%s: %s has %d bytes, want %d, or they differ", name, file, len(got), len(want))
					}
				}
			}
		})
	}
}

// Data after the end of an archive is an error exactly where tar(1), the oracle,
// fails.
func TestArchiveTrailers(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "a", Body: "first"})
	for _, c := range compressors {
		packed := tartest.PipeThrough(t, data, c.command...)
		for name, trailer := range map[string][]byte{
			"zeros":     make([]byte, 1000),
			"garbage":   []byte("some garbage here"),
			"zero junk": []byte("\x00\x00\x00\x00junk"),
			"magic":     packed[:2],
			"self":      packed,
		} {
			input := append(bytes.Clone(packed), trailer...)
			tarErr := tartest.Extract(t, input, t.TempDir())
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
			if tarErr := tartest.Extract(t, input, t.TempDir()); tarErr == nil {
				continue // the damage may be where tar does not read
			}
			if _, err := indexBytes(t, input, 0); err == nil {
				t.Errorf("%s with byte %d of %d damaged is taken", c.name, at, len(packed))
			}
		}
	}
}

func TestArchiveTruncated(t *testing.T) {
	t.Parallel()
	members := []tartest.Member{{Name: "d/", Type: tar.TypeDir}, {Name: "e", Body: strings.Repeat("x", 3000)}, {Name: "f"}, {Name: "g", Body: "x"}}
	data := tartest.Make(t, members...)
	lengths := []int{0, 1, 100}
	for n := 512; n <= len(data); n += 512 {
		lengths = append(lengths, n-256, n-1, n, n+1)
	}
	// tar(1) accepts an archive that ends between two files, or amid a header.
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
	// tar(1) accepts an archive that ends amid the headers of a long name.
	data = tartest.Make(t, tartest.Member{Name: strings.Repeat("n", 200), Body: "x"})
	for n := 512; n < 4*512; n += 256 {
		if _, err := indexBytes(t, data[:n], 0); err == nil || !strings.Contains(err.Error(), "archive is truncated") {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for _, c := range compressors[1:] {
		packed := tartest.PipeThrough(t, data, c.command...)
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
	t.Parallel()
	good := tartest.Make(t, tartest.Member{Name: "a", Body: "x"})
	damaged := bytes.Clone(tartest.Make(t, tartest.Member{Name: "a", Body: "x"}, tartest.Member{Name: "b", Body: "x"}))
	damaged[bytes.LastIndex(damaged, []byte("ustar"))] = 'X'
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "archive is empty"},
		{"compressed nothing", tartest.PipeThrough(t, nil, "gzip", "-c"), "archive is empty"},
		{"no entries", tartest.Make(t), "archive is empty"},
		{"zeros", make([]byte, 512), "archive is empty"},
		{"text", []byte("<html>not found</html>"), "not a tar archive"},
		{"long text", bytes.Repeat([]byte("not found "), 1000), "not a tar archive"},
		{"compressed text", tartest.PipeThrough(t, bytes.Repeat([]byte("not found "), 1000), "gzip", "-c"), "not a tar archive"},
		{"gzip magic only", []byte{0x1f, 0x8b}, "truncated"},
		{"damaged header", damaged, "archive is corrupt"},
		{"junk first", append(bytes.Repeat([]byte{7}, 1024), good...), "not a tar archive"},
		{"global header only", tartest.MakeHeaders(t, &tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}), "archive is empty"},
	} {
		_, err := indexBytes(t, test.data, 0)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.name, err, test.want)
		}
	}
}

func TestArchiveMaxSize(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "a", Body: strings.Repeat("x", 600)}, tartest.Member{Name: "b", Body: strings.Repeat("y", 400)})
	data = append(data, make([]byte, 100_000)...)
	for _, c := range compressors {
		packed := tartest.PipeThrough(t, data, c.command...)
		if _, err := indexBytes(t, packed, 1000); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := indexBytes(t, packed, 999); err == nil || !strings.Contains(err.Error(), "-max-size") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A header alone is enough to reject an archive, before its data arrives.
	hdr := tartest.Member{Name: "bomb"}.Header()
	hdr.Size = 1 << 50
	head := tartest.MakeHeaders(t, hdr)
	block := errors.New("read too far")
	_, err := Index(t.Context(), io.MultiReader(bytes.NewReader(head), iotest.ErrReader(block)), nil, Limits{Size: 1 << 40})
	if err == nil || !errors.Is(err, block) && !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb by its header: %v", err)
	}
	// So is the header of what extends a header.
	head = tartest.RawHeader("x", tar.TypeXHeader, 1<<32)
	_, err = Index(t.Context(), io.MultiReader(bytes.NewReader(head), iotest.ErrReader(block)), nil, Limits{Size: 1 << 30})
	if err == nil || !errors.Is(err, block) && !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb by its PAX header: %v", err)
	}
	for _, typ := range []byte{tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName} {
		extensions := bytes.Repeat(append(tartest.RawHeader("x", typ, 512), make([]byte, 512)...), (indexFree+2000)/1024)
		_, err := Index(t.Context(), io.MultiReader(bytes.NewReader(extensions), zeros{}), nil, Limits{Size: 1000})
		if err == nil || !strings.HasPrefix(err.Error(), "archive unpacks to more than") || !Hopeless(err) {
			t.Errorf("a bomb of headers of the type %q: %v", typ, err)
		}
	}
	// A hard link becomes a file of its own in dest.
	links := []tartest.Member{{Name: "a", Body: strings.Repeat("x", 600)}, {Name: "b", Type: tar.TypeLink, Body: "a"}, {Name: "c", Type: tar.TypeLink, Body: "b"}}
	if _, err := indexBytes(t, tartest.Make(t, links...), 1800); err != nil {
		t.Errorf("hard links: %v", err)
	}
	if _, err := indexBytes(t, tartest.Make(t, links...), 1799); err == nil || !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb of hard links: %v", err)
	}
	// Headers count, too, if there are very many.
	many := bytes.Repeat(tartest.Make(t, tartest.Member{Name: "empty"})[:512], (indexFree+2000)/512)
	if _, err := indexBytes(t, many, 1000); err == nil || !strings.Contains(err.Error(), "-max-size") {
		t.Errorf("a bomb of headers: %v", err)
	}
}

// Files that all have other owners take more memory than those of one owner.
func TestArchiveMemoryLimit(t *testing.T) {
	t.Parallel()
	const n = 10_000
	index := func(uid func(i int) int) error {
		var headers []*tar.Header
		for i := range n {
			headers = append(headers, &tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Uid: uid(i)})
		}
		data := tartest.MakeHeaders(t, headers...)
		_, err := IndexTar(t.Context(), bytes.NewReader(data), bytes.NewReader(data), Limits{Memory: n * 150})
		return err
	}
	if err := index(func(int) int { return 1000 }); err != nil {
		t.Error(err)
	}
	if err := index(func(i int) int { return i }); err == nil || !strings.Contains(err.Error(), "of memory") {
		t.Errorf("with %d owners: %v", n, err)
	}
}

func TestArchiveArrivalFails(t *testing.T) {
	t.Parallel()
	failed := errors.New("connection reset")
	data := tartest.Make(t, tartest.Member{Name: "a", Body: strings.Repeat("x", 1<<20)})
	for _, c := range compressors {
		packed := tartest.PipeThrough(t, data, c.command...)
		arriving := io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(failed))
		_, err := Index(t.Context(), arriving, nil, Limits{})
		if !errors.Is(err, failed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// contextReader delivers data. Then it calls dry and blocks until its context
// ends.
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

// A reader that is stopped does not wait until its buffers are full, which takes
// minutes on a slow network.
func TestStopReadingAhead(t *testing.T) {
	t.Parallel()
	arrive := make(chan struct{})
	input := readAhead(t.Context(), &slowReader{arrive}, func() {})
	arrive <- struct{}{}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		input.stop()
	}()
	const buffer = 256 << 10
	for n := 0; ; n++ {
		select {
		case arrive <- struct{}{}:
		case <-stopped:
			if n >= buffer-1 {
				t.Errorf("it ended after %d bytes more", n)
			}
			return
		}
	}
}

// slowReader delivers a byte whenever one arrives.
type slowReader struct{ arrive <-chan struct{} }

func (r *slowReader) Read(p []byte) (int, error) {
	<-r.arrive
	return copy(p, "x"), nil
}

// zeros delivers zeros without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestArchiveCancelled(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "a", Body: strings.Repeat("x", 1<<20)})
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	_, err := Index(ctx, &contextReader{ctx, bytes.NewReader(data[:1<<19]), func() { cancel(stopped) }}, nil, Limits{})
	if !errors.Is(err, stopped) {
		t.Errorf("index: %v", err)
	}
}

func TestArchiveNoRoom(t *testing.T) {
	megabyte := tartest.Make(t, tartest.Member{Name: "a", Body: strings.Repeat("x", 1<<20)})
	header := append(tartest.RawHeader("x", tar.TypeXHeader, 1<<20), make([]byte, 1<<20)...)
	for name, test := range map[string]struct {
		options string // of the file system
		data    []byte
	}{
		"less than is read at once": {"size=64k", tartest.Make(t, tartest.Member{Name: "a", Body: strings.Repeat("x", 100<<10)})},
		"more":                      {"size=64k", megabyte},
		"full in the data":          {"size=300k", megabyte},
		"full in the headers":       {"size=300k", header},
	} {
		dir := tartest.MountTmpfs(t, test.options)
		t.Setenv("TMPDIR", dir)
		_, err := Index(t.Context(), bytes.NewReader(tartest.PipeThrough(t, test.data, "gzip", "-c")), nil, Limits{})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "TMPDIR") || strings.Contains(err.Error(), "corrupt") || !Hopeless(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArchiveRootMode(t *testing.T) {
	t.Parallel()
	for _, name := range []string{".", "./", "/", "./."} {
		a := mustIndex(t, tartest.Make(t, tartest.Member{Name: name, Type: tar.TypeDir, Mode: 0o2751}, tartest.Member{Name: "a"}))
		if mode, ok := a.RootMode(); !ok || mode != 0o2751 {
			t.Errorf("%s: %o, %v", name, mode, ok)
		}
	}
	if mode, ok := mustIndex(t, tartest.Make(t, tartest.Member{Name: "a"})).RootMode(); ok {
		t.Errorf("without an entry: %o", mode)
	}
}

func FuzzIndexArchive(f *testing.F) {
	whole := tartest.Make(f, tartest.Member{Name: "d/", Type: tar.TypeDir}, tartest.Member{Name: "d/" + strings.Repeat("n", 200), Body: "x"},
		tartest.Member{Name: "s", Type: tar.TypeSymlink, Body: "d"}, tartest.Member{Name: "s/h", Body: "y"}, tartest.Member{Name: "l", Type: tar.TypeLink, Body: "s/h"})
	f.Add(whole)
	for _, c := range compressors[1:] {
		f.Add(tartest.PipeThrough(f, whole, c.command...))
	}
	for _, sparse := range tartest.SparseArchives(f, map[string][]tartest.Extent{"s": {{Offset: 1 << 16, Length: 5}, {Offset: 1 << 18}}}) {
		f.Add(sparse.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 4 << 20
		a, err := indexBytes(t, data, limit)
		if err != nil {
			return
		}
		size := int64(len(data))
		if a.decompressed != nil {
			size = 0
			for _, half := range a.decompressed {
				info, err := half.Stat()
				if err != nil {
					t.Fatal(err)
				}
				size += info.Size()
			}
		}
		var check func(path string, e *Entry)
		check = func(path string, e *Entry) {
			stored := e.Size
			if e.Segments() != nil {
				stored = 0
				end := int64(0)
				for _, seg := range e.Segments() {
					if seg.Offset < end || seg.Length <= 0 || seg.Length > e.Size-seg.Offset {
						t.Errorf("%s: segment %v after %d of %d", path, seg, end, e.Size)
					}
					end = seg.Offset + seg.Length
					stored += seg.Length
				}
			}
			if e.IsRegular() && (stored < 0 || stored > limit || e.Offset < 0 || e.Offset+stored > size) {
				t.Errorf("%s: %d bytes at %d of %d", path, stored, e.Offset, size)
			}
			for child := range e.Children() {
				name := child.Name
				if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || !e.IsDir() {
					t.Errorf("%q in %q", name, path)
				}
				check(path+"/"+name, child)
			}
		}
		check("", a.Tree.Root)
	})
}
