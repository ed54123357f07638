package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"github.com/fujiwara/stretcher/internal/gzip"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Archive is the index of a spooled archive: what extracting it would make,
// and where in a file the bytes of each entry are. Nothing of it is on disk
// under a name before extract is called.
type Archive struct {
	Tree *Tree
	data io.ReaderAt         // the tar: the spool itself, or what it decompresses to
	own  *unixfs.StripedFile // that, where it is of our own; else nil

	spool   *os.File       // after TakeOver, where it has the tar
	freeing sync.WaitGroup // of the spool, where it has not
}

// Index reads an archive while it arrives. spool must hold the bytes
// that arriving has delivered, at the same offsets; the archive refers to them
// until it is closed, so the spool must outlive it. arriving has to end with
// an error when ctx does: Index waits for it.
//
// maxSize bounds the bytes of the files' contents, 0 meaning no limit; sparse
// files count without their holes.
//
// An archive that tar(1) would fail on is an error, and so is one without an
// entry, as a web server's empty answer would be.
func Index(ctx context.Context, arriving io.Reader, spool *os.File, maxSize int64) (*Archive, error) {
	src := &recordingReader{r: arriving}
	a, err := readArchive(ctx, src, spool, maxSize)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read the archive: %w", context.Cause(ctx))
	case src.err != nil:
		// What a decompressor made of it would hide the cause.
		return nil, fmt.Errorf("read the archive: %w", src.err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("archive is truncated: %w", err)
	}
	return nil, err
}

