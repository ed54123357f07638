package archive

import (
	"io"

	"github.com/mikelolasagasti/xz"
)

// xzMagic is what every xz stream begins with (The .xz File Format, section
// 2.1.1.1).
const xzMagic = "\xfd7zXZ\x00"

// xzReader reads an xz file. A truncated file is io.ErrUnexpectedEOF, as for
// the other formats.
type xzReader struct{ z *xz.Reader }

// newXZReader reads the header of the first stream. The reader allocates the
// dictionary that a block asks for; a block that asks for more than maxWindow
// is an error.
func newXZReader(r io.Reader) (io.Reader, error) {
	z, err := xz.NewReader(r, maxWindow)
	if err != nil {
		return nil, xzError(err)
	}
	return xzReader{z}, nil
}

func (r xzReader) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	return n, xzError(err)
}

func xzError(err error) error {
	if err == xz.ErrBuf { // no progress is possible without more input
		return io.ErrUnexpectedEOF
	}
	return err
}
