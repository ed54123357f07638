package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// unzstd decompresses data with zstdReader. streamed tells whether it came to
// decompress as a stream, without workers.
func unzstd(t testing.TB, data io.Reader) (contents []byte, streamed bool, err error) {
	t.Helper()
	z, err := newZstdReader(t.Context(), bufio.NewReader(data))
	if err != nil {
		return nil, false, err
	}
	defer z.close()
	contents, err = io.ReadAll(io.LimitReader(z, 32<<20))
	return contents, z.stream != nil, err
}

// unzstdPlain does the same with the library alone.
func unzstdPlain(t testing.TB, data []byte) ([]byte, error) {
	t.Helper()
	z, err := zstd.NewReader(onlyReader{bytes.NewReader(data)}, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(io.LimitReader(z, 32<<20))
}

// onlyReader hides the methods of a buffer, which the library decodes differently.
type onlyReader struct{ io.Reader }

// frame returns data compressed to one frame with the size of its contents.
func frame(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(data, nil)
}

func skippable(contents string) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("\x57\x2a\x4d\x18"), uint32(len(contents)))
	return append(b, contents...)
}

// mixed returns n bytes, of which some compress well and some do not.
func mixed(n int) []byte {
	data := make([]byte, n)
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range data {
		if i/1000%3 > 0 {
			data[i] = byte(random.Uint32() >> (i / 3000 % 8))
		}
	}
	return data
}

