package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/gzip"
)

// maxWindow limits how many bytes of its output a decompressor has to keep for
// reference, and with them its memory. It is the default limit of zstd(1). xz -9
// needs half of it.
const maxWindow = 128 << 20

// decompressor reads the tar that is in an archive of any format.
type decompressor struct {
	io.Reader
	compressed bool
	close      func()
}

// decompress detects the format of an archive by its first bytes, like tar(1).
// The name of the archive plays no role.
func decompress(ctx context.Context, source io.Reader) (*decompressor, error) {
	br := bufio.NewReaderSize(source, 32<<10)
	magic, short := br.Peek(10)
	if short != nil && short != io.EOF {
		return nil, short
	}
	if len(magic) == 0 {
		return nil, errors.New("archive is empty: it has no bytes")
	}
	d := &decompressor{compressed: true, close: func() {}}
	var err error
	switch {
	case bytes.HasPrefix(magic, []byte(gzip.Magic)):
		packed := readAhead(ctx, br, func() {})
		d.Reader, d.close = gzip.NewReader(packed), packed.stop
	case isBzip2(magic):
		d.Reader = bzip2Reader{bzip2.NewReader(br)}
	case bytes.HasPrefix(magic, []byte(xzMagic)):
		d.Reader, err = newXZReader(br)
	case isZstd(magic):
		var z *zstdReader
		if z, err = newZstdReader(ctx, br); err == nil {
			d.Reader, d.close = z, z.close
		}
	default:
		d.Reader, d.compressed = br, false
	}
	if err != nil {
		return nil, fmt.Errorf("decompress the archive: %w", err)
	}
	return d, nil
}

// isBzip2 reports whether a file begins like a bzip2 stream: "BZh", the block
// size, and then the magic number of a block or, if the stream is empty, of its
// end.
func isBzip2(magic []byte) bool {
	return len(magic) == 10 && string(magic[:3]) == "BZh" &&
		(string(magic[4:]) == "\x31\x41\x59\x26\x53\x59" || string(magic[4:]) == "\x17\x72\x45\x38\x50\x90")
}

// bzip2Reader ignores what follows the last stream, like bzip2(1).
type bzip2Reader struct{ r io.Reader }

func (z bzip2Reader) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if err == bzip2.StructuralError("bad magic value in continuation file") {
		log.Printf("[WARN] ignored what follows the archive's bzip2 data")
		err = io.EOF
	}
	return n, err
}

// isZstd reports whether a file begins with a Zstandard frame or with a
// skippable frame (RFC 8878, sections 3.1.1 and 3.1.2).
func isZstd(magic []byte) bool {
	return bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && string(magic[1:4]) == "\x2a\x4d\x18"
}

// windowError is the error for data that would take too much memory to
// decompress.
func windowError(what string, size uint64, how string) error {
	return hopelessError{fmt.Errorf("it needs %s of %s, more than the limit of %s: compress with %s", what, humanize.IBytes(size), humanize.IBytes(maxWindow), how)}
}
