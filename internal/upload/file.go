package upload

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// file is the path of a file on this machine, or on one that is mounted here.
type file string

func (p file) size(context.Context) (int64, error) {
	info, err := os.Stat(string(p))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errMissing
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file is there")
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// put makes the directories that are missing. The file appears complete, also after a
// power cut.
func (p file) put(ctx context.Context, f *os.File, size int64) error {
	dir := filepath.Dir(string(p))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(string(p))+".")
	if err != nil {
		return err
	}
	_, err = io.Copy(temporary, interrupted{ctx, io.NewSectionReader(f, 0, size)})
	for _, step := range []func() error{
		func() error { return temporary.Chmod(0o644) },
		temporary.Sync,
		temporary.Close,
		func() error { return unixfs.RenameNew(temporary.Name(), string(p)) },
	} {
		if err == nil {
			err = step()
		}
	}
	if errors.Is(err, unix.EEXIST) {
		err = errExists
	}
	if err != nil {
		temporary.Close() // a second call does nothing
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unixfs.FlushDir(int(d.Fd()))
}

// interrupted is a reader that fails once its context is cancelled.
type interrupted struct {
	ctx context.Context
	io.Reader
}

func (r interrupted) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
