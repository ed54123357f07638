package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// versions makes a tree, and a later version of it.
func versions(t *testing.T, rng *rand.Rand) (older, newer string) {
	t.Helper()
	older, newer = t.TempDir(), t.TempDir()
	for i := range 40 {
		name := fmt.Sprintf("dir%d/file%d", i%3, i)
		contents := tartest.Text(rng, 1+rng.IntN(8000))
		tartest.WriteFile(t, older, name, contents)
		switch i % 8 {
		case 0: // changed
			contents = append(tartest.Text(rng, 100), contents...)
		case 1: // moved
			name += ".moved"
		case 2: // gone
			continue
		}
		tartest.WriteFile(t, newer, name, contents)
	}
	tartest.WriteFile(t, newer, "new", tartest.Text(rng, 5000))
	large := tartest.Text(rng, 2<<20)
	tartest.WriteFile(t, older, "lib-1.0.so", large)
	copy(large[1<<20:], tartest.Text(rng, 1000))
	tartest.WriteFile(t, newer, "lib-1.1.so", append([]byte("inserted"), large...))
	return older, newer
}

func packDir(t *testing.T, dir string, o Options) ([]byte, Result) {
	t.Helper()
	var out bytes.Buffer
	r, err := Dir(t.Context(), dir, &out, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != int64(out.Len()) || r.Sum != sha256.Sum256(out.Bytes()) {
		t.Fatal("the result does not describe the archive")
	}
	return out.Bytes(), r
}

// untar extracts an archive with tar(1).
func untar(t *testing.T, archive []byte, format string) string {
	t.Helper()
	dir := t.TempDir()
	option := map[string]string{"zst": "--zstd", "gz": "--gzip", "tar": "--no-auto-compress"}[format]
	cmd := exec.CommandContext(t.Context(), "tar", "-xp", option, "-C", dir)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return dir
}

// same compares two trees by rsync(1).
func same(t *testing.T, a, b string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "rsync", "-naic", "-H", "--delete", "--omit-dir-times", "--no-times", a+"/", b+"/").CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v: the trees differ:\n%s", err, out)
	}
}

// tar(1) extracts what was packed.
func TestFormats(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"tar", "rsync", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s(1)", program)
		}
	}
	dir, _ := versions(t, rand.New(rand.NewPCG(1, 0)))
	tartest.WriteFile(t, dir, strings.Repeat("n", 200)+"/"+strings.Repeat("m", 200), []byte("long"))
	tartest.WriteFile(t, dir, "\xff\nname", nil)
	tartest.WriteFile(t, dir, "\xfe\ndir/\xff", []byte("in a directory whose name is not UTF-8"))
	for _, step := range []error{
		os.Symlink("../outside", filepath.Join(dir, "link")),
		os.Link(filepath.Join(dir, "dir0/file0"), filepath.Join(dir, "zlink")),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
		os.Chmod(filepath.Join(dir, "dir0/file3"), 0o755|os.ModeSetuid),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, format := range []string{"zst", "gz", "tar"} {
		archive, r := packDir(t, dir, Options{Format: format})
		if plain, _ := packDir(t, dir, Options{Format: "tar"}); r.TarSize != int64(len(plain)) {
			t.Errorf("%s: a tar of %d bytes, expected %d", format, r.TarSize, len(plain))
		}
		if (r.Index != nil) != (format == "zst") {
			t.Errorf("%s: index %v", format, r.Index)
		}
		extracted := untar(t, archive, format)
		same(t, dir, extracted)
		if again, _ := packDir(t, dir, Options{Format: format}); !bytes.Equal(archive, again) {
			t.Errorf("%s: packing again gave other bytes", format)
		}
	}
}

func TestExcludesAndTimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "keep", nil)
	tartest.WriteFile(t, dir, "skip.tmp", nil)
	tartest.WriteFile(t, dir, "sub/deep/x", nil)
	if err := os.Chtimes(filepath.Join(dir, "keep"), time.Time{}, time.Unix(100, 5)); err != nil {
		t.Fatal(err)
	}
	archive, r := packDir(t, dir, Options{Format: "tar", Excludes: []string{"*.tmp", "/sub/deep"}, Latest: time.Unix(1000, 0)})
	cmd := exec.CommandContext(t.Context(), "tar", "-tv", "--utc", "--numeric-owner", "--full-time")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.CombinedOutput()
	if err != nil || r.Files != 2 || !strings.Contains(string(out), "1970-01-01 00:01:40 keep") || !strings.Contains(string(out), "1970-01-01 00:16:40 sub/") {
		t.Errorf("%v, %d files:\n%s", err, r.Files, out)
	}
}

