package archive

import (
	"archive/tar"
	"bytes"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestSparseFormats(t *testing.T) {
	t.Parallel()
	files := tartest.SparseFiles()
	for _, sparse := range tartest.SparseArchives(t, files) {
		t.Run(sparse.Option, func(t *testing.T) {
			a := mustIndex(t, sparse.Data)
			for name, extents := range files {
				e, err := a.Tree.LookUp(name)
				if err != nil {
					t.Fatal(err)
				}
				checkSparse(t, a, name, e, extents)
			}
			if got := contentsOf(t, a, "plain"); got != "plain" {
				t.Errorf("plain: %q", got)
			}
			stored := a.Tree.Root.StoredSize()
			if stored > 6<<20 {
				t.Fatalf("%d bytes are stored", stored)
			}
			if _, err := indexBytes(t, sparse.Data, stored); err != nil {
				t.Error(err)
			}
			if _, err := indexBytes(t, sparse.Data, stored-1); err == nil {
				t.Error("-max-size does not count the stored bytes")
			}
		})
	}
}

// checkSparse checks that the segments of a file contain its extents, and zeros
// otherwise.
func checkSparse(t *testing.T, a *Archive, name string, e *Entry, extents []tartest.Extent) {
	last := extents[len(extents)-1]
	if size := last.Offset + last.Length; e.Size != size || e.Segments() == nil {
		t.Errorf("%s: size %d, segments %v; want size %d", name, e.Size, e.Segments(), size)
	}
	var want, got int64 // bytes that are not zero
	for _, x := range extents {
		want += x.Length
	}
	offset := e.Offset
	for _, seg := range e.Segments() {
		b := make([]byte, seg.Length)
		if n, err := a.Data().ReadAt(b, offset); n < len(b) {
			t.Fatalf("%s: %v", name, err)
		}
		offset += seg.Length
		for _, x := range extents {
			from, to := max(x.Offset, seg.Offset), min(x.Offset+x.Length, seg.Offset+seg.Length)
			if from < to {
				part := b[from-seg.Offset : to-seg.Offset]
				got += int64(bytes.Count(part, []byte{'x'}))
				clear(part)
			}
		}
		if len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("%s: the segment %v has data where the file has a hole", name, seg)
		}
	}
	if got != want {
		t.Errorf("%s: the segments have %d bytes of the extents, want %d", name, got, want)
	}
}

// A hole of exabytes takes neither time nor memory.
func TestSparseHugeHole(t *testing.T) {
	t.Parallel()
	records := tartest.PAXRecord("GNU.sparse.size", "9223372036854775807") + tartest.PAXRecord("GNU.sparse.numblocks", "1") +
		tartest.PAXRecord("GNU.sparse.map", "9223372036854775807,0")
	pax := tartest.RawHeader("pax", tar.TypeXHeader, int64(len(records)))
	data := append(pax, records...)
	data = append(data, make([]byte, -len(records)&511)...)
	data = append(data, tartest.RawHeader("huge", tar.TypeReg, 0)...)
	data = append(data, make([]byte, 1024)...)
	a := mustIndex(t, data)
	if e := a.Tree.Root.Child("huge"); e == nil || e.Size != 1<<63-1 || len(e.Segments()) != 0 || e.Segments() == nil {
		t.Fatalf("%+v", e)
	}
}
