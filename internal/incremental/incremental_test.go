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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// grow makes a random tree.
func grow(t testing.TB, rng *rand.Rand) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 5 + rng.IntN(30) {
		tartest.WriteFile(t, dir, fmt.Sprintf("dir%d/file%d", i%3, i), tartest.Text(rng, rng.IntN(9000)))
	}
	if rng.IntN(2) == 0 {
		tartest.WriteFile(t, dir, "large-1.0", tartest.Text(rng, 300_000+rng.IntN(900_000)))
	}
	tartest.WriteFile(t, dir, "zero", nil)
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
			b = append(b[:at:at], append(tartest.Text(rng, rng.IntN(300)), b[at:]...)...)
		case 4:
			b = b[:rng.IntN(len(b)+1)]
		case 5:
			if len(b) > 0 {
				b[rng.IntN(len(b))] ^= 1
			}
		case 6:
			tartest.WriteFile(t, dir, "moved/"+name, b)
			return nil
		}
		tartest.WriteFile(t, dir, name, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tartest.WriteFile(t, dir, "new", tartest.Text(rng, rng.IntN(5000)))
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

// open opens a version, and compares the tar and all contents in it.
func (v version) open(t *testing.T, older string, fetch Ranges) (Stats, error) {
	t.Helper()
	_, err := v.openFor(t, Options{Older: older, Changes: true}, fetch)
	stats, err2 := v.openFor(t, Options{Older: older}, fetch)
	if (err == nil) != (err2 == nil) {
		t.Errorf("with changes to come: %v; without: %v", err, err2)
	}
	return stats, err2
}

func (v version) openFor(t *testing.T, o Options, fetch Ranges) (Stats, error) {
	t.Helper()
	o.Size = int64(len(v.file)) * 10
	a, stats, err := Open(t.Context(), v.index, o, fetch)
	if err != nil {
		return stats, err
	}
	defer a.Close()
	s := a.Data().(*scattered)
	between, err := v.index.Between()
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	var tar bytes.Buffer
	if err := s.writeTar(t.Context(), between, &tar); err != nil || !bytes.Equal(tar.Bytes(), v.tar) {
		t.Fatalf("the tar differs, and it was no error: %v", err)
	}
	for i := range s.files {
		f := &s.files[i]
		if o.Changes && f.kept && stats.Fetched > 0 {
			t.Errorf("%s was not copied", f.path)
		}
		// In parts, as if by several readers.
		want := v.tar[s.start(f):s.end(f)]
		for n := range min(len(want), 5) {
			from := n * len(want) / 5
			got := make([]byte, min(len(want)-from, 100_000))
			if n, err := s.ReadAt(got, s.start(f)+int64(from)); n != len(got) || err != nil || !bytes.Equal(got, want[from:from+len(got)]) {
				t.Fatalf("%s from %d: %d bytes, %v", f.path, from, n, err)
			}
		}
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
				if _, err := v.open(t, older, v.fetch); err != nil {
					t.Errorf("%s: %v", older, err)
				}
			}
			same, err := v.open(t, third, v.fetch)
			if err != nil || same.Requests > 0 || same.Fetched > 0 || same.Patched+same.New > 0 {
				t.Errorf("of the same tree: %+v, %v", same, err)
			}
			patched, err := v.open(t, second, v.fetch)
			if err != nil {
				t.Fatal(err)
			}
			plain := packed(t, third)
			unpatched, err := plain.open(t, second, plain.fetch)
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
		// It compares the tar if there is no error.
		if _, err := v.openFor(t, Options{Older: older, Changes: rng.IntN(2) == 0}, damage); err != nil {
			failed++
		}
	}
	if failed < 150 {
		t.Errorf("%d of 200 damaged ranges were noticed", failed)
	}

	cut := func(ctx context.Context, ranges []fetch.Range, read func(context.Context, fetch.Range, io.Reader) error) error {
		return read(ctx, ranges[0], bytes.NewReader(v.file[ranges[0].Offset:end(ranges[0])-1]))
	}
	if _, err := v.open(t, older, cut); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a range that is cut off: %v", err)
	}
}

