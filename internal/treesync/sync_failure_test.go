package treesync

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// Deleting files must work without any free space or inode, which a staging
// directory would need.
func TestSyncDeletesOnFullDisk(t *testing.T) {
	t.Parallel()
	dest := tartest.MountTmpfs(t, "nr_inodes=6") // its root, one more and those below
	makeFiles(t, dest, file{path: "keep", body: "x", mode: 0o600}, file{path: "junk"}, file{path: "more/junk"})
	for i := 0; os.Mkdir(filepath.Join(dest, fmt.Sprint(i)), 0o755) == nil; i++ {
	}
	if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "keep", Body: "x"}), dest); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dest); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// A failure while staging leaves dest as it was, with its times.
func TestSyncStagingFails(t *testing.T) {
	t.Parallel()
	members := []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}, {Name: "b", Body: "new"}, {Name: "d/", Type: tDir}}
	for i := range 200 {
		members = append(members, tartest.Member{Name: fmt.Sprintf("d/%d", i), Body: strings.Repeat("x", 4096)})
	}
	old := []file{{path: "a", body: "old"}, {path: "gone"}, {path: "d/1", body: "old"}}
	check := func(t *testing.T, before map[string]string, dest string) {
		t.Helper()
		tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
	}
	t.Run("no room", func(t *testing.T) {
		dest := filepath.Join(tartest.MountTmpfs(t, "size=512k"), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		if _, err := syncBytes(t, Options{}, tartest.Make(t, members...), dest); !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^sync to \S+: no space left \(needs [0-9.]+ [KM]iB more, [0-9.]+ [KM]iB free\) while writing (?:b|d/[0-9]+); dest is unchanged: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("no inodes", func(t *testing.T) {
		dest := filepath.Join(tartest.MountTmpfs(t, "size=16m,nr_inodes=50"), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		if _, err := syncBytes(t, Options{}, tartest.Make(t, members...), dest); !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^sync to \S+: no space left \(needs [0-9.]+ [KM]iB more, [0-9.]+ [KM]iB free; inodes or a quota may be used up\) while writing (?:b|d/[0-9]+); dest is unchanged: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("no room to extract", func(t *testing.T) {
		dir := tartest.MountTmpfs(t, "size=512k")
		err := Extract(t.Context(), mustIndex(t, tartest.Make(t, members...)), dir)
		if !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^/\S+: no space left \(needs 800 KiB more, 512 KiB free\) while writing d/[0-9]+: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		a := mustIndex(t, tartest.Make(t, members...))
		attrs, err := newAttributes(t.Context(), a.Tree)
		if err != nil {
			t.Fatal(err)
		}
		err = syncTree(ctx, a.Tree, failAfter(archiveContents{a.Data()}, func() error { cancel(stopped); return nil }), attrs, dest, Options{})
		if !errors.Is(err, stopped) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("unreadable, dest missing", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		broken := errors.New("broken disk")
		a := mustIndex(t, tartest.Make(t, members...))
		attrs, err := newAttributes(t.Context(), a.Tree)
		if err != nil {
			t.Fatal(err)
		}
		err = syncTree(t.Context(), a.Tree, failAfter(archiveContents{a.Data()}, func() error { return broken }), attrs, dest, Options{})
		if !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if _, err := os.Lstat(dest); err == nil {
			t.Error("dest was left behind")
		}
	})
	t.Run("device", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may make devices")
		}
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		data := tartest.MakeHeaders(t, &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
		if _, err := syncBytes(t, Options{}, data, dest); !errors.Is(err, unix.EPERM) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
}

// failingContents are contents that call fail when they are opened for the 100th
// time.
type failingContents struct {
	contents
	left atomic.Int64
	fail func() error
}

func failAfter(c contents, fail func() error) *failingContents {
	f := &failingContents{contents: c, fail: fail}
	f.left.Store(100)
	return f
}

func (c *failingContents) open(e *archive.Entry) (*window, error) {
	if c.left.Add(-1) == 0 {
		if err := c.fail(); err != nil {
			return nil, err
		}
	}
	return c.contents.open(e)
}

// A mount below dest gets its own staging directory.
func TestSyncAcrossMounts(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	makeFiles(t, dest, file{path: "a", body: "old"}, file{path: "m/"})
	mounted := filepath.Join(dest, "m")
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "mode=0755"); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) })
	makeFiles(t, mounted, file{path: "changed", body: "old"}, file{path: "gone/x"}, file{path: "d/changed", body: "old"}, file{path: "toDir"}, file{path: ".stretcher-7/left"})
	members := []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}, {Name: "m/", Type: tDir, Mode: 0o711}, {Name: "m/changed", Body: "new"}, {Name: "m/new/", Type: tDir}, {Name: "m/new/x"}, {Name: "m/d/", Type: tDir}, {Name: "m/d/changed", Body: "new"}, {Name: "m/toDir/", Type: tDir}}
	data := tartest.Make(t, members...)
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "want")
	if _, err := syncBytes(t, Options{}, data, want); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, dest)
	// An archive without m would require m to be deleted, and a mount point cannot be.
	before := tartest.Snapshot(t, dest)
	if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "a", Body: "newer"}), dest); err == nil || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("%v", err)
	}
	tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
}

// On an overlay, rename(2) fails with EXDEV for a directory of a lower layer.
func TestSyncOnOverlay(t *testing.T) {
	t.Parallel()
	base := tartest.MountTmpfs(t, "mode=0755")
	lower, dest := filepath.Join(base, "lower"), filepath.Join(base, "dest")
	makeFiles(t, lower, file{path: "gone/x/y"}, file{path: "gone/z"}, file{path: "dirToFile/a/b"}, file{path: "kept/a", body: "a"}, file{path: "changed", body: "old"}, file{path: "linkToDir", body: "-> kept"})
	for _, name := range []string{"upper", "work", "dest"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=off", lower, base, base)
	if err := unix.Mount("overlay", dest, "overlay", 0, options); err != nil {
		t.Skipf("no overlays here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dest, unix.MNT_DETACH) })
	data := tartest.Make(t, tartest.Member{Name: "./", Type: tDir}, tartest.Member{Name: "dirToFile", Body: "x"}, tartest.Member{Name: "kept/", Type: tDir}, tartest.Member{Name: "kept/a", Body: "a"},
		tartest.Member{Name: "changed", Body: "new"}, tartest.Member{Name: "linkToDir/", Type: tDir}, tartest.Member{Name: "linkToDir/b"})
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := t.TempDir()
	if err := Extract(t.Context(), mustIndex(t, data), want); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, dest)
}
