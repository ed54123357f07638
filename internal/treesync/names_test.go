package treesync

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Names that dest and the tree both have cost nothing but the list of dest, in
// which they share the memory of the tree's.
func TestNamesOfLargeDirectory(t *testing.T) {
	const names = 10_000
	dir := &archive.Entry{Mode: unix.S_IFDIR}
	found := []unixfs.Dirent{{Name: "extra"}}
	for i := range names {
		name := fmt.Sprintf("%05d", i)
		dir.Put(&archive.Entry{Name: name, Offset: int64(names - i), Mode: unix.S_IFREG})
		found = append(found, unixfs.Dirent{Name: name, Kind: unix.S_IFREG})
	}
	dir.Put(&archive.Entry{Name: "missing 2", Offset: 2})
	dir.Put(&archive.Entry{Name: "missing 1", Offset: 1})
	var missing []string
	var both, extra []unixfs.Dirent
	if n := testing.AllocsPerRun(1, func() {
		list := slices.Clone(found)
		missing = missingNames(dir, list)
		both, extra = splitByTree(list, dir)
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
	if !slices.Equal(missing, []string{"missing 1", "missing 2"}) {
		t.Errorf("missing: %q", missing)
	}
	if len(extra) != 1 || extra[0].Name != "extra" {
		t.Errorf("extra: %v", extra)
	}
	if len(both) != names || both[0].Name != "09999" || both[names-1].Name != "00000" || both[0].Kind != unix.S_IFREG {
		t.Errorf("both: %d names", len(both))
	}
}
