package archive

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// packXZ compresses data by xz(1).
func packXZ(t testing.TB, data []byte, options ...string) []byte {
	t.Helper()
	return tartest.PipeThrough(t, data, append([]string{"xz", "-c", "-T1"}, options...)...)
}

// unpackXZ decompresses by newXZReader.
func unpackXZ(packed []byte) ([]byte, error) {
	z, err := newXZReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// unpackByXZ decompresses by xz(1), the oracle.
func unpackByXZ(packed []byte) ([]byte, error) {
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	return cmd.Output()
}

// xzData is half text, half noise, so that xz(1) makes compressed and
// uncompressed chunks of it.
func xzData() []byte {
	data := []byte(strings.Repeat("the quick brown fox. ", 10_000))
	noise := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	return append(data, noise...)
}

// smallXZ returns 400 bytes of data of both kinds, and a file of three blocks
// that has them.
func smallXZ(t testing.TB, check string) (data, packed []byte) {
	t.Helper()
	data = xzData()[209_900:210_300]
	return data, packXZ(t, data, "--lzma2=preset=0,dict=4KiB", "-T2", "--block-size=150", "--check="+check)
}

func TestXZ(t *testing.T) {
	t.Parallel()
	data := xzData()
	tests := map[string][]byte{
		"sizes in headers": packXZ(t, data, "-0", "-T2", "--block-size=100000"),
		"two streams":      append(packXZ(t, data[:1000]), packXZ(t, data[1000:])...),
		"padding":          append(append(packXZ(t, data[:1000]), make([]byte, 8)...), append(packXZ(t, data[1000:]), make([]byte, 1000)...)...),
		"an empty stream":  append(packXZ(t, nil), packXZ(t, data)...),
		"x86 filter":       packXZ(t, data, "--x86", "--lzma2"),
		"arm filter":       packXZ(t, data, "--arm", "--lzma2"),
		"delta filter":     packXZ(t, data, "--delta=dist=3", "--lzma2"),
	}
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		tests[check] = packXZ(t, data, "--check="+check)
		tests[check+", blocks"] = packXZ(t, data, "--check="+check, "--block-size=65536")
	}
	for name, packed := range tests {
		if got, err := unpackXZ(packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(data), err)
		}
	}
	if got, err := unpackXZ(packXZ(t, nil)); err != nil || len(got) > 0 {
		t.Errorf("nothing but an empty stream: %d bytes, %v", len(got), err)
	}
}

func TestXZTruncated(t *testing.T) {
	t.Parallel()
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		_, packed := smallXZ(t, check)
		for n := range packed {
			if _, err := unpackXZ(packed[:n]); err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: cut at %d of %d: %v", check, n, len(packed), err)
			}
		}
		for n := 1; n < len(packed); n++ {
			if _, err := unpackXZ(append(bytes.Clone(packed), packed[:n]...)); err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: second stream cut at %d of %d: %v", check, n, len(packed), err)
			}
		}
	}
}

// Damage is an error, unless the data is still correct: the library does not
// verify every redundant field of the format.
func TestXZDamaged(t *testing.T) {
	t.Parallel()
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		data, packed := smallXZ(t, check)
		harmless := 0
		for i := range packed {
			damaged := bytes.Clone(packed)
			damaged[i] ^= 0x10
			got, err := unpackXZ(damaged)
			switch {
			case err == nil && !bytes.Equal(got, data):
				t.Errorf("%s: damage of byte %d of %d is not detected", check, i, len(packed))
			case err == nil:
				harmless++
			}
		}
		if harmless > 3 {
			t.Errorf("%s: damage of %d bytes is ignored", check, harmless)
		}
	}
}

// Data after an xz file is an error exactly where it is one for xz(1).
func TestXZTrailers(t *testing.T) {
	t.Parallel()
	data := xzData()
	packed := packXZ(t, data)
	trailers := []string{"junk", "\x00\x00\x00\x00junk", "\x00\x00\x00\x00\x00junk", xzMagic, xzMagic[:3], "\x00\x00\x00\x00" + xzMagic, string(packed[:200])}
	for n := range 9 {
		trailers = append(trailers, strings.Repeat("\x00", n))
	}
	accepted := 0
	for _, trailer := range trailers {
		input := append(bytes.Clone(packed), trailer...)
		_, want := unpackByXZ(input)
		got, err := unpackXZ(input)
		if (err != nil) != (want != nil) {
			t.Errorf("followed by %.20q: %v; xz: %v", trailer, err, want)
		}
		if err == nil {
			accepted++
			if !bytes.Equal(got, data) {
				t.Errorf("followed by %.20q: %d of %d bytes", trailer, len(got), len(data))
			}
		}
	}
	if accepted != 3 { // 0, 4 and 8 zeros
		t.Errorf("%d trailers are accepted", accepted)
	}
}

// withDictionary returns an xz file whose only block asks for the dictionary
// that props encodes (The .xz File Format, section 5.3.1).
func withDictionary(t testing.TB, data []byte, props byte) []byte {
	t.Helper()
	packed := packXZ(t, data, "-0", "--check=crc32")
	// The block header follows the 12 bytes of the stream header: its size,
	// flags, then the filter's ID, size of properties, and properties.
	header := packed[12:][:(int(packed[12])+1)*4]
	if header[1] != 0 || header[2] != 0x21 || header[3] != 1 {
		t.Fatalf("unexpected block header % x", header)
	}
	header[4] = props
	sum := header[len(header)-4:]
	binary.LittleEndian.PutUint32(sum, crc32.ChecksumIEEE(header[:len(header)-4]))
	return packed
}

func TestXZDictionary(t *testing.T) {
	data := xzData()
	for size, props := range map[string]byte{"64 MiB": 28, "128 MiB": 30} {
		if got, err := unpackXZ(withDictionary(t, data, props)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d bytes, %v", size, len(got), len(data), err)
		}
	}
	for size, props := range map[string]byte{"192 MiB": 31, "256 MiB": 32, "4 GiB": 40} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := unpackXZ(withDictionary(t, data, props))
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "dictionary") {
			t.Errorf("%s: %v", size, err)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 16<<20 {
			t.Errorf("%s: allocated %d bytes for a dictionary that is not allowed", size, allocated)
		}
	}
}

func FuzzXZ(f *testing.F) {
	_, small := smallXZ(f, "crc32")
	f.Add(small)
	f.Add(packXZ(f, []byte("hello")))
	f.Add(packXZ(f, []byte("hello"), "--x86", "--delta", "--lzma2=dict=4KiB"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		z, err := newXZReader(bytes.NewReader(packed))
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(z, 1<<20))
		if err == nil && n == 0 && !bytes.HasPrefix(packed, []byte(xzMagic)) {
			t.Error("a file that is not xz is accepted")
		}
	})
}
