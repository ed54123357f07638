package archive

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/mikelolasagasti/xz"
)

// xzMagic is what every xz stream begins with (The .xz File Format, section
// 2.1.1.1).
const xzMagic = "\xfd7zXZ\x00"

// xzReader reads an xz file. A truncated file is io.ErrUnexpectedEOF, as for
// the other formats.
type xzReader struct{ z *xz.Reader }

// newXZReader reads the header of the first stream. A block that asks for a
// dictionary larger than maxWindow is an error, before anything is allocated for it.
func newXZReader(r io.Reader) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 4<<10)
	if size := xzDictionary(br); size > maxWindow {
		return nil, windowError("an xz dictionary", size, xzSmaller)
	}
	z, err := xz.NewReader(br, maxWindow)
	if err != nil {
		return nil, xzError(err)
	}
	return xzReader{z}, nil
}

func (r xzReader) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	return n, xzError(err)
}

// xzSmaller is how to make a dictionary smaller: that of xz -9 has 64 MiB.
const xzSmaller = "xz -9 or less, or with --lzma2=dict=128MiB"

func xzError(err error) error {
	switch err {
	case xz.ErrBuf: // no progress is possible without more input
		return io.ErrUnexpectedEOF
	case xz.ErrMemlimit: // of a block after the first one
		return hopelessError{fmt.Errorf("decompress the archive: %w: the limit is %s: compress with %s", err, humanize.IBytes(maxWindow), xzSmaller)}
	}
	return err
}

// xzDictionary returns how large a dictionary the first block needs, in bytes, or
// 0 where that is not clear (The .xz File Format, sections 3.1 and 5.3.1).
func xzDictionary(br *bufio.Reader) uint64 {
	const streamHeader, longest = 12, 1024
	head, _ := br.Peek(streamHeader + longest)
	if len(head) < streamHeader+2 || head[streamHeader] == 0 {
		return 0 // too short, or a stream without blocks
	}
	flags := head[streamHeader+1]
	head = head[streamHeader+2:]
	number := func() uint64 {
		n, length := binary.Uvarint(head)
		head = head[max(length, 0):]
		return n
	}
	for _, hasSize := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // compressed and not
		if hasSize {
			number()
		}
	}
	for range flags&3 + 1 { // filters, of which LZMA2 is the last one
		const lzma2 = 0x21
		filter, length := number(), number()
		if length > uint64(len(head)) {
			return 0
		}
		properties := head[:length]
		head = head[length:]
		if filter == lzma2 && length == 1 && properties[0] <= 40 {
			bits := uint64(properties[0])
			return min((2|bits&1)<<(bits/2+11), 1<<32-1)
		}
	}
	return 0
}
