package stretcher

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
)

// archive is a spooled archive, that tar(1) reads.
type archive struct{ spool *os.File }

// indexArchive waits until all of the archive has arrived in spool.
func indexArchive(_ context.Context, arriving io.Reader, spool *os.File, _ int64) (*archive, error) {
	if _, err := io.Copy(io.Discard, arriving); err != nil {
		return nil, err
	}
	return &archive{spool}, nil
}

func (a *archive) Close() error { return nil }

// rootMode returns the mode of the entry for the root directory, if there is one.
func (a *archive) rootMode() (fs.FileMode, bool) {
	for r := tar.NewReader(io.NewSectionReader(a.spool, 0, 1<<62)); ; {
		h, err := r.Next()
		if err != nil {
			return 0, false
		}
		if h.Name == "./" || h.Name == "." {
			return h.FileInfo().Mode(), true
		}
	}
}

func (a *archive) extract(ctx context.Context, dir string) error {
	cmd := exec.Command("tar", "-xf", "/dev/stdin", "-C", dir)
	if _, err := a.spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	cmd.Stdin = a.spool
	return (&runner{}).log(ctx, "tar", cmd)
}
