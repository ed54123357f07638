package archive

import (
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// What takes too much memory to decompress is refused at once, and the error says
// how much it takes, the limit, and how to compress instead. What these programs
// do without special options is accepted.
func TestWindowLimit(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "a", Body: "content"})
	const (
		zstdHint = ", more than the limit of 128 MiB: compress with zstd --long=27 or less"
		xzHint   = ", more than the limit of 128 MiB: compress with xz -9 or less, or with --lzma2=dict=128MiB"
	)
	skippable := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd")
	for command, want := range map[string]string{
		"zstd -c --long=27":                      "",
		"zstd -c -19":                            "",
		"zstd -c --long=28":                      "it needs a zstd window of 256 MiB" + zstdHint,
		"zstd -c --long=29":                      "it needs a zstd window of 512 MiB" + zstdHint,
		"zstd -c --long=30":                      "it needs a zstd window of 1.0 GiB" + zstdHint,
		"zstd -c -1 --ultra --long=31":           "it needs a zstd window of 2.0 GiB" + zstdHint,
		"xz -c -0":                               "",
		"xz -c -T1 --lzma2=preset=0,dict=128MiB": "",
		"xz -c -T1 --lzma2=preset=0,dict=256MiB": "it needs an xz dictionary of 256 MiB" + xzHint,
		"xz -c -T1 --x86 --lzma2=dict=192MiB":    "it needs an xz dictionary of 192 MiB" + xzHint,
	} {
		packed := tartest.PipeThrough(t, data, strings.Fields(command)...)
		for _, packed := range [][]byte{packed, append(skippable[:len(skippable):len(skippable)], packed...)} {
			if strings.HasPrefix(command, "xz") && packed[0] == skippable[0] {
				continue
			}
			_, err := indexBytes(t, packed, 1<<20)
			switch {
			case want == "":
				if err != nil {
					t.Errorf("%s: %v", command, err)
				}
			case err == nil || !strings.HasSuffix(err.Error(), want) || !Hopeless(err):
				t.Errorf("%s: %v", command, err)
			}
		}
	}
	// The limit is also mentioned where a part after the first one exceeds it.
	for name, parts := range map[string][]string{
		"zstd": {"zstd -c", "zstd -c --long=28"},
		"xz":   {"xz -c -0", "xz -c -T1 --lzma2=preset=0,dict=256MiB"},
	} {
		var packed []byte
		for i, command := range parts {
			packed = append(packed, tartest.PipeThrough(t, data[i*1024:][:1024], strings.Fields(command)...)...)
		}
		if _, err := indexBytes(t, packed, 1<<20); err == nil || !strings.Contains(err.Error(), "128 MiB: compress with "+name) || !Hopeless(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