// The contents are those that zstd(1) finds, and small frames of which the size is
// known do not go through the decoder of streams.
func TestZstdFrames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := mixed(3 << 20)
	source, short := filepath.Join(dir, "data"), filepath.Join(dir, "short")
	for name, contents := range map[string][]byte{source: data, short: data[:1<<20]} {
		if err := os.WriteFile(name, contents, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(command ...string) []byte {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Skip(err)
		}
		return tartest.PipeThrough(t, nil, command...)
	}
	var small []byte
	for part := range slices.Chunk(data, 100_000) {
		small = append(small, frame(t, part)...)
	}
	var packed bytes.Buffer
	w, err := seekable.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	unknown := tartest.PipeThrough(t, data, "zstd", "-c")
	patches := skippable(string(make([]byte, 100_000)))
	for name, test := range map[string]struct {
		packed   func() []byte
		streamed bool
	}{
		"stretcher pack":    {packed.Bytes, false},
		"zstd of a file":    {func() []byte { return run("zstd", "-c", source) }, true},
		"a short one":       {func() []byte { return run("zstd", "-c", short) }, false},
		"without checksum":  {func() []byte { return run("zstd", "-c", "--no-check", short) }, false},
		"two of them":       {func() []byte { return append(run("zstd", "-c", short), run("zstd", "-19", "-c", short)...) }, false},
		"zstd of a pipe":    {func() []byte { return unknown }, true},
		"pzstd":             {func() []byte { return run("pzstd", "-c", "-q", source) }, true},
		"small frames":      {func() []byte { return small }, false},
		"then a stream":     {func() []byte { return slices.Concat(small, unknown, small) }, true},
		"large frame":       {func() []byte { return slices.Concat(small, frame(t, mixed(5<<20)), small) }, true},
		"skippable frames":  {func() []byte { return slices.Concat(patches, small, patches, skippable(""), small, patches) }, false},
		"skippable only":    {func() []byte { return skippable("abc") }, false},
		"empty frames":      {func() []byte { return slices.Concat(frame(t, nil), small, frame(t, nil), frame(t, nil), small) }, false},
		"repeated byte":     {func() []byte { return frame(t, make([]byte, 1<<20)) }, false},
		"not compressible":  {func() []byte { return frame(t, random(1<<20)) }, false},
		"larger by headers": {func() []byte { return frame(t, random(maxFrame)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			packed := test.packed()
			want := tartest.PipeThrough(t, packed, "zstd", "-dc")
			for _, r := range []io.Reader{bytes.NewReader(packed), iotest.HalfReader(bytes.NewReader(packed))} {
				got, streamed, err := unzstd(t, r)
				if err != nil || !bytes.Equal(got, want) || streamed != test.streamed {
					t.Errorf("%d bytes, want %d, or they differ; streamed %v; %v", len(got), len(want), streamed, err)
				}
			}
		})
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// What is wrong with a file is found as by the library, wherever it is.
func TestZstdDamage(t *testing.T) {
	t.Parallel()
	data := mixed(3000)
	one := frame(t, data)
	good := slices.Concat(one, skippable("abc"), one)
	lies := func(size uint16) []byte {
		b := bytes.Clone(one)
		binary.LittleEndian.PutUint16(b[5:], size-256)
		return b
	}
	if !bytes.Equal(lies(3000), one) {
		t.Fatal("the size of the contents is not where it is expected")
	}
	flipped := bytes.Clone(one)
	flipped[len(flipped)-1] ^= 1
	type damage struct {
		packed []byte
		want   error
	}
	tests := []damage{
		{flipped, zstd.ErrCRCMismatch},
		{lies(2999), nil}, // of which only the text is known
		{lies(3001), zstd.ErrFrameSizeMismatch},
		{[]byte("garbage"), zstd.ErrMagicMismatch},
		{frame(t, nil)[:3], io.ErrUnexpectedEOF},
		{[]byte("\x28\xb5\x2f\xfd\x21\x01\x05\x00\x00\x00"), zstd.ErrUnknownDictionary},
		{[]byte("\x28\xb5\x2f\xfd\x20\x05\x07\x00\x00"), zstd.ErrReservedBlockType},
	}
	for n := 1; n < len(one); n += 1 + n/10 {
		tests = append(tests, damage{one[:n], io.ErrUnexpectedEOF}, damage{one[:len(one)-n], io.ErrUnexpectedEOF})
	}
	for _, n := range []int{4, 7, 8, 10} {
		tests = append(tests, damage{skippable("abc")[:n], io.ErrUnexpectedEOF})
	}
	for i, test := range tests {
		for _, packed := range [][]byte{test.packed, slices.Concat(good, test.packed), slices.Concat(good, test.packed, good)} {
			_, plain := unzstdPlain(t, packed)
			_, _, err := unzstd(t, bytes.NewReader(packed))
			if (err == nil) != (plain == nil) {
				t.Errorf("%d: %v, of the library: %v", i, err, plain)
			}
			if followed := len(packed) > len(good)+len(test.packed); !followed && (err == nil || test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("%d: %v, want %v (of the library: %v)", i, err, test.want, plain)
			}
		}
	}
}

// An error of the source, such as that of a cancelled download, is the result, and
// closing leaves no goroutine, whatever has been read.
func TestZstdClose(t *testing.T) {
	t.Parallel()
	one := frame(t, mixed(300_000))
	broken := errors.New("broken")
	for n := range 30 {
		synctest.Test(t, func(t *testing.T) {
			packed := io.MultiReader(bytes.NewReader(bytes.Repeat(one, 20)), bytes.NewReader(one[:n*10]), iotest.ErrReader(broken))
			z, err := newZstdReader(t.Context(), bufio.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			defer z.close()
			if n%2 == 0 {
				if got, err := io.CopyN(io.Discard, z, int64(n*1000)); err != nil {
					t.Errorf("%d bytes: %v", got, err)
				}
			} else if got, err := io.Copy(io.Discard, z); err != broken || got < 20*300_000 {
				t.Errorf("%d bytes: %v", got, err)
			}
		})
	}
}

// The same bytes as the library's, or an error where it has one.
func FuzzZstd(f *testing.F) {
	one, none := frame(f, mixed(3000)), frame(f, nil, zstd.WithEncoderCRC(false))
	for _, seed := range [][]byte{
		nil, one, none, slices.Concat(one, none, one), slices.Concat(skippable("abc"), one, skippable("")),
		one[:len(one)-2], append(bytes.Clone(one), "garbage"...), frame(f, make([]byte, 100)), frame(f, random(100)),
		frame(f, mixed(3000), zstd.WithSingleSegment(false), zstd.WithWindowSize(1024)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, _, err := unzstd(t, bytes.NewReader(data))
		want, plain := unzstdPlain(t, data)
		if (err == nil) != (plain == nil) {
			t.Fatalf("%v, of the library: %v", err, plain)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, of the library: %d, or they differ", len(got), len(want))
		}
	})
}

// BenchmarkZstd decompresses the file that ZSTD names, or else some small frames.
func BenchmarkZstd(b *testing.B) {
	packed, err := os.ReadFile(cmp.Or(os.Getenv("ZSTD"), os.DevNull))
	if err != nil {
		b.Fatal(err)
	}
	if len(packed) == 0 {
		packed = bytes.Repeat(frame(b, mixed(128<<10)), 100)
	}
	for b.Loop() {
		z, err := newZstdReader(b.Context(), bufio.NewReader(bytes.NewReader(packed)))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, z)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		z.close()
	}
}
