package unixfs

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestFreeSpace(t *testing.T) {
	t.Parallel()
	if free, err := FreeSpace(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("a directory: %d, %v", free, err)
	}
	if free, err := FreeSpace("/proc"); err != nil || free != math.MaxInt64 {
		t.Errorf("a file system that does not say: %d, %v", free, err)
	}
	var path *fs.PathError
	if _, err := FreeSpace("/nonexistent"); !errors.Is(err, unix.ENOENT) || !errors.As(err, &path) {
		t.Errorf("no directory: %v", err)
	}
}

// The free space is what can be written.
func TestFreeSpaceOfSmallDisk(t *testing.T) {
	dir := tartest.MountTmpfs(t, "size=1m")
	t.Setenv("TMPDIR", dir)
	for _, step := range []struct {
		name        string
		write, free int64
	}{{"empty", 0, 1 << 20}, {"some", 256 << 10, 768 << 10}, {"rest", 768 << 10, 0}} {
		if err := os.WriteFile(dir+"/"+step.name, make([]byte, step.write), 0o600); err != nil {
			t.Fatal(err)
		}
		if free, err := FreeSpace(dir); err != nil || free != step.free {
			t.Errorf("%s: %d bytes are free, expected %d: %v", step.name, free, step.free, err)
		}
		if err := CheckTempSpace("the download", step.free); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if err := CheckTempSpace("the download", step.free+1); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: of a byte too many: got error %v", step.name, err)
		}
	}
	want := "the download needs at least 3.0 MiB in " + dir + ", which has 0 B left (free some, or set TMPDIR to another directory): no space left on device"
	if err := CheckTempSpace("the download", 3<<20); err == nil || err.Error() != want {
		t.Errorf("got error %v, expected %s", err, want)
	}
	t.Setenv("TMPDIR", dir+"/missing")
	if err := CheckTempSpace("the download", 1); !errors.Is(err, unix.ENOENT) {
		t.Errorf("of a directory that does not exist: got error %v", err)
	}
	want = "the download needs at least 1 B in " + dir + "/missing, which has an unknown amount of space left "
	if err := TempSpaceError("the download", unix.ENOSPC, 1); !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %v", err)
	}
}

func TestTempSpaceError(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := TempSpaceError("the download", &os.PathError{Op: "write", Path: "x", Err: full}, 5<<20)
		if !errors.Is(err, full) || !strings.HasPrefix(err.Error(), "the download needs at least 5.0 MiB in "+dir+", which has ") {
			t.Errorf("got error %v", err)
		}
	}
	if err := TempSpaceError("the download", unix.EIO, 5); err != unix.EIO {
		t.Errorf("of another error: got %v", err)
	}
	if err := TempSpaceError("the download", nil, 5); err != nil {
		t.Errorf("of no error: got %v", err)
	}
}
