package progress

import (
	"context"
	"os"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Flush is unixfs.Syncfs as a step.
func (r Reporter) Flush(ctx context.Context, fd int) error {
	defer r.Start("Flushing to disk", nil).End()
	return unixfs.Syncfs(ctx, fd)
}

// Flush waits until the file system that the directory dir is on is on disk.
func Flush(ctx context.Context, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return Reporter{}.Flush(ctx, int(f.Fd()))
}
