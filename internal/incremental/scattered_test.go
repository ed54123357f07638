package incremental

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/seekable"
)

// The time to read a file does not grow with the number of new files after it: to
// deploy 200,000 new files took seven minutes.
func TestManyNewFiles(t *testing.T) {
	t.Parallel()
	const n = 200_000
	tar, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tar.Truncate(n * 1024); err != nil {
		t.Fatal(err)
	}
	s := &scattered{index: &seekable.Index{TarSize: n * 1024}, tar: tar}
	defer s.Close()
	for i := range int32(n) {
		s.index.Pieces = append(s.index.Pieces, seekable.Piece{Offset: 512 + 1024*int64(i), Size: 1})
		s.files = append(s.files, file{first: i, last: i})
	}
	start, b := time.Now(), make([]byte, 1)
	for i := range s.files {
		if m, err := s.ReadAt(b, s.start(&s.files[i])); m != 1 || err != nil {
			t.Fatalf("%d bytes, %v", m, err)
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Fatalf("%s for %d of %d files", took, i+1, n)
		}
	}
}