// With its base, each patch makes the part of the tar that the index says.
func TestPatches(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 0))
	older, newer := versions(t, rng)
	base, err := DirBase(t.Context(), older)
	if err != nil {
		t.Fatal(err)
	}
	archive, r := packDir(t, newer, Options{Bases: []*Base{base}})
	plain, _ := packDir(t, newer, Options{Format: "tar"})
	x, err := seekable.Decode(archive[r.Index.Offset:][:r.Index.Size])
	if err != nil {
		t.Fatal(err)
	}
	// Five files have changed, and the large one in two places. The new file has a
	// data frame almost for itself.
	if len(r.Patches) != 1 || r.Patches[0].Count != 7 || len(x.Patches) != 7 || r.Patches[0].Size > 5000 {
		t.Errorf("patches: %+v", r.Patches)
	}
	for _, p := range x.Patches {
		contents := plain[p.TarOffset:][:p.TarSize]
		options := []zstd.DOption{zstd.WithDecoderMaxMemory(seekable.MaxFrame)}
		if p.Base != (seekable.Base{}) {
			name := p.Base.Path
			if name == "" {
				name = nameAt(t, plain, p.TarOffset)
			}
			old, err := os.ReadFile(filepath.Join(older, name))
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(old)) != p.Base.FileSize || seekable.SumOf(old) != p.Base.FileSum {
				t.Errorf("%s: wrong size or digest", name)
			}
			options = append(options, zstd.WithDecoderDictRaw(0, old[p.Base.Offset:][:p.Base.Size]))
		}
		z, err := zstd.NewReader(nil, options...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := z.DecodeAll(archive[p.Offset:][:p.Size], nil)
		z.Close()
		if err != nil || !bytes.Equal(got, contents) {
			t.Errorf("the patch for %d bytes at %d: %v", p.TarSize, p.TarOffset, err)
		}
	}
	if again, _ := packDir(t, newer, Options{Bases: []*Base{base}}); !bytes.Equal(archive, again) {
		t.Error("packing again gave other bytes")
	}
}

// A file that was empty in the base is like a new one: a patch against it would be of
// no use to agents, which have nothing to recognize the base by.
func TestEmptyBase(t *testing.T) {
	t.Parallel()
	older, newer := t.TempDir(), t.TempDir()
	rng := rand.New(rand.NewPCG(3, 0))
	for i := range 10 { // so that a patch is smaller than the data frame of all of them
		name := fmt.Sprint("file", i)
		contents := tartest.Text(rng, 8000)
		tartest.WriteFile(t, newer, name, contents)
		if i == 5 {
			contents = nil
		}
		tartest.WriteFile(t, older, name, contents)
	}
	base, err := DirBase(t.Context(), older)
	if err != nil {
		t.Fatal(err)
	}
	archive, r := packDir(t, newer, Options{Bases: []*Base{base}})
	x, err := seekable.Decode(archive[r.Index.Offset:][:r.Index.Size])
	if err != nil || len(x.Patches) != 1 || x.Patches[0].Base != (seekable.Base{}) {
		t.Errorf("%v: %+v", err, x.Patches)
	}
}

// nameAt returns the name in the header before an offset of a tar of short names.
func nameAt(t *testing.T, tar []byte, offset int64) string {
	t.Helper()
	header := offset - offset%512 - 512
	name, _, _ := bytes.Cut(tar[header:][:100], []byte{0})
	return string(name)
}

// A file that changes while it is packed is an error.
func TestChanging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "a", make([]byte, 1<<20))
	for name, change := range map[string]func() error{
		"appended to": func() error { return os.WriteFile(filepath.Join(dir, "b"), []byte("before and after"), 0o644) },
		"replaced": func() error {
			tartest.WriteFile(t, dir, "c", []byte("after!"))
			return os.Rename(filepath.Join(dir, "c"), filepath.Join(dir, "b"))
		},
		"removed": func() error { return os.Remove(filepath.Join(dir, "b")) },
	} {
		tartest.WriteFile(t, dir, "b", []byte("before"))
		out := &onWrite{do: change}
		_, err := Dir(t.Context(), dir, out, Options{Format: "tar"})
		if out.err != nil || err == nil || !strings.HasPrefix(err.Error(), "b changed while it was packed") {
			t.Errorf("%s: %v, %v", name, err, out.err)
		}
	}
}