// A file that changes after it has been hashed is noticed, whatever becomes of it.
func TestChange(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(path string) error{
		"contents": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o644)
		},
		"shorter": func(path string) error { return os.Truncate(path, 1) },
		"gone":    os.Remove,
		"a fifo":  func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644)) },
		"a directory": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o755))
		},
		"a link": func(path string) error { // to the same contents
			return errors.Join(os.Rename(path, path+".moved"), os.Symlink(filepath.Base(path)+".moved", path))
		},
		"below a fifo": func(path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.RemoveAll(dir), syscall.Mkfifo(dir, 0o644))
		},
		"below a link": func(path string) error { // to the same contents
			dir := filepath.Dir(path)
			return errors.Join(os.CopyFS(dir+".moved", os.DirFS(dir)), os.RemoveAll(dir), os.Symlink(filepath.Base(dir)+".moved", dir))
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			older := t.TempDir()
			rng := rand.New(rand.NewPCG(2, 1))
			tartest.WriteFile(t, older, "dir/small", tartest.Text(rng, 5000))
			tartest.WriteFile(t, older, "dir/large", tartest.Text(rng, 900_000))
			v := packed(t, older)
			for _, name := range []string{"dir/small", "dir/large"} {
				older := evolved(t, older)
				a, _, err := Open(t.Context(), v.index, Options{Older: older, Size: 1 << 20}, v.fetch)
				if err != nil {
					t.Fatal(err)
				}
				defer a.Close()
				if err := change(filepath.Join(older, name)); err != nil {
					t.Fatal(err)
				}
				e, err := a.Tree.LookUp(name)
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(io.Discard, io.NewSectionReader(a.Data(), e.Offset, e.Size))
				if !errors.Is(err, ErrChanged) {
					t.Errorf("%s: got %v", name, err)
				}
			}
		})
	}
}

// evolved copies a tree.
func evolved(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A directory that is moved away is still read.
func TestMoved(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 1))
	v := packed(t, grow(t, rng))
	older := evolved(t, grow(t, rand.New(rand.NewPCG(3, 1))))
	a, _, err := Open(t.Context(), v.index, Options{Older: older, Size: 1 << 20}, v.fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := os.Rename(older, older+".moved"); err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Data().(*scattered).files {
		if !f.kept {
			t.Errorf("%s is not kept", f.path)
		}
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(a.Data(), 0, v.index.TarSize)); err != nil {
		t.Error(err)
	}
}

// A file counts as unchanged only if stat(2) says so, and if its last change is old
// enough that a later one would have another time.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	older := t.TempDir()
	tartest.WriteFile(t, older, "file", []byte("contents"))
	tartest.WriteFile(t, older, "other", []byte("contents"))
	stat := func(name string) *unix.Stat_t {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(older, name), &st); err != nil {
			t.Fatal(err)
		}
		return &st
	}
	v := packed(t, older)
	for _, test := range []struct {
		name    string
		changes bool
		age     time.Duration
		change  func() error
		want    bool
	}{
		{name: "as it was", age: time.Minute, want: true},
		{name: "recent", age: time.Second},
		{name: "from the future", age: -time.Minute},
		{name: "commands to come", age: time.Minute, changes: true},
		{name: "written to", age: time.Minute, change: func() error { return os.WriteFile(filepath.Join(older, "file"), []byte("CONTENTS"), 0o644) }},
	} {
		s := &scattered{index: v.index}
		if !test.changes {
			s.unchanging = newUnchanging()
			s.unchanging.start = time.Unix(stat("file").Ctim.Unix()).Add(test.age)
		}
		var err error
		if s.older, err = openOlder(older); err != nil {
			t.Fatal(err)
		}
		defer s.older.close()
		a, err := readHeaders(t.Context(), v.index, s, archive.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if s.files, err = filesOf(v.index, a.Tree, 32<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := search(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if test.change != nil {
			if err := test.change(); err != nil {
				t.Fatal(err)
			}
		}
		e := a.Tree.Root.Child("file")
		if got := s.Unchanged(e.Offset, stat("file")); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
		if s.Unchanged(e.Offset, stat("other")) || s.Unchanged(e.Offset+1, stat("file")) || s.Unchanged(v.index.TarSize, stat("file")) {
			t.Errorf("%s: another file counts as unchanged", test.name)
		}
	}
}
