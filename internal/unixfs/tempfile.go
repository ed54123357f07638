package unixfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// TempPrefix begins the names of all temporary files and directories.
const TempPrefix = ".stretcher-"

// removedFile creates a file in the directory for temporary files and removes its
// name, so that the system frees it with its last descriptor.
func removedFile() (*os.File, error) {
	f, err := os.CreateTemp("", TempPrefix+"*")
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
