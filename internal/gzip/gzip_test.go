package gzip

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
)

// samples returns data with different statistics. Some of it is longer than
// the buffers of a Reader.
func samples() map[string][]byte {
	noise := make([]byte, 700_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	r := rand.New(rand.NewPCG(1, 2))
	skewed := make([]byte, 900_000) // leads to codes of all lengths
	for i := range skewed {
		skewed[i] = byte(min(r.ExpFloat64()*12, 255))
	}
	var text bytes.Buffer
	for text.Len() < 900_000 {
		fmt.Fprintf(&text, "func (%c *Reader) read%d() error { return %x }\n", 'a'+r.IntN(26), r.IntN(100), r.Uint32N(1<<uint(r.IntN(32))))
	}
	mixed := append(append(bytes.Clone(noise[:100_000]), text.Bytes()[:200_000]...), noise[100_000:]...)
	far := append(append(bytes.Clone(noise[:300]), noise[1000:1000+windowSize-300]...), noise[:300]...)
	return map[string][]byte{
		"nothing": nil, "a byte": {'x'}, "zeros": make([]byte, 1_000_000), "noise": noise, "skewed": skewed, "text": text.Bytes(), "mixed": mixed, "far": far,
		"period 2": []byte(strings.Repeat("ab", 300_000)), "period 7": []byte(strings.Repeat("abcdefg", 1000)), "period 9": []byte(strings.Repeat("abcdefghi", 1000)),
	}
}

func pack(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// gzip compresses data with gzip(1).
func gzip(t testing.TB, data []byte, options ...string) []byte {
	t.Helper()
	cmd := exec.Command("gzip", append([]string{"-c"}, options...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReader(t *testing.T) {
	t.Parallel()
	for name, data := range samples() {
		packed := map[string][]byte{"gzip -1": gzip(t, data, "-1"), "gzip -9": gzip(t, data, "-9")}
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6} {
			packed[fmt.Sprint("level ", level)] = pack(t, data, level)
		}
		half := len(data) / 2
		packed["two members"] = append(pack(t, data[:half], 6), pack(t, data[half:], 1)...)
		packed["zeros after it"] = append(pack(t, data, 6), make([]byte, 1000)...)
		for how, packed := range packed {
			if got, err := io.ReadAll(NewReader(bytes.NewReader(packed))); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %s: %d of %d bytes, %v", name, how, len(got), len(data), err)
			}
		}
		if len(data) < 300_000 {
			continue
		}
		for how, r := range map[string]io.Reader{
			"one byte": iotest.OneByteReader(bytes.NewReader(packed["level 6"])),
			"half":     iotest.HalfReader(bytes.NewReader(packed["level 6"])),
			"data err": iotest.DataErrReader(bytes.NewReader(packed["level 6"])),
		} {
			if err := iotest.TestReader(iotest.HalfReader(NewReader(r)), data); err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
			}
		}
	}
}

func TestReaderHeader(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := stdgzip.NewWriter(&b)
	w.Extra, w.Name, w.Comment = []byte("extra"), "name", "comment"
	io.WriteString(w, "hello")
	w.Close()
	if got, err := io.ReadAll(NewReader(bytes.NewReader(b.Bytes()))); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	for n := 1; n < b.Len(); n++ {
		if _, err := io.ReadAll(NewReader(bytes.NewReader(b.Bytes()[:n]))); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for i, change := range map[int]byte{0: 1, 1: 1, 2: 1, 3: 0x20} {
		damaged := bytes.Clone(b.Bytes())
		damaged[i] ^= change
		if _, err := io.ReadAll(NewReader(bytes.NewReader(damaged))); err == nil {
			t.Errorf("byte %d is wrong, not noticed", i)
		}
	}
}

func TestReaderTruncatedAndDamaged(t *testing.T) {
	t.Parallel()
	text := samples()["mixed"][99_400:100_900]
	for _, level := range []int{0, 1, 9, flate.HuffmanOnly} {
		packed := append(pack(t, text[:900], level), pack(t, text[900:], level)...)
		for n := 1; n < len(packed); n++ {
			got, err := io.ReadAll(NewReader(bytes.NewReader(packed[:n])))
			if err != io.ErrUnexpectedEOF && !(err == nil && len(got) == 900) { // the cut is between the members
				t.Fatalf("level %d, cut at %d of %d: %d bytes, %v", level, n, len(packed), len(got), err)
			}
			damaged := bytes.Clone(packed)
			damaged[n] ^= 1 << (n % 8)
			if got, err := io.ReadAll(NewReader(bytes.NewReader(damaged))); err == nil && !bytes.Equal(got, text) {
				t.Fatalf("level %d, byte %d of %d damaged: not noticed", level, n, len(packed))
			}
		}
	}
	packed := pack(t, text, 6)
	for _, trailer := range []string{"x", "\x1f", Magic, "\x00x"} {
		if _, err := io.ReadAll(NewReader(strings.NewReader(string(packed) + trailer))); err == nil {
			t.Errorf("followed by %q: not noticed", trailer)
		}
	}
	failed := errors.New("connection reset")
	for n := range len(packed) {
		r := io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(failed))
		if _, err := io.ReadAll(NewReader(r)); err != failed {
			t.Fatalf("failed at %d of %d: %v", n, len(packed), err)
		}
	}
}

func TestReaderHeaderSum(t *testing.T) {
	t.Parallel()
	m := member{data: []byte("hello"), extra: []byte("extra"), name: "name", comment: "comment", level: 6, flags: flagHeaderSum | flagExtra | flagName | flagComment}
	packed := m.pack(t)
	if got, err := io.ReadAll(NewReader(bytes.NewReader(packed))); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	// The time, the extra field, the name, the comment, the checksum itself.
	for _, i := range []int{5, 13, 18, 23, 31} {
		damaged := bytes.Clone(packed)
		damaged[i] ^= 0x40
		if _, err := io.ReadAll(NewReader(bytes.NewReader(damaged))); err != errCorrupt {
			t.Errorf("byte %d is damaged: %v", i, err)
		}
		cmd := exec.Command("gzip", "-t")
		cmd.Stdin = bytes.NewReader(damaged)
		if err := cmd.Run(); err == nil {
			t.Errorf("byte %d is damaged: gzip(1) does not notice", i)
		}
	}
}

// emptyReader returns no data and no error once r has ended.
type emptyReader struct {
	r     io.Reader
	empty int // how often it did
}

func (r *emptyReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == io.EOF {
		r.empty++
		err = nil
	}
	return n, err
}

func TestReaderNoProgress(t *testing.T) {
	t.Parallel()
	packed := append(pack(t, []byte("hello"), 6), pack(t, []byte("hello"), 0)...)
	for n := range len(packed) + 1 {
		r := &emptyReader{r: bytes.NewReader(packed[:n])}
		if _, err := io.ReadAll(NewReader(r)); err != io.ErrNoProgress || r.empty != maxEmptyReads {
			t.Fatalf("no progress at %d of %d: %v after %d empty reads", n, len(packed), err, r.empty)
		}
	}
	// A reader that pauses, but not forever, is fine.
	var pauses []io.Reader
	for _, c := range packed {
		pauses = append(pauses, &pause{n: maxEmptyReads - 1}, bytes.NewReader([]byte{c}))
	}
	if got, err := io.ReadAll(NewReader(io.MultiReader(pauses...))); err != nil || string(got) != "hellohello" {
		t.Errorf("with pauses: %q, %v", got, err)
	}
}

// pause returns no data and no error n times before it ends.
type pause struct{ n int }

func (p *pause) Read([]byte) (int, error) {
	if p.n == 0 {
		return 0, io.EOF
	}
	p.n--
	return 0, nil
}

func BenchmarkReader(b *testing.B) {
	text := samples()["text"]
	packed := gzip(b, text)
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"this": func(r io.Reader) io.Reader { return NewReader(r) },
		"compress/gzip": func(r io.Reader) io.Reader {
			z, err := stdgzip.NewReader(r)
			if err != nil {
				b.Fatal(err)
			}
			return z
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := io.Copy(io.Discard, reader(bytes.NewReader(packed))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
