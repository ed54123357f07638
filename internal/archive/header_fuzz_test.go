package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// readHeaders returns what the headers of a tar say, up to an error.
func readHeaders(data []byte) (list []header, err error) {
	input := readAhead(context.Background(), bytes.NewReader(data), func() {})
	defer input.stop()
	s := &tarStream{input: input}
	for {
		var h header
		if err := s.next(&h); err != nil {
			return list, err
		}
		h.name, h.target = bytes.Clone(h.name), bytes.Clone(h.target)
		list = append(list, h)
		if h.hasData() {
			if err := s.discard(h.size + padding(h.size)); err != nil {
				return list, err
			}
		}
	}
}

// FuzzHeaders puts records in a PAX header, and bytes in the header block of a
// file after it. Where archive/tar accepts that, it has the same name, type,
// size, times and ids.
func FuzzHeaders(f *testing.F) {
	record := tartest.PAXRecord
	block := tartest.RawHeader("name", '0', 5)
	f.Add(record("path", "other")+record("size", "3")+record("mtime", "-1.5"), byte('x'), block)
	f.Add(record("linkpath", "target\x00x"), byte('x'), tartest.WithLink(tartest.RawHeader("l", '2', 0), "t"))
	f.Add(record("uid", "7")+record("gid", "8")+record("uname", "daemon"), byte('g'), block)
	f.Add(record("GNU.sparse.size", "900")+record("GNU.sparse.numblocks", "1")+record("GNU.sparse.map", "0,5"), byte('x'), block)
	f.Add(record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+record("GNU.sparse.realsize", "9"), byte('x'), block)
	f.Add("", byte('x'), tartest.WithField(block, 124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05"))
	f.Add(strings.Repeat("n", 200), byte('L'), tartest.WithField(tartest.RawHeader("n", '0', 0), 257, "ustar  \x00"))
	f.Add("t\x00", byte('K'), tartest.WithGNUSparse(tartest.RawHeader("s", 'S', 5), 5000, 512, 5))
	f.Fuzz(func(t *testing.T, extension string, typ byte, block []byte) {
		if len(block) < blockSize {
			block = append(block, make([]byte, blockSize-len(block))...)
		}
		block = tartest.WithField(bytes.Clone(block), 0, "")
		data := append(tartest.RawHeader("x", typ, int64(len(extension))), extension...)
		data = append(data, make([]byte, padding(int64(len(data))))...)
		data = append(data, block...)
		data = append(data, make([]byte, 4*blockSize)...)

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		list, err := readHeaders(data)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20+100*uint64(len(data)) {
			t.Errorf("%d bytes of memory for %d bytes of tar", used, len(data))
		}
		for i := range list {
			checkSegments(t, list[i].segments, list[i].fileSize, list[i].size)
		}
		if typ != 'x' && typ != 'L' && typ != 'K' {
			return // archive/tar does not apply global headers
		}
		r := tar.NewReader(bytes.NewReader(data))
		want, tarErr := r.Next()
		if tarErr != nil || onlyGo(block, want) {
			return
		}
		if len(list) == 0 {
			t.Fatalf("%v; archive/tar has %+v", err, want)
		}
		h := list[0]
		if string(h.name) != want.Name && len(h.name) > 0 { // it ignores an empty long name
			t.Errorf("name %q, archive/tar has %q", h.name, want.Name)
		}
		if h.sec != want.ModTime.Unix() {
			t.Errorf("time %d, archive/tar has %d", h.sec, want.ModTime.Unix())
		}
		if h.uid != NoID && h.uid != want.Uid || h.gid != NoID && h.gid != want.Gid {
			t.Errorf("owner %d:%d, archive/tar has %d:%d", h.uid, h.gid, want.Uid, want.Gid)
		}
		if h.hasData() && h.segments == nil && h.size != want.Size {
			t.Errorf("size %d, archive/tar has %d", h.size, want.Size)
		}
	})
}

// onlyGo reports whether archive/tar takes a header that tar(1) and this package
// refuse.
func onlyGo(block []byte, h *tar.Header) bool {
	for _, field := range []int{100, 108, 116, 124, 136} { // numbers
		// It takes more marks of base-256, skips NULs before the digits, and takes
		// blanks for 0.
		mark := block[field]
		if mark > 0x80 && mark < 0xff || mark == 0 && block[field+1] == 0 || len(bytes.TrimLeft(block[field:field+8], " ")) == 0 {
			return true
		}
	}
	for key, value := range h.PAXRecords {
		// It ignores records of sparse files that are not complete, and takes +1 for 1.
		if strings.HasPrefix(key, "GNU.sparse.") || strings.HasPrefix(value, "+") {
			return true
		}
	}
	return h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID
}

// checkSegments checks what the extraction relies on.
func checkSegments(t *testing.T, segments []Segment, size, stored int64) {
	t.Helper()
	var end, sum int64
	for _, s := range segments {
		if s.Offset < end || s.Length <= 0 || s.Offset > size-s.Length {
			t.Errorf("segment %+v after %d, in a file of %d bytes", s, end, size)
		}
		end = s.Offset + s.Length
		sum += s.Length
	}
	if segments != nil && sum > stored {
		t.Errorf("segments have %d bytes, and %d are stored", sum, stored)
	}
}

// FuzzSparseMap reads the text as a map of the formats 0.1 and 1.0.
func FuzzSparseMap(f *testing.F) {
	f.Add("1\n512\n3\n", int64(5000))
	f.Add("2\n0\n512\n4096\n0\n", int64(4096))
	f.Add("1\n9223372036854775807\n1\n", int64(0))
	f.Add("0\n", int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, text string, realSize int64) {
		h := header{typ: typeRegular, size: int64(len(text)) + padding(int64(len(text))) + blockSize}
		h.sparse.major = 1
		input := readAhead(t.Context(), io.MultiReader(strings.NewReader(text), bytes.NewReader(make([]byte, 2*blockSize))), func() {})
		defer input.stop()
		s := &tarStream{input: input}
		if err := s.readSparseMap(&h); err == nil {
			checkSegments(t, h.segments, h.fileSize, h.size)
			if h.size < 0 {
				t.Errorf("%d bytes are stored", h.size)
			}
		}
		var r sparseRecords
		r.blocks = realSize
		if r.apply("GNU.sparse.map", []byte(strings.ReplaceAll(text, "\n", ","))) == nil {
			if segments, size, err := newSegments(r.numbers, math.MaxInt64, max(realSize, 0)); err == nil {
				checkSegments(t, segments, size, max(realSize, 0))
			}
		}
	})
}
