package unixfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// TempFile creates a file without a name in the directory for temporary files
// (open(2), O_TMPFILE). The kernel frees it with its last descriptor, however
// the process ends.
func TempFile() (*os.File, error) {
	dir := os.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "(unnamed)")), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("create a temporary file in %s: %w", dir, err)
	}
	// The file system or the kernel does not support O_TMPFILE, so the file has
	// a name until it is removed here.
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	return f, nil
}

// StripedFile is a temporary file whose data is striped over two unnamed files,
// so that closing them frees their pages in parallel: for a file of a gigabyte
// that takes the kernel a noticeable part of a deployment's time.
type StripedFile [2]*os.File

// stripeSize is how many bytes go to one file before the other's turn.
const stripeSize = 16 << 20

// NewStripedFile creates an empty StripedFile in the directory for temporary
// files.
func NewStripedFile() (*StripedFile, error) {
	f := &StripedFile{}
	for i := range f {
		var err error
		if f[i], err = TempFile(); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// ReadAt implements io.ReaderAt.
func (f *StripedFile) ReadAt(p []byte, offset int64) (int, error) {
	return f.eachStripe(p, offset, (*os.File).ReadAt)
}

// WriteAt implements io.WriterAt.
func (f *StripedFile) WriteAt(p []byte, offset int64) (int, error) {
	return f.eachStripe(p, offset, (*os.File).WriteAt)
}

// eachStripe transfers p by one call of transfer for each stripe it touches.
func (f *StripedFile) eachStripe(p []byte, offset int64, transfer func(*os.File, []byte, int64) (int, error)) (done int, err error) {
	for done < len(p) && err == nil {
		stripe, within := offset/stripeSize, offset%stripeSize
		n := min(int64(len(p)-done), stripeSize-within)
		var transferred int
		transferred, err = transfer(f[stripe%2], p[done:done+int(n)], stripe/2*stripeSize+within)
		done += transferred
		offset += int64(transferred)
	}
	return done, err
}

// Close frees both files.
func (f *StripedFile) Close() error {
	var errs [2]error
	var closing sync.WaitGroup
	for i, half := range f {
		if half != nil {
			closing.Go(func() { errs[i] = half.Close() })
		}
	}
	closing.Wait()
	return errors.Join(errs[:]...)
}
