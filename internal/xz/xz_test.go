package xz

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// xz compresses by xz(1), the oracle.
func xz(t testing.TB, data []byte, options ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c", "-T1"}, options...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	return out
}

func decode(packed []byte) ([]byte, error) {
	return io.ReadAll(NewReader(bytes.NewReader(packed), 8<<20))
}

// testData is half text, half noise, so that there are chunks of both kinds.
func testData() []byte {
	data := []byte(strings.Repeat("the quick brown fox. ", 10_000))
	noise := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	return append(data, noise...)
}

func TestReader(t *testing.T) {
	data := testData()
	tests := map[string][]byte{
		"sizes in headers": xz(t, data, "-0", "-T2", "--block-size=100000"),
		"two streams":      append(xz(t, data[:1000]), xz(t, data[1000:])...),
		"padding":          append(append(xz(t, data[:1000]), make([]byte, 8)...), append(xz(t, data[1000:]), make([]byte, 1000)...)...),
		"an empty stream":  append(xz(t, nil), xz(t, data)...),
	}
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		tests[check] = xz(t, data, "--check="+check)
		tests[check+", blocks"] = xz(t, data, "--check="+check, "--block-size=65536")
	}
	for name, packed := range tests {
		if got, err := decode(packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(data), err)
		}
	}
}

func TestReaderTruncated(t *testing.T) {
	packed := xz(t, testData()[209_900:210_300], "--lzma2=preset=0,dict=4KiB", "-T2", "--block-size=150")
	for n := 1; n < len(packed); n++ {
		if _, err := decode(packed[:n]); err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d of %d: %v", n, len(packed), err)
		}
	}
}

// Damage is noticed, unless it does no harm: the decoder does not mind if a
// chunk claims to be longer than it is.
func TestReaderDamaged(t *testing.T) {
	data := testData()[209_900:210_300]
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		packed := xz(t, data, "--lzma2=preset=0,dict=4KiB", "-T2", "--block-size=150", "--check="+check)
		for i := range packed {
			damaged := bytes.Clone(packed)
			damaged[i] ^= 0x10
			if got, err := decode(damaged); err == nil && !bytes.Equal(got, data) {
				t.Errorf("%s: byte %d of %d damaged, not noticed", check, i, len(packed))
			}
		}
	}
	for _, trailer := range []string{"junk", "\x00", "\x00\x00\x00\x00\x00", "\x00\x00\x00\x00junk", Magic} {
		if _, err := decode(append(xz(t, data), trailer...)); err == nil {
			t.Errorf("followed by %q: not noticed", trailer)
		}
	}
}

func TestReaderDictionary(t *testing.T) {
	data := testData()
	if _, err := decode(xz(t, data, "--lzma2=dict=8MiB")); err != nil {
		t.Error(err)
	}
	if _, err := decode(xz(t, data, "--lzma2=dict=9MiB")); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Error(err)
	}
	if _, err := decode(xz(t, data, "--x86", "--lzma2")); err == nil || !strings.Contains(err.Error(), "filter") {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(xz(f, []byte("hello")))
	f.Add(xz(f, testData()[209_900:210_300], "--lzma2=preset=0,dict=4KiB", "-T2", "--block-size=150"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		n, err := io.Copy(io.Discard, io.LimitReader(NewReader(bytes.NewReader(packed), 64<<10), 1<<20))
		if err == nil && n == 0 && len(packed) > 0 && !bytes.HasPrefix(packed, []byte(Magic)) {
			t.Error("not an xz file, but taken")
		}
		if errors.Is(err, io.EOF) {
			t.Error("io.EOF is not for the caller")
		}
	})
}
