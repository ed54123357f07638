package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// fileSource is a regular file of this machine.
type fileSource struct{ path string }

// newFileSource takes what follows file://, percent escapes decoded.
func newFileSource(rest string) (source, error) {
	host, path, ok := strings.Cut(rest, "/")
	if !ok || host != "" && host != "localhost" {
		return nil, fmt.Errorf("file://%s: expected an absolute path, as in file:///path", rest)
	}
	path = "/" + unescape(path)
	if strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("file://%s: the path has a NUL byte", rest)
	}
	return fileSource{path}, nil
}

func (s fileSource) open(_ context.Context, offset, length int64, validator string) (*object, error) {
	// Without O_NONBLOCK, opening a fifo would wait for its writer.
	f, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
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
	o := &object{
		offset:    offset,
		size:      info.Size(),
		validator: fmt.Sprintf("%d-%d", info.ModTime().UnixNano(), info.Size()),
	}
	if validator != "" && validator != o.validator {
		f.Close()
		return nil, errChanged
	}
	if length < 0 {
		length = o.size - offset
	}
	o.body = struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}
	return o, nil
}

func (fileSource) close() error { return nil }
