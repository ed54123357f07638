package unixfs

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

func TestFreeSpace(t *testing.T) {
	t.Parallel()
	if free, err := FreeSpace(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("a directory: %d, %v", free, err)
	}
	if free, err := FreeSpace("/proc"); err != nil || free != math.MaxInt64 {
		t.Errorf("a file system that does not say: %d, %v", free, err)
	}
	if _, err := FreeSpace("/nonexistent"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no directory: %v", err)
	}
}

func TestTempSpaceError(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := TempSpaceError("the download", &os.PathError{Op: "write", Path: "x", Err: full}, 5<<20)
		if !errors.Is(err, full) || !strings.HasPrefix(err.Error(), "the download needs at least "+humanize.IBytes(5<<20)+" in "+dir+", which has ") {
			t.Errorf("error %v", err)
		}
	}
	if err := TempSpaceError("the download", unix.EIO, 5); err != unix.EIO {
		t.Errorf("error %v", err)
	}
}
