package archive

import (
	"fmt"
	"testing"
	"unsafe"
)

// An archive may have millions of entries.
func TestEntrySize(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Entry{}); size > 64 {
		t.Errorf("an Entry has %d bytes, want at most 64", size)
	}
}

func TestChildren(t *testing.T) {
	t.Parallel()
	dir := &Entry{}
	dir.Filter(func(*Entry) bool { return false })
	if dir.Child("a") != nil || dir.HasChildren() || len(dir.ByName()) != 0 {
		t.Error("an empty directory has children")
	}
	const n = 3000
	for i := range n {
		// The offsets are in the reverse order of the names.
		dir.Put(&Entry{Name: fmt.Sprintf("%04d", i), Offset: int64(n - i)})
		if i%100 == 0 {
			dir.Put(&Entry{Name: fmt.Sprintf("%04d", i), Offset: int64(n - i)})
		}
	}
	dir.Filter(func(e *Entry) bool { return e.Offset%2 == 0 })
	for i := range n {
		e := dir.Child(fmt.Sprintf("%04d", i))
		if kept := (n-i)%2 == 0; (e != nil) != kept || kept && e.Offset != int64(n-i) {
			t.Fatalf("child %d: %+v", i, e)
		}
	}
	if dir.Child("none") != nil {
		t.Error("there is a child that was not put")
	}
	byName, byOffset := dir.ByName(), dir.ByOffset()
	if len(byName) != n/2 || len(byOffset) != n/2 {
		t.Fatalf("%d children by name, %d by offset, want %d", len(byName), len(byOffset), n/2)
	}
	for i, e := range byName {
		if e.Name != fmt.Sprintf("%04d", 2*i) || byOffset[n/2-1-i] != e {
			t.Fatalf("child %d by name: %+v", i, e)
		}
	}
}
