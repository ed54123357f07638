package seekable

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// testFile is a file of a tar that a test packs.
type testFile struct {
	name     string
	contents []byte
}

// text returns size bytes that compress like text.
func text(rng *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		b = fmt.Appendf(b, "word%d ", rng.IntN(3000))
	}
	return b[:size]
}

func testFiles(seed uint64) []testFile {
	rng := rand.New(rand.NewPCG(seed, 0))
	files := []testFile{{"empty", nil}, {"large", text(rng, 700<<10)}, {"exact", text(rng, MaxChunk)}, {"above", text(rng, MaxChunk+1)}}
	for i := range 60 {
		files = append(files, testFile{fmt.Sprintf("dir/%03d", i), text(rng, rng.IntN(8000))})
	}
	return files
}

// writeTar writes files as a tar to w. announce is called with the size of each.
func writeTar(t *testing.T, w io.Writer, files []testFile, announce func(int64) error) {
	t.Helper()
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.contents))}); err != nil {
			t.Fatal(err)
		}
		if err := announce(int64(len(f.contents))); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.contents); err != nil {
			t.Fatal(err)
		}
		if err := tw.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
}

// packed is an archive, with the tar that is in it.
type packed struct {
	tar, file []byte
	index     *Index
	place     Place
}

func packFiles(t *testing.T, files []testFile, patches func(*Writer)) packed {
	t.Helper()
	var p packed
	var plain, out bytes.Buffer
	writeTar(t, &plain, files, func(int64) error { return nil })
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	writeTar(t, w, files, w.File)
	if patches != nil {
		patches(w)
	}
	if p.place, err = w.Finish(); err != nil {
		t.Fatal(err)
	}
	p.tar, p.file = plain.Bytes(), out.Bytes()
	encoded := p.file[p.place.Offset:][:p.place.Size]
	if sha256.Sum256(encoded) != p.place.Sum {
		t.Fatal("the digest of the index is wrong")
	}
	if p.index, err = Decode(encoded); err != nil {
		t.Fatal(err)
	}
	return p
}

// The tar can be made from the index, and from the data frames one by one.
func TestWriter(t *testing.T) {
	t.Parallel()
	files := testFiles(1)
	p := packFiles(t, files, nil)
	x := p.index
	if x.TarSize != int64(len(p.tar)) || x.TarSum != sha256.Sum256(p.tar) {
		t.Errorf("the index describes a tar of %d bytes, expected %d", x.TarSize, len(p.tar))
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxFrame))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for i, f := range x.Frames {
		got, err := z.DecodeAll(p.file[f.Offset:][:f.Size], nil)
		if err != nil || !bytes.Equal(got, p.tar[f.TarOffset:][:f.TarSize]) {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.TarSize > frameTarget+MaxChunk {
			t.Errorf("frame %d has %d bytes", i, f.TarSize)
		}
	}

	between, err := x.Between()
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	var rebuilt []byte
	for _, piece := range append(x.Pieces, Piece{Offset: x.TarSize}) {
		gap := make([]byte, piece.Offset-int64(len(rebuilt)))
		if _, err := io.ReadFull(between, gap); err != nil {
			t.Fatal(err)
		}
		rebuilt = append(rebuilt, gap...)
		contents := p.tar[piece.Offset:][:piece.Size]
		if piece.Size > 0 && SumOf(contents) != piece.Sum {
			t.Errorf("wrong digest of the piece at %d", piece.Offset)
		}
		rebuilt = append(rebuilt, contents...)
	}
	if n, err := between.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if !bytes.Equal(rebuilt, p.tar) {
		t.Error("the tar made from the index differs")
	}
	if again := packFiles(t, files, nil); !bytes.Equal(again.file, p.file) {
		t.Error("the same tar gave other bytes")
	}
}

// zstd(1) reads the archive, with its patches, the index and the seek table.
func TestZstd(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip("there is no zstd(1)")
	}
	patch := []byte("not a frame, which nobody reads")
	p := packFiles(t, testFiles(2), func(w *Writer) {
		if err := w.Patches([]Patch{{Size: int64(len(patch)), TarOffset: 512, TarSize: 1}}, bytes.NewReader(patch), int64(len(patch))); err != nil {
			t.Fatal(err)
		}
	})
	name := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(name, p.file, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), "zstd", "-dcq", name).Output()
	if err != nil || !bytes.Equal(got, p.tar) {
		t.Errorf("zstd: %v, %d bytes of %d", err, len(got), len(p.tar))
	}
	if got := p.file[p.index.Patches[0].Offset:][:len(patch)]; !bytes.Equal(got, patch) {
		t.Errorf("the patch is %q", got)
	}
}

// The seek table has all frames of the file.
func TestSeekTable(t *testing.T) {
	t.Parallel()
	p := packFiles(t, testFiles(3), nil)
	footer := p.file[len(p.file)-9:]
	n := int(binary.LittleEndian.Uint32(footer))
	if magic := binary.LittleEndian.Uint32(footer[5:]); magic != 0x8F92EAB1 || n != len(p.index.Frames)+1 {
		t.Fatalf("%d frames, magic %x", n, magic)
	}
	table := p.file[len(p.file)-9-8*n:]
	end := skippableHeader + 8*n + 9
	for i := range n {
		size, contents := binary.LittleEndian.Uint32(table[8*i:]), binary.LittleEndian.Uint32(table[8*i+4:])
		end += int(size)
		if i < len(p.index.Frames) && (int64(size) != p.index.Frames[i].Size || int64(contents) != p.index.Frames[i].TarSize) {
			t.Errorf("frame %d: %d bytes of %d", i, size, contents)
		}
	}
	if end != len(p.file) {
		t.Errorf("the frames have %d bytes, the file %d", end, len(p.file))
	}
}

