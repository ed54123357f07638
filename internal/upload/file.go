package upload

import (
	"context"
	"errors"
	"fmt"
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
		err = errors.New("what is there is not a regular file")
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// put makes the directories that are missing. The file appears complete, also after a
// power cut.
func (p file) put(ctx context.Context, f *os.File, size int64, sent func(int64)) error {
	if err := os.MkdirAll(filepath.Dir(string(p)), 0o755); err != nil {
		return err
	}
	err := unixfs.WriteFile(string(p), 0o644, unixfs.RenameNew, func(to *os.File) error {
		n, err := io.Copy(to, &counted{ctx, io.NewSectionReader(f, 0, size), sent})
		if err == nil && n < size {
			err = fmt.Errorf("the file has become shorter while it was read, %d of %d bytes", n, size)
		}
		return err
	})
	if errors.Is(err, unix.EEXIST) {
		return errExists
	}
	return err
}

// counted is a reader that says how much is read, and fails once its context is
// cancelled.
type counted struct {
	ctx context.Context
	io.Reader
	read func(int64)
}

func (r *counted) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.Reader.Read(p)
	r.read(int64(n))
	return n, err
}