// A base that changes after it has been hashed is an error, too: no host could use the
// patches against it.
func TestChangingBase(t *testing.T) {
	t.Parallel()
	older, newer := versions(t, rand.New(rand.NewPCG(4, 0)))
	base, err := DirBase(t.Context(), older)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(older, "lib-1.0.so")
	contents, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	contents[len(contents)/2] ^= 1
	if err := os.WriteFile(name, contents, 0o644); err != nil {
		t.Fatal(err)
	}
	want := "patches against " + older + ": " + name + " changed while it was read"
	if _, err := Dir(t.Context(), newer, io.Discard, Options{Bases: []*Base{base}}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, expected %s", err, want)
	}
}

// onWrite calls do once, when something is written.
type onWrite struct {
	do  func() error
	err error
}

func (w *onWrite) Write(p []byte) (int, error) {
	if w.do != nil {
		w.err = w.do()
		w.do = nil
	}
	return len(p), nil
}

// An interruption ends the packing of a large file.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "large", nil)
	if err := os.Truncate(filepath.Join(dir, "large"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"tar", "zst"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		interrupted := errors.New("interrupted")
		out := &onWrite{do: func() error { cancel(interrupted); return nil }}
		if _, err := Dir(ctx, dir, out, Options{Format: format}); !errors.Is(err, interrupted) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// Reading a base ends with the context and with the first error, however large its files
// are.
func TestReadingBaseEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "huge", nil)
	const size = 1 << 40 // bytes, all of them in a hole
	if err := os.Truncate(filepath.Join(dir, "huge"), size); err != nil {
		t.Skipf("the file system cannot have the file: %v", err)
	}
	huge := &oldFile{path: "huge", size: size, open: func() (io.ReaderAt, io.Closer, error) {
		f, err := os.Open(filepath.Join(dir, "huge"))
		return f, f, err
	}}
	failed := errors.New("failed")
	broken := &oldFile{path: "broken", size: 1, open: func() (io.ReaderAt, io.Closer, error) { return nil, nil, failed }}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("stopped"))
	defer cancel()
	for name, test := range map[string]struct {
		read func() error
		want string
	}{
		"a directory":           {func() error { _, err := DirBase(ctx, dir); return err }, "stopped"},
		"chunks":                {func() error { _, err := huge.chunks(ctx); return err }, "stopped"},
		"a file that is broken": {func() error { return hashAll(t.Context(), []*oldFile{broken, huge}, nil) }, "failed"},
	} {
		ended := make(chan error, 1)
		go func() { ended <- test.read() }()
		select {
		case err := <-ended:
			if err == nil || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: reading goes on", name)
		}
	}
	short := &oldFile{path: "short", size: 10, open: func() (io.ReaderAt, io.Closer, error) {
		return strings.NewReader("12345"), io.NopCloser(nil), nil
	}}
	if err := short.hash(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that has become shorter: %v", err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "a", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dir(ctx, dir, &bytes.Buffer{}, Options{}); err == nil {
		t.Error("a cancelled context is no error")
	}
	for _, o := range []Options{{Format: "zip"}, {Excludes: []string{"*"}}, {Excludes: []string{"+ "}}} {
		if _, err := Dir(t.Context(), dir, &bytes.Buffer{}, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if _, err := Dir(t.Context(), filepath.Join(dir, "missing"), &bytes.Buffer{}, Options{}); err == nil {
		t.Error("a missing directory is no error")
	}
}

// An archive in the directory that is packed would be a part of itself.
func TestArchiveInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tartest.WriteFile(t, dir, "a", nil)
	tartest.WriteFile(t, dir, "dist/other", nil)
	out, err := os.Create(filepath.Join(dir, "dist/archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := Dir(t.Context(), dir, out, Options{}); err == nil || !strings.Contains(err.Error(), "-o") {
		t.Errorf("the archive packs itself: %v", err)
	}
	if r, err := Dir(t.Context(), dir, out, Options{Excludes: []string{"/dist"}}); err != nil || r.Files != 1 {
		t.Errorf("in a directory that is excluded: %v, %d files", err, r.Files)
	}
}
