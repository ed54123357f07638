package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// extract indexes an archive and extracts it to dir. ctx is that of the extraction.
func extract(ctx context.Context, t *testing.T, data []byte, dir string) error {
	t.Helper()
	spool, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	if _, err := spool.Write(data); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Index(t.Context(), bytes.NewReader(data), spool, archive.Limits{})
	if err != nil {
		return err
	}
	defer a.Close()
	return treesync.Extract(ctx, a, dir)
}

// Sparse files are the same as those that tar(1) extracts, and take no more
// space.
func TestSparseLikeTar(t *testing.T) {
	t.Parallel()
	for _, sparse := range tartest.SparseArchives(t, tartest.SparseFiles()) {
		t.Run(sparse.Option, func(t *testing.T) {
			want, got := t.TempDir(), t.TempDir()
			if err := tartest.Extract(t, sparse.Data, want); err != nil {
				t.Fatal(err)
			}
			if err := extract(t.Context(), t, sparse.Data, got); err != nil {
				t.Fatal(err)
			}
			tartest.CompareTrees(t, want, got)
			for name := range tartest.SparseFiles() {
				var byTar, ours unix.Stat_t
				if err := unix.Stat(filepath.Join(want, name), &byTar); err != nil {
					t.Fatal(err)
				}
				if err := unix.Stat(filepath.Join(got, name), &ours); err != nil {
					t.Fatal(err)
				}
				if ours.Blocks > byTar.Blocks {
					t.Errorf("%s takes %d blocks, by tar %d", name, ours.Blocks, byTar.Blocks)
				}
			}
		})
	}
}

// A file of exabytes is extracted without its hole being written. Most file
// systems refuse its size, which is an error like any other.
func TestExtractHugeHole(t *testing.T) {
	t.Parallel()
	data := tarOf(pax(tar.TypeXHeader, "GNU.sparse.size", "9223372036854775807", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "9223372036854775807,0"),
		file("huge", ""))
	dir := t.TempDir()
	err := extract(t.Context(), t, data, dir)
	if errors.Is(err, unix.EFBIG) || errors.Is(err, unix.EINVAL) {
		return
	}
	var st unix.Stat_t
	if err := errors.Join(err, unix.Stat(filepath.Join(dir, "huge"), &st)); err != nil {
		t.Fatal(err)
	}
	if st.Size != 1<<63-1 || st.Blocks > 8 {
		t.Errorf("the size is %d, in %d blocks", st.Size, st.Blocks)
	}
}

func TestExtractCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	data := tartest.Make(t, tartest.Member{Name: "a", Body: "x"})
	if err := extract(ctx, t, data, t.TempDir()); !errors.Is(err, stopped) {
		t.Errorf("extract: %v", err)
	}
}
