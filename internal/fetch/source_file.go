package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/allowlist"
)

// fileSource is a regular file on this machine.
type fileSource struct{ path string }

// newFileSource returns the source for what follows file:// in a URL.
func newFileSource(rest string) (source, error) {
	host, path, ok := strings.Cut(rest, "/")
	if !ok || host != "" && host != "localhost" {
		return nil, errors.New("expected an absolute path, as in file:///path")
	}
	path = "/" + unescape(path)
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("the path has a NUL byte")
	}
	return fileSource{path}, nil
}

func (s fileSource) open(_ context.Context, offset, length int64, validator string) (*object, error) {
	// Without O_NONBLOCK, opening a FIFO would block until it has a writer.
	f, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err // without the path, since our own errors contain the URL
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missingError{err}
	}
	if err != nil {
		return nil, permanent(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, permanent(err)
	}
	o := &object{offset: offset, size: info.Size(), validator: fileValidator(info)}
	if validator != "" && validator != o.validator {
		f.Close()
		return nil, errChanged
	}
	if length < 0 {
		length = o.size - offset
	}
	o.body = &fileBody{io.NewSectionReader(f, offset, length), f, o.validator}
	return o, nil
}

func (s fileSource) allowed(l allowlist.List) error { return l.File(s.path) }

func (fileSource) closeIdle() {}

func (fileSource) close() error { return nil }

// fileValidator returns a string that changes when the file is written to.
func fileValidator(info fs.FileInfo) string {
	return fmt.Sprintf("%d-%d", info.ModTime().UnixNano(), info.Size())
}

// fileBody reads a part of a file. At the end of the part, Read fails with
// errChanged where the file was written to in the meantime.
type fileBody struct {
	section   *io.SectionReader
	file      *os.File
	validator string
}

func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.section.Read(p)
	if err != io.EOF {
		return n, err
	}
	info, statErr := b.file.Stat()
	if statErr != nil {
		return n, statErr
	}
	if fileValidator(info) != b.validator {
		return n, errChanged
	}
	return n, err
}

func (b *fileBody) Close() error { return b.file.Close() }