func readArchive(ctx context.Context, src io.Reader, spool *os.File, maxSize int64) (_ *Archive, err error) {
	unpacked, err := decompress(ctx, src)
	if err != nil {
		return nil, err
	}
	a := &Archive{Tree: NewTree(), data: spool}
	if unpacked.compressed {
		if a.own, err = unixfs.NewStripedFile(); err != nil {
			unpacked.close()
			return nil, err
		}
		a.data = a.own
	}
	ahead := readAhead(ctx, unpacked, unpacked.close)
	err = a.index(ahead, maxSize)
	ahead.stop()
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Data returns the tar, in which the offsets of the entries are.
func (a *Archive) Data() io.ReaderAt { return a.data }

// TakeOver makes the archive the owner of the spool it was read from. Where the
// tar has been decompressed to a file of its own, the spool is freed at once, in
// the background, since commands and the strategy may need the space.
func (a *Archive) TakeOver(spool *os.File) {
	if a.own == nil {
		a.spool = spool
		return
	}
	a.freeing.Go(func() { unixfs.Warn("free the download", spool.Close()) })
}

// Close frees the tar, and the spool if the archive owns it.
func (a *Archive) Close() error {
	a.freeing.Wait()
	var errs []error
	if a.own != nil {
		errs = append(errs, a.own.Close())
	}
	if a.spool != nil {
		errs = append(errs, a.spool.Close())
	}
	return errors.Join(errs...)
}

// RootMode is the mode of the entry "." or "./", if the archive has one.
func (a *Archive) RootMode() (mode fs.FileMode, ok bool) {
	if a.Tree.Root.Implicit {
		return 0, false
	}
	return a.Tree.Root.FileMode(), true
}

// headerAllowance is how much of tar headers -max-size lets pass on top. It
// is for archives of many small files; headers beyond it count, since endless
// empty entries are a bomb too.
const headerAllowance = 16 << 20

// index reads the tar from its first header to the end of the input, whose
// checksum (gzip's CRC and the like) is only looked at there.
func (a *Archive) index(ahead *aheadReader, maxSize int64) error {
	in := &tarStream{ahead: ahead, copyTo: a.own}
	var contents int64
	var copies int64 // what hard links take, which become files of their own in dest
	var global map[string]string
	for first := true; ; {
		start := in.pos
		hdr, err := in.next()
		if err == io.EOF {
			if first {
				return errors.New("archive is empty: it has no entries")
			}
			break
		}
		if errors.Is(err, tar.ErrHeader) {
			if start == 0 {
				return errors.New("not a tar archive, nor one compressed by gzip, bzip2, xz or zstd")
			}
			return fmt.Errorf("archive is corrupt: at byte %d of the tar: %w", start, err)
		}
		if err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader { // git's commit id, say
			global = hdr.PAXRecords
			if err := in.skip(0); err != nil { // to the end of its last block
				return err
			}
			continue
		}
		first = false
		if err := applyGlobal(hdr, global); err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
		stored, segments, err := in.storedData(hdr)
		if err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
		contents += stored
		if hdr.Typeflag != 'V' { // a volume's label
			e, err := a.Tree.add(hdr, in.pos, segments)
			if err != nil {
				return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
			}
			if hdr.Typeflag == tar.TypeLink {
				copies += e.StoredSize()
			}
		}
		if excess := max(in.pos-contents-headerAllowance, 0); maxSize > 0 && contents+copies+excess > maxSize {
			return fmt.Errorf("archive unpacks to more than the %s that -max-size allows", humanize.IBytes(uint64(maxSize)))
		}
		if err := in.skip(stored); err != nil {
			return fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
	}
	return in.drain()
}

// applyGlobal gives an entry what the last global PAX header before it says of
// the entries that do not say it themselves (pax in POSIX.1, "pax Extended
// Header"). Like tar(1), it takes no names of users and groups from there.
func applyGlobal(hdr *tar.Header, global map[string]string) error {
	for key, value := range global {
		if _, own := hdr.PAXRecords[key]; own || value == "" {
			continue
		}
		var err error
		switch key {
		case "uid":
			hdr.Uid, err = strconv.Atoi(value)
			hdr.Uname = ""
		case "gid":
			hdr.Gid, err = strconv.Atoi(value)
			hdr.Gname = ""
		case "mtime":
			whole, fraction, _ := strings.Cut(value, ".")
			var sec, nsec int64
			if sec, err = strconv.ParseInt(whole, 10, 64); err == nil && fraction != "" {
				nsec, err = strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
			}
			if strings.HasPrefix(whole, "-") {
				nsec = -nsec
			}
			hdr.ModTime = time.Unix(sec, nsec)
		}
		if err != nil {
			return fmt.Errorf("global header: %s: %w", key, err)
		}
	}
	return nil
}

// maxHeader bounds an entry's headers: archive/tar takes up to 1 MiB each of
// PAX records, a long name, a long link target and a sparse map.
const maxHeader = 5 << 20

// tarStream reads a tar once, from start to end. As it goes, it copies the tar
// to a file where it came out of a decompressor.
type tarStream struct {
	ahead  *aheadReader
	copyTo *unixfs.StripedFile // nil for a tar that is in the spool as it is
	pos    int64

	reader tar.Reader
	block  []byte // what of the last block read is still to be consumed
	copied int64
	header []byte // what Read has handed out since next was called
}

// next reads up to the data of the next entry. The error at the end of the
// Archive is io.EOF.
func (s *tarStream) next() (*tar.Header, error) {
	s.header = s.header[:0]
	// Next takes from its reader just what is header. Data would be skipped by
	// a second call on the same Reader, which has no place for what it skips
	// to be told apart from what it reads; so each entry has its own, in
	// the memory of the last.
	s.reader = *tar.NewReader(s)
	hdr, err := s.reader.Next()
	switch {
	case err == nil:
		return hdr, nil
	case len(s.header) >= blockSize && [blockSize]byte(s.header) == [blockSize]byte{}:
		if err != io.EOF {
			log.Printf("[WARN] the archive ends with a lone zero block")
		}
		return nil, io.EOF
	case s.ahead.err != nil && s.ahead.err != io.EOF:
		return nil, s.ahead.err
	case len(s.header) < blockSize && s.ahead.err == io.EOF:
		switch {
		case s.pos == 0:
			return nil, io.EOF
		case s.pos < blockSize:
			return nil, tar.ErrHeader
		}
		// tar(1) takes it. But what lacks its end has most likely been cut off
		// between two files, and the others would be deleted from dest.
		return nil, fmt.Errorf("its end is not marked by blocks of zeros: %w", io.ErrUnexpectedEOF)
	case err == io.EOF:
		return nil, io.ErrUnexpectedEOF
	}
	return nil, err
}

// Read is for archive/tar, which is to see headers only.
func (s *tarStream) Read(p []byte) (int, error) {
	if err := s.fill(); err != nil {
		return 0, err
	}
	if len(s.header)+len(p) > maxHeader {
		return 0, errors.New("tar header is too large")
	}
	n := copy(p, s.block)
	s.consume(n)
	s.header = append(s.header, p[:n]...)
	return n, nil
}

// skip passes over an entry's data and the padding after it.
func (s *tarStream) skip(size int64) error {
	for end := (s.pos + size + blockSize - 1) &^ (blockSize - 1); s.pos < end; {
		if err := s.fill(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		s.consume(int(min(end-s.pos, int64(len(s.block)))))
	}
	return nil
}

// drain reads on to the end of the input, which checks what a compressed file
// has there. Whatever follows the end of the tar is ignored, as by tar(1).
func (s *tarStream) drain() error {
	for {
		if _, err := s.ahead.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *tarStream) consume(n int) {
	s.block = s.block[n:]
	s.pos += int64(n)
}

// fill makes block non-empty.
func (s *tarStream) fill() error {
	if len(s.block) > 0 {
		return nil
	}
	block, err := s.ahead.next()
	if err != nil {
		return err
	}
	s.block = block
	if s.copyTo == nil {
		return nil
	}
	if _, err := s.copyTo.WriteAt(block, s.copied); err != nil {
		return fmt.Errorf("unpack the archive: %w", unixfs.TempSpaceError("what it unpacks to", err, s.copied+int64(len(block))))
	}
	s.copied += int64(len(block))
	return nil
}

// storedData is how many bytes of data follow the header just read, and where
// in the file they go where it is sparse.
func (s *tarStream) storedData(hdr *tar.Header) (int64, []Segment, error) {
	switch hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0, nil, nil // archive/tar takes none for them, whatever their size says
	}
	segments, sparse, err := sparseMap(hdr, s.header)
	if err != nil {
		return 0, nil, err
	}
	stored := hdr.Size
	if sparse {
		stored = 0
		for _, seg := range segments {
			stored += seg.Length
		}
	}
	if stored < 0 || s.pos+stored+blockSize < 0 {
		return 0, nil, fmt.Errorf("impossible size %d", stored)
	}
	return stored, segments, nil
}

// unpackedReader reads the tar that is in an archive of any format.
type unpackedReader struct {
	io.Reader
	close      func()
	compressed bool
}

// maxWindow bounds how much of its output a decompressor has to remember, and
// so its memory. It is what zstd(1) takes unless told otherwise; xz -9 needs
// half of it.
const maxWindow = 128 << 20

// decompress tells the format by the first bytes, as tar(1) does.
func decompress(ctx context.Context, src io.Reader) (*unpackedReader, error) {
	br := bufio.NewReaderSize(src, 32<<10)
	magic, short := br.Peek(10)
	if short != nil && short != io.EOF {
		return nil, short
	}
	if len(magic) == 0 {
		return nil, errors.New("archive is empty: it has no bytes")
	}
	unpacked := &unpackedReader{close: func() {}, compressed: true}
	var err error
	switch {
	case bytes.HasPrefix(magic, []byte(gzip.Magic)):
		packed := readAhead(ctx, br, func() {})
		unpacked.Reader, unpacked.close = gzip.NewReader(packed), packed.stop
	case bytes.HasPrefix(magic, []byte("BZh")) && len(magic) == 10 &&
		(string(magic[4:]) == "1AY&SY" || string(magic[4:]) == "\x17\x72\x45\x38\x50\x90"):
		unpacked.Reader = bzip2Reader{bzip2.NewReader(br)}
	case bytes.HasPrefix(magic, []byte(xzMagic)):
		unpacked.Reader, err = newXZReader(br)
	case isZstd(magic):
		// With memory for twice the window, it need not move what it has to
		// remember for each block.
		const large = 16 << 20
		var first zstd.Header
		head, _ := br.Peek(zstd.HeaderMaxSize) // or less
		saving := first.Decode(head) != nil || first.Skippable || first.SingleSegment || first.WindowSize > large
		packed := readAhead(ctx, br, func() {})
		var d *zstd.Decoder
		d, err = zstd.NewReader(packed, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(saving), zstd.WithDecoderConcurrency(1))
		if err != nil {
			packed.stop()
			break
		}
		unpacked.Reader, unpacked.close = d, func() {
			d.Close()
			packed.stop()
		}
	default:
		unpacked.Reader, unpacked.compressed = br, false
	}
	if err != nil {
		return nil, fmt.Errorf("decompress the archive: %w", err)
	}
	return unpacked, nil
}

// isZstd reports whether magic is a frame's, or a skippable frame's, which may
// come first.
func isZstd(magic []byte) bool {
	return bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(magic) > 3 && magic[0]&0xf0 == 0x50 && string(magic[1:4]) == "\x2a\x4d\x18"
}

// xzMagic is what every xz stream begins with (The .xz File Format, 2.1.1.1).
const xzMagic = "\xfd7zXZ\x00"

// xzReader gives the errors of package xz the meaning that Index expects.
type xzReader struct{ r *xz.Reader }

func newXZReader(r io.Reader) (io.Reader, error) {
	z, err := xz.NewReader(r, maxWindow)
	if err != nil {
		return nil, xzError(err)
	}
	return xzReader{z}, nil
}

func (z xzReader) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	return n, xzError(err)
}

func xzError(err error) error {
	if err == xz.ErrBuf {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bzip2Reader ignores what follows the last stream, as bzip2(1) does.
type bzip2Reader struct{ r io.Reader }

func (z bzip2Reader) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if err == bzip2.StructuralError("bad magic value in continuation file") {
		log.Printf("[WARN] ignored what follows the archive's bzip2 data")
		err = io.EOF
	}
	return n, err
}

// aheadReader reads in a goroutine of its own, so that decompressing overlaps
// with reading what is decompressed, and with what is done with the result.
type aheadReader struct {
	full  chan aheadBlock
	empty chan []byte
	used  []byte
	rest  []byte // of the last block, for Read
	done  chan struct{}
	ended bool
	err   error
}

type aheadBlock struct {
	b   []byte
	err error
}

// readAhead starts reading r, and calls closed in the end.
func readAhead(ctx context.Context, r io.Reader, closed func()) *aheadReader {
	const blocks, size = 4, 256 << 10
	a := &aheadReader{
		full:  make(chan aheadBlock, blocks),
		empty: make(chan []byte, blocks),
		done:  make(chan struct{}),
	}
	for range blocks {
		a.empty <- make([]byte, size)
	}
	go func() {
		defer close(a.full)
		defer closed()
		for {
			var b []byte
			select {
			case b = <-a.empty:
			case <-a.done:
				return
			}
			n, err := 0, ctx.Err()
			for n < len(b) && err == nil {
				var more int
				more, err = r.Read(b[n:])
				n += more
			}
			a.full <- aheadBlock{b[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// next returns the next block, valid until the call after.
func (a *aheadReader) next() ([]byte, error) {
	for !a.ended {
		if a.used != nil {
			a.empty <- a.used[:cap(a.used)]
			a.used = nil
		}
		block := <-a.full
		if block.err != nil {
			a.ended, a.err = true, block.err
		}
		if len(block.b) > 0 {
			a.used = block.b
			return block.b, nil
		}
	}
	return nil, a.err
}

// Read is next for who wants an io.Reader.
func (a *aheadReader) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		var err error
		if a.rest, err = a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends the goroutine and waits for it.
func (a *aheadReader) stop() {
	close(a.done)
	for range a.full {
	}
}

// recordingReader keeps the error of the reader under it, other than io.EOF.
type recordingReader struct {
	r   io.Reader
	err error
}

func (s *recordingReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
