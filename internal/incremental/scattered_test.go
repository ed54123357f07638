package incremental

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration { // of a processor, which other tests may keep busy
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start, b := used(), make([]byte, 1)
	for i := range n / 10 {
		if m, err := s.ReadAt(b, s.start(&s.files[i])); m != 1 || err != nil {
			t.Fatalf("%d bytes, %v", m, err)
		}
		if took := used() - start; took > 3*time.Second {
			t.Fatalf("%s for %d of %d files", took, i+1, n)
		}
	}
}
