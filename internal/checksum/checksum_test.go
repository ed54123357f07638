package checksum

import (
	"io"
	"strings"
	"testing"
)

func TestChecksum(t *testing.T) {
	// The digests that md5sum(1), sha1sum(1) and so on print for "content\n".
	for _, sum := range []string{
		"f75b8179e4bbe7e2b4a074dcef62de95",
		"7fe70820e08a1aac0ef224d9c66ab66831cc4ab1",
		"434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53",
		"90eecf7b3db9ea38dda020755b28405c5267c8865e76bd9847f4f2f8c95a7ebfbe1e2c81ab9766573535389264178eda6ca951287471840115bd403668a4ec37",
	} {
		for _, checksum := range []string{sum, strings.ToUpper(sum)} {
			digest, err := New(checksum)
			if err != nil {
				t.Fatal(err)
			}
			if err := Verify(checksum, digest); err == nil || !strings.HasPrefix(err.Error(), "Checksum mismatch: the manifest says "+checksum+", the archive has ") {
				t.Errorf("%s of nothing: got error %v", checksum, err)
			}
			io.WriteString(digest, "content\n")
			if err := Verify(checksum, digest); err != nil {
				t.Error(err)
			}
		}
		for _, wrong := range []string{sum[1:], sum[2:], sum + "00", "g" + sum[1:], " " + sum, sum + "\n", "0x" + sum[2:]} {
			if _, err := New(wrong); err == nil || !strings.Contains(err.Error(), "is not the hex of an md5, sha1, sha256 or sha512") {
				t.Errorf("%q: got error %v", wrong, err)
			}
		}
	}
	if _, err := New(""); err == nil {
		t.Error("no error of an empty checksum")
	}
}
