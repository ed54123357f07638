package incremental

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// contents returns size bytes, some of which repeat.
func contents(rng *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		b = fmt.Appendf(b, "%x and %x, ", rng.IntN(1e6), rng.IntN(1e6))
	}
	return b[:size]
}

func write(t testing.TB, dir, name string, contents []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, contents, 0o644); err != nil {
		t.Fatal(err)
	}
}

// grow makes a random tree.
func grow(t testing.TB, rng *rand.Rand) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 5 + rng.IntN(30) {
		write(t, dir, fmt.Sprintf("dir%d/file%d", i%3, i), contents(rng, rng.IntN(9000)))
	}
	if rng.IntN(2) == 0 {
		write(t, dir, "large-1.0", contents(rng, 300_000+rng.IntN(900_000)))
	}
	write(t, dir, "zero", nil)
	return dir
}

// evolve copies a tree with random changes.
func evolve(t testing.TB, rng *rand.Rand, from string) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch rng.IntN(12) {
		case 0:
			return nil // removed
		case 1:
			name += "0"
		case 2, 3:
			at := rng.IntN(len(b) + 1)
			b = append(b[:at:at], append(contents(rng, rng.IntN(300)), b[at:]...)...)
		case 4:
			b = b[:rng.IntN(len(b)+1)]
		case 5:
			if len(b) > 0 {
				b[rng.IntN(len(b))] ^= 1
			}
		case 6:
			write(t, dir, "moved/"+name, b)
			return nil
		}
		write(t, dir, name, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "new", contents(rng, rng.IntN(5000)))
	return dir
}

// version is a tree that has been packed.
type version struct {
	file, tar []byte
	index     *seekable.Index
}

func packed(t testing.TB, dir string, bases ...string) version {
	t.Helper()
	var o pack.Options
	for _, dir := range bases {
		base, err := pack.DirBase(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		o.Bases = append(o.Bases, base)
	}
	var file, tar bytes.Buffer
	r, err := pack.Dir(t.Context(), dir, &file, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pack.Dir(t.Context(), dir, &tar, pack.Options{Format: "tar"}); err != nil {
		t.Fatal(err)
	}
	x, err := seekable.Decode(file.Bytes()[r.Index.Offset:][:r.Index.Size])
	if err != nil {
		t.Fatal(err)
	}
	return version{file.Bytes(), tar.Bytes(), x}
}

// fetch reads ranges from the file.
func (v version) fetch(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error {
	for _, r := range ranges {
		if err := read(ctx, r, bytes.NewReader(v.file[r.Offset:end(r)])); err != nil {
			return err
		}
	}
	return nil
}

// rebuild rebuilds a version, and compares the tar.
func (v version) rebuild(t *testing.T, older string, fetch Fetch) (Stats, error) {
	t.Helper()
	tar, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	a, stats, err := Rebuild(t.Context(), v.index, int64(len(v.file))*10, older, tar, archive.Limits{}, fetch)
	if err != nil {
		return stats, err
	}
	defer a.Close()
	got, err := os.ReadFile(tar.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, v.tar) {
		t.Fatal("the tar differs, and it was no error")
	}
	return stats, nil
}

// From any older tree, and with patches against any, the tar comes out.
func TestRebuild(t *testing.T) {
	t.Parallel()
	for n := range 6 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			first := grow(t, rng)
			second := evolve(t, rng, first)
			third := evolve(t, rng, second)
			v := packed(t, third, second, first)
			for _, older := range []string{first, second, third, grow(t, rng), t.TempDir(), filepath.Join(first, "missing")} {
				if _, err := v.rebuild(t, older, v.fetch); err != nil {
					t.Errorf("%s: %v", older, err)
				}
			}
			same, err := v.rebuild(t, third, v.fetch)
			if err != nil || same.Requests > 0 || same.Fetched > 0 || same.Patched+same.New > 0 {
				t.Errorf("of the same tree: %+v, %v", same, err)
			}
			patched, err := v.rebuild(t, second, v.fetch)
			if err != nil {
				t.Fatal(err)
			}
			plain := packed(t, third)
			unpatched, err := plain.rebuild(t, second, plain.fetch)
			if err != nil {
				t.Fatal(err)
			}
			if patched.Fetched > unpatched.Fetched+minGap*int64(unpatched.Requests) {
				t.Errorf("with patches %+v, without %+v", patched, unpatched)
			}
		})
	}
}

// A tar that differs is an error, whoever it is that is wrong.
func TestDamage(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	older := grow(t, rng)
	v := packed(t, evolve(t, rng, older), older)
	failed := 0
	for range 200 {
		damage := func(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error {
			r := ranges[rng.IntN(len(ranges))]
			broken := version{file: bytes.Clone(v.file)}
			broken.file[r.Offset+rng.Int64N(r.Size)] ^= 1 << rng.IntN(8)
			return broken.fetch(ctx, ranges, read)
		}
		if _, err := v.rebuild(t, older, damage); err != nil { // rebuild compares the tar otherwise
			failed++
		}
	}
	if failed < 150 {
		t.Errorf("%d of 200 damaged ranges were noticed", failed)
	}

	cut := func(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error {
		return read(ctx, ranges[0], bytes.NewReader(v.file[ranges[0].Offset:end(ranges[0])-1]))
	}
	if _, err := v.rebuild(t, older, cut); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a range that is cut off: %v", err)
	}
}

// A file that changes after it has been hashed is noticed.
func TestChange(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 1))
	older := grow(t, rng)
	v := packed(t, evolve(t, rng, older), older)
	x := v.index
	a, err := readHeaders(t.Context(), x, nil, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	files, err := filesOf(x, a.Tree)
	if err != nil {
		t.Fatal(err)
	}
	h, err := search(t.Context(), x, files, older)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for _, at := range h.places {
		write(t, older, at.path, []byte("changed"))
	}
	tar, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	if err := h.write(t.Context(), x, tar); !errors.Is(err, errPiece) {
		t.Errorf("got %v", err)
	}
}
