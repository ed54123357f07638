package unixfs

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestTempFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	f, err := TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := tartest.NamesIn(t, dir); len(got) > 0 {
		t.Errorf("it has a name: %q", got)
	}
	if _, err := f.WriteString("content"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.Name()); err == nil {
		t.Errorf("there is a file %s", f.Name())
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "missing"))
	if _, err := TempFile(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: got error %v", err)
	}
}

// A striped file reads like a single one, whatever is written and in which order.
func TestStripedFile(t *testing.T) {
	h, err := NewStripedFile()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	one, err := TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	content := make([]byte, 3*stripeSize+12345)
	rand.NewChaCha8([32]byte{32}).Read(content)
	for offset := 0; offset < len(content); offset += 1_000_003 {
		piece := content[offset:min(offset+1_000_003, len(content))]
		if n, err := h.WriteAt(piece, int64(offset)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		one.WriteAt(piece, int64(offset))
	}
	for _, size := range []int{1, 4096, stripeSize - 1, 2*stripeSize + 2} {
		for _, at := range []int{0, 1, stripeSize - size, stripeSize - 1, stripeSize, 2*stripeSize - 5, 3 * stripeSize, len(content) - size, len(content) - 1, len(content)} {
			if at < 0 {
				continue
			}
			got, want := make([]byte, size), make([]byte, size)
			n, err := h.ReadAt(got, int64(at))
			wantN, wantErr := one.ReadAt(want, int64(at))
			if n != wantN || err != wantErr || string(got) != string(want) {
				t.Errorf("%d bytes at %d: %d, %v, want %d, %v; the same bytes: %v", size, at, n, err, wantN, wantErr, string(got) == string(want))
			}
		}
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}