func TestWriterErrors(t *testing.T) {
	t.Parallel()
	w, err := NewWriter(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.File(10); err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 9))
	if err := w.File(1); err == nil {
		t.Error("a file that is too short is no error")
	}
	if _, err := w.Finish(); err == nil {
		t.Error("a tar that ends within a file is no error")
	}

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w, err = NewWriter(full)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Write(make([]byte, 1<<20))
	if _, err := w.Finish(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}

	// It is reported soon, and not at the end of an archive of any size.
	w, err = NewWriter(full)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for n := 0; err == nil && n < 256; n++ {
		_, err = w.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full disk: %v", err)
	}
	if _, err := w.Finish(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("afterwards: %v", err)
	}
}

// Chunks are where they were after an insertion, and have the sizes that they should.
func TestCut(t *testing.T) {
	t.Parallel()
	data := make([]byte, 32<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	cut := func(data []byte) (ends map[int]bool, n int) {
		ends = map[int]bool{}
		for pos := 0; pos < len(data); n++ {
			size := Cut(data[pos:min(len(data), pos+MaxChunk)])
			pos += size
			if size > MaxChunk || size < MinChunk && pos < len(data) {
				t.Fatalf("a chunk of %d bytes", size)
			}
			ends[len(data)-pos] = true
		}
		return ends, n
	}
	ends, n := cut(data)
	if average := len(data) / n; average < AverageChunk*9/10 || average > AverageChunk*11/10 {
		t.Errorf("chunks of %d bytes on average", average)
	}
	inserted, _ := cut(append([]byte("inserted"), data...))
	same := 0
	for end := range ends {
		if inserted[end] {
			same++
		}
	}
	if same < n*95/100 {
		t.Errorf("after an insertion, %d of %d chunks are where they were", same, n)
	}
	for _, size := range []int{0, 1, MinChunk, MinChunk + 1} {
		if got := Cut(make([]byte, size)); got != size {
			t.Errorf("%d bytes: a chunk of %d", size, got)
		}
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	x := &Index{TarSize: 1000, Pieces: []Piece{{10, 20, Sum{1}}, {30, 5, Sum{2}}}, Frames: []Frame{{0, 7, 0, 400}, {7, 9, 400, 600}},
		Patches: []Patch{
			{30, 4, 10, 20, Base{"old/path", 100, Sum{3}, 50, 50}},
			{40, 1, 30, 5, Base{}},
			{41, 1, 10, 25, Base{FileSize: 1, FileSum: Sum{4}, Size: 1}},
		}}
	encoded, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	got.between = nil
	if !reflect.DeepEqual(got, x) {
		t.Errorf("got %+v, expected %+v", got, x)
	}
	for n := range encoded {
		if _, err := Decode(encoded[:n]); err == nil {
			t.Errorf("no error for the first %d bytes", n)
		}
	}
}

// Whatever the tables say, what comes out is within the limits.
func FuzzIndex(f *testing.F) {
	x := &Index{TarSize: 1000, Pieces: []Piece{{10, 20, Sum{1}}}, Frames: []Frame{{0, 7, 0, 1000}}, Patches: []Patch{{30, 4, 10, 20, Base{"old", 100, Sum{3}, 50, 50}}}}
	encoded, err := x.Encode()
	if err != nil {
		f.Fatal(err)
	}
	size, n := binary.Uvarint(encoded)
	z, err := zstd.NewReader(nil)
	if err != nil {
		f.Fatal(err)
	}
	tables, err := z.DecodeAll(encoded[n:][:size], nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tables)
	f.Fuzz(func(t *testing.T, tables []byte) {
		x := new(Index)
		if x.decodeTables(&decoder{tables}) != nil {
			return
		}
		var end, tarEnd int64
		for _, p := range x.Pieces {
			if p.Offset < tarEnd || p.Size < 1 || p.Size > MaxChunk || p.Offset > x.TarSize-p.Size {
				t.Fatalf("%+v", p)
			}
			tarEnd = p.Offset + p.Size
		}
		tarEnd = 0
		for _, f := range x.Frames {
			if f.Offset != end || f.TarOffset != tarEnd || f.Size < 1 || f.TarSize < 1 || f.TarSize > MaxFrame {
				t.Fatalf("%+v", f)
			}
			end, tarEnd = f.Offset+f.Size, tarEnd+f.TarSize
		}
		if tarEnd != x.TarSize {
			t.Fatalf("the frames make %d bytes of %d", tarEnd, x.TarSize)
		}
		for _, p := range x.Patches {
			b := p.Base
			if p.Offset < end || p.Size < 1 || p.TarOffset < 0 || p.TarSize < 1 || p.TarSize > MaxFrame || p.TarOffset > x.TarSize-p.TarSize ||
				b.Offset < 0 || b.Size < 0 || b.Size > MaxBase || b.Offset > b.FileSize-b.Size {
				t.Fatalf("%+v", p)
			}
			end = p.Offset + p.Size
		}
	})
}
