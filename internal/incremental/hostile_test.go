package incremental

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// indexOf returns the index of an archive of the files that write writes.
func indexOf(t testing.TB, write func(w *seekable.Writer)) *seekable.Index {
	t.Helper()
	w, err := seekable.NewWriter(new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(w)
	x, err := w.Index()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// scatteredOver returns the contents of files, of which dir has some.
func scatteredOver(t *testing.T, dir string, x *seekable.Index, files ...file) *scattered {
	t.Helper()
	older, err := openOlder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(older.close)
	return &scattered{index: x, files: files, older: older}
}

// What dest has besides, such as logs and databases, is not read beyond a limit, and
// reading ends with the context.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "small", []byte("contents"))
	for i := range 3 {
		name := filepath.Join(dir, fmt.Sprint("huge", i))
		tartest.WriteFile(t, dir, filepath.Base(name), nil)
		if err := os.Truncate(name, 1<<50); err != nil {
			t.Skipf("the file system has no files of a petabyte: %v", err)
		}
	}
	sum := seekable.SumOf([]byte("contents"))
	x := &seekable.Index{TarSize: 10 << 10, Pieces: []seekable.Piece{
		{Offset: 512, Size: 8, Sum: sum}, {Offset: 1536, Size: 8, Sum: seekable.Sum{1}}, {Offset: 2560, Size: 8, Sum: seekable.Sum{2}}}}
	s := scatteredOver(t, dir, x, file{path: "moved", first: 0, last: 0}, file{path: "huge0", first: 1, last: 2})
	start := time.Now()
	h, err := search(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}

	h.budget.Store(math.MaxInt64)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.hashAll(ctx, []string{"huge0"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A large file is read once, although many patches were made against it: otherwise
// nothing would be left of what may be read for other files.
func TestBaseIsReadOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := tartest.Text(rand.New(rand.NewPCG(6, 6)), 600_000)
	tartest.WriteFile(t, dir, "old", old)
	x := &seekable.Index{TarSize: 10 << 10, Pieces: []seekable.Piece{{Offset: 512, Size: 8, Sum: seekable.Sum{1}}}}
	base := seekable.Base{Path: "old", FileSize: int64(len(old)), FileSum: seekable.SumOf(old)}
	for range 50 {
		x.Patches = append(x.Patches, seekable.Patch{TarOffset: 512, TarSize: 8, Base: base})
	}
	h, err := search(t.Context(), scatteredOver(t, dir, x, file{path: "new"}))
	if err != nil {
		t.Fatal(err)
	}
	if h.whole[baseKey{base.FileSize, base.FileSum}] != "old" {
		t.Error("the base was not found")
	}
	if read := 2*x.TarSize + 16<<20 - h.budget.Load(); read != base.FileSize {
		t.Errorf("%d bytes were read of a file of %d", read, base.FileSize)
	}
}

// Files of other kinds in the place of files neither hang nor are read.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	outside, dir := t.TempDir(), t.TempDir()
	tartest.WriteFile(t, outside, "secret", []byte("contents"))
	for name, target := range map[string]string{"link": filepath.Join(outside, "secret"), "dir": outside, "up": "../..", "loop": "loop", "null": "/dev/zero"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	tartest.WriteFile(t, dir, "unreadable", []byte("contents"))
	if err := os.Chmod(filepath.Join(dir, "unreadable"), 0); err != nil {
		t.Fatal(err)
	}
	var files []file
	for _, name := range []string{"link", "dir/secret", "up/x", "loop", "null", "fifo", "fifo/x"} {
		files = append(files, file{path: name})
	}
	x := &seekable.Index{TarSize: 1024, Pieces: []seekable.Piece{{Offset: 512, Size: 8, Sum: seekable.SumOf([]byte("contents"))}}}
	h, err := search(t.Context(), scatteredOver(t, dir, x, files...))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range h.places {
		if at.path != "" && (at.path != "unreadable" || os.Geteuid() != 0) {
			t.Errorf("%s was read", at.path)
		}
	}
}

// No headers that an index may have are taken for the beginning of a compressed file,
// whose decompressor would take memory for its window.
func TestCompressedHeaders(t *testing.T) {
	t.Parallel()
	for _, magic := range []string{"\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh9\x31\x41\x59\x26\x53\x59"} {
		x := indexOf(t, func(w *seekable.Writer) { fmt.Fprintf(w, "%-1024s", magic) })
		_, err := readHeaders(t.Context(), x, nil, archive.Limits{})
		if err == nil || !strings.Contains(err.Error(), "not a tar archive") {
			t.Errorf("%q: %v", magic, err)
		}
	}
}

// A piece anywhere but in the contents of a regular file is an error.
func TestPiecesOverHeaders(t *testing.T) {
	t.Parallel()
	v := packed(t, grow(t, rand.New(rand.NewPCG(3, 3))))
	a, err := readHeaders(t.Context(), v.index, nil, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for i := range v.index.Pieces {
		x := *v.index
		x.Pieces = append([]seekable.Piece(nil), x.Pieces...)
		p := &x.Pieces[i]
		for _, change := range []func(){func() { p.Offset-- }, func() { p.Offset++ }, func() { p.Offset -= 512 }, func() { p.Size += 512 }} {
			*p = v.index.Pieces[i]
			change()
			if _, err := filesOf(&x, a.Tree, 32<<20); err == nil && p.Size <= seekable.MaxChunk && !within(*p, v.index.Pieces) {
				t.Errorf("piece %d: %+v is no error", i, *p)
			}
		}
	}
}

// within reports whether a piece is within the place of consecutive ones.
func within(p seekable.Piece, pieces []seekable.Piece) bool {
	var start, end int64
	for _, q := range pieces {
		if q.Offset != end {
			start = q.Offset
		}
		end = q.Offset + q.Size
		if p.Offset >= start && p.Offset+p.Size <= end {
			return true
		}
	}
	return false
}

// Patches that all make the same pieces would take hours to compare.
func TestOverlappingPatches(t *testing.T) {
	t.Parallel()
	x := &seekable.Index{TarSize: 1 << 20, Frames: []seekable.Frame{{Size: 1000, TarSize: 1 << 20}}}
	const pieces, patches = 1 << 12, 1 << 10 // an index can have hundreds of times as many
	for i := range int64(pieces) {
		x.Pieces = append(x.Pieces, seekable.Piece{Offset: i, Size: 1, Sum: seekable.Sum{byte(i), byte(i >> 8)}})
	}
	for i := range int64(patches) {
		x.Patches = append(x.Patches, seekable.Patch{Offset: 2000 + i, Size: 1, TarSize: pieces})
	}
	h := &had{scattered: &scattered{index: x, files: []file{{last: int32(len(x.Pieces) - 1)}}}}
	if _, err := newPlan(h); err == nil {
		t.Error("no error")
	}
}

// A small index can have long paths, which would take gigabytes.
func TestLongPaths(t *testing.T) {
	t.Parallel()
	dir := archive.NewTree()
	root := dir.Root
	for range 16 {
		next := &archive.Entry{Name: strings.Repeat("d", 255), Mode: syscall.S_IFDIR}
		root.Put(next)
		root = next
	}
	for i := range 1 << 15 {
		root.Put(&archive.Entry{Name: fmt.Sprint(i), Mode: syscall.S_IFREG, Size: 1, Offset: int64(i)})
	}
	if _, err := filesOf(&seekable.Index{}, dir, 32<<20); err == nil {
		t.Error("no error")
	}
}

// FuzzRebuild changes an index and the file at random. What comes out is an error, or
// the right tar.
func FuzzRebuild(f *testing.F) {
	for seed := range uint64(64) { // with up to three changes of the index, and of the file
		f.Add(seed, uint8(seed*5))
	}
	rng := rand.New(rand.NewPCG(4, 4))
	older := f.TempDir()
	for i := range 10 {
		tartest.WriteFile(f, older, fmt.Sprint("file", i), tartest.Text(rng, 3000))
	}
	tartest.WriteFile(f, older, "large", tartest.Text(rng, 600_000))
	v := packed(f, evolve(f, rng, older), older)
	f.Fuzz(func(t *testing.T, seed uint64, changes uint8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		encoded, err := v.index.Encode()
		if err != nil {
			t.Fatal(err)
		}
		x, err := seekable.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		for range changes % 4 {
			mutate(rng, x)
		}
		damaged := v
		damaged.file = bytes.Clone(v.file)
		for range changes / 64 {
			damaged.file[rng.IntN(len(damaged.file))] ^= 1 << rng.IntN(8)
		}
		if encoded, err = x.Encode(); err != nil {
			return
		}
		if damaged.index, err = seekable.Decode(encoded); err != nil {
			return
		}
		for _, r := range damaged.index.Frames {
			if r.Offset+r.Size > int64(len(v.file)) {
				return // the server would answer 416
			}
		}
		for _, p := range damaged.index.Patches {
			if p.Offset+p.Size > int64(len(v.file)) {
				return
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = damaged.open(t, older, damaged.fetch) // compares the tar
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
			t.Errorf("%d bytes were allocated: %v", n, err)
		}
	})
}

// mutate changes a field of an index.
func mutate(rng *rand.Rand, x *seekable.Index) {
	number := func(n *int64) {
		switch rng.IntN(5) {
		case 0:
			*n += rng.Int64N(3) - 1
		case 1:
			*n = rng.Int64N(1 << 20)
		case 2:
			*n = rng.Int64()
		case 3:
			*n += 512 * (rng.Int64N(5) - 2)
		case 4:
			*n = 0
		}
	}
	p, f := &x.Pieces[rng.IntN(len(x.Pieces))], &x.Frames[rng.IntN(len(x.Frames))]
	fields := []*int64{&x.TarSize, &p.Offset, &p.Size, &f.Size, &f.TarSize}
	if len(x.Patches) > 0 {
		q := &x.Patches[rng.IntN(len(x.Patches))]
		fields = append(fields, &q.Offset, &q.Size, &q.TarOffset, &q.TarSize, &q.Base.FileSize, &q.Base.Offset, &q.Base.Size)
		switch rng.IntN(8) {
		case 0:
			q.Base.FileSum = x.Pieces[rng.IntN(len(x.Pieces))].Sum
		case 1:
			q.Base = seekable.Base{}
		case 2:
			q.Base.Path = "../../etc/passwd"
		}
	}
	switch rng.IntN(8) {
	case 0:
		p.Sum = x.Pieces[rng.IntN(len(x.Pieces))].Sum
	case 1: // two pieces in the place of another
		q := x.Pieces[rng.IntN(len(x.Pieces))]
		p.Size, p.Sum = q.Size, q.Sum
	case 2:
		i := rng.IntN(len(x.Pieces))
		x.Pieces = append(x.Pieces[:i], x.Pieces[i+1:]...)
	case 3:
		x.TarSum = sha256.Sum256(nil)
	default:
		number(fields[rng.IntN(len(fields))])
	}
}

// zstd(1) decompresses a patch with --patch-from, the base being the old file.
func TestPatchFrom(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip("there is no zstd(1)")
	}
	rng := rand.New(rand.NewPCG(5, 5))
	older, newer := t.TempDir(), t.TempDir()
	old := tartest.Text(rng, 900_000)
	tartest.WriteFile(t, older, "file", old)
	tartest.WriteFile(t, newer, "file", append(append(bytes.Clone(old[:400_000]), "inserted"...), old[400_000:]...))
	v := packed(t, newer, older)
	if len(v.index.Patches) == 0 {
		t.Fatal("there is no patch")
	}
	for _, p := range v.index.Patches {
		dir := t.TempDir()
		tartest.WriteFile(t, dir, "base", old[p.Base.Offset:][:p.Base.Size])
		tartest.WriteFile(t, dir, "patch.zst", v.file[p.Offset:][:p.Size])
		c := exec.CommandContext(t.Context(), "zstd", "-dcq", "--patch-from=base", "patch.zst")
		c.Dir = dir
		got, err := c.Output()
		if err != nil || !bytes.Equal(got, v.tar[p.TarOffset:][:p.TarSize]) {
			t.Errorf("zstd: %v, %d bytes of %d", err, len(got), p.TarSize)
		}
	}
}

// A sparse file, which stretcher pack does not make, is compared as of any other archive:
// its digests are those of what the tar has of it, and dest has the holes as well.
func TestSparse(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU")) {
		t.Skip("there is no GNU tar(1)")
	}
	dir, dest := t.TempDir(), filepath.Join(t.TempDir(), "dest")
	tartest.WriteFile(t, dir, "plain", []byte("contents"))
	tartest.WriteFile(t, dir, "sparse", []byte("at its begin"))
	if err := os.Truncate(filepath.Join(dir, "sparse"), 3<<20); err != nil {
		t.Fatal(err)
	}
	tar, err := exec.CommandContext(t.Context(), "tar", "-S", "--format=posix", "-C", dir, "-c", "plain", "sparse").Output()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := archive.IndexTar(t.Context(), bytes.NewReader(tar), bytes.NewReader(tar), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := seekable.NewWriter(&file)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	at := int64(0)
	for _, name := range []string{"plain", "sparse"} {
		e, err := whole.Tree.LookUp(name)
		if err != nil {
			t.Fatal(err)
		}
		if (e.Segments() != nil) != (name == "sparse") {
			t.Skipf("%s: sparse is not what was expected on this file system", name)
		}
		end := e.Offset + e.StoredSize()
		_, first := w.Write(tar[at:e.Offset])
		announced := w.File(e.StoredSize())
		_, second := w.Write(tar[e.Offset:end])
		if err := errors.Join(first, announced, second); err != nil {
			t.Fatal(err)
		}
		at = end
	}
	if _, err := w.Write(tar[at:]); err != nil {
		t.Fatal(err)
	}
	index, err := w.Index()
	if err != nil {
		t.Fatal(err)
	}
	v := version{file.Bytes(), tar, index}
	if err := os.CopyFS(dest, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // with the contents of dest, and those of the archive
		a, _, err := Open(t.Context(), v.index, Options{Older: dest, Size: 1 << 20}, v.fetch)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(treesync.Sync(t.Context(), a, dest, treesync.Options{Mode: 0o755}), a.Close())
		got, readErr := os.ReadFile(filepath.Join(dest, "sparse"))
		want := append([]byte("at its begin"), make([]byte, 3<<20-12)...)
		if err := errors.Join(err, readErr); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v: %d bytes, expected %d", err, len(got), len(want))
		}
		tartest.WriteFile(t, dest, "sparse", bytes.Repeat([]byte("x"), 3<<20))
	}
}

// Copying from dest and verifying end with the context, however large a file is.
func TestLargeFileIsCancelled(t *testing.T) {
	t.Parallel()
	const size = 1 << 40 // bytes, all of them in holes
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "huge", nil)
	if err := os.Truncate(filepath.Join(dir, "huge"), size); err != nil {
		t.Skipf("the file system cannot have the file: %v", err)
	}
	zeros := seekable.SumOf(make([]byte, seekable.MaxChunk))
	x := &seekable.Index{TarSize: size}
	for i := range int64(1 << 19) {
		x.Pieces = append(x.Pieces, seekable.Piece{Offset: i * seekable.MaxChunk, Size: seekable.MaxChunk, Sum: zeros})
	}
	s := scatteredOver(t, dir, x, file{path: "huge", last: int32(len(x.Pieces) - 1), kept: true})
	for name, work := range map[string]func(context.Context) error{
		"verify": func(ctx context.Context) error { return s.writeTar(ctx, bytes.NewReader(nil), io.Discard) },
		"copy": func(ctx context.Context) (err error) {
			if s.tar, err = unixfs.TempFile(); err != nil {
				return err
			}
			defer s.tar.Close()
			return (&had{scattered: s}).copy(ctx, true)
		},
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("stopped"))
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- work(ctx) }()
		select {
		case err := <-ended:
			if err == nil || err.Error() != "stopped" {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s goes on after the context has ended", name)
		}
	}
}
