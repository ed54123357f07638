package archive

import (
	"cmp"
	"hash/maphash"
	"iter"
	"slices"
)

// children are the entries in a directory, found by their names. It is a hash
// table with linear probing, which for a million entries takes a third of the
// memory of a map.
type children struct {
	slots []*Entry // their number is a power of two, or 0; nil is a free slot
	n     int      // how many slots are taken
}

var hashSeed = maphash.MakeSeed()

// slot returns the slot that the entry with a name is in, or else the free one
// where it would be put. There must be a free one.
func (c *children) slot(name string) **Entry {
	mask := uint64(len(c.slots) - 1)
	for i := maphash.String(hashSeed, name); ; i++ {
		if at := &c.slots[i&mask]; *at == nil || (*at).Name == name {
			return at
		}
	}
}

// get returns the entry with a name, nil if there is none.
func (c *children) get(name string) *Entry {
	if c.n == 0 {
		return nil
	}
	return *c.slot(name)
}

// put adds an entry. It replaces another one with its name.
func (c *children) put(e *Entry) {
	if (c.n+1)*4 > len(c.slots)*3 {
		c.resize(max(2*len(c.slots), 4), func(*Entry) bool { return true })
	}
	at := c.slot(e.Name)
	if *at == nil {
		c.n++
	}
	*at = e
}

// resize moves the entries that keep returns true for to a table of size slots,
// and drops the others.
func (c *children) resize(size int, keep func(*Entry) bool) {
	old := c.slots
	c.slots, c.n = make([]*Entry, size), 0
	for _, e := range old {
		if e != nil && keep(e) {
			*c.slot(e.Name) = e
			c.n++
		}
	}
}

// Child returns the entry that a directory has under a name, nil if it has none.
func (e *Entry) Child(name string) *Entry {
	if e.inode == nil {
		return nil
	}
	return e.inode.children.get(name)
}

// Children iterates over the entries of a directory in no particular order.
func (e *Entry) Children() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		if e.inode == nil {
			return
		}
		for _, child := range e.inode.children.slots {
			if child != nil && !yield(child) {
				return
			}
		}
	}
}

// HasChildren reports whether the entry is a directory that is not empty.
func (e *Entry) HasChildren() bool { return e.inode != nil && e.inode.children.n > 0 }

// CompareOffsets compares two entries for slices.SortFunc: by the offsets of their
// data in the archive, so that the data is read in order, then by name.
func CompareOffsets(a, b *Entry) int {
	return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Name, b.Name))
}

// ByOffset returns the entries of a directory in the order of CompareOffsets.
func (e *Entry) ByOffset() []*Entry { return e.sorted(CompareOffsets) }

// Len returns how many entries a directory has.
func (e *Entry) Len() int {
	if e.inode == nil {
		return 0
	}
	return e.inode.children.n
}

// ByName returns the entries of a directory in the order of their names.
func (e *Entry) ByName() []*Entry {
	return e.sorted(func(a, b *Entry) int { return cmp.Compare(a.Name, b.Name) })
}

func (e *Entry) sorted(compare func(a, b *Entry) int) []*Entry {
	if !e.HasChildren() {
		return nil
	}
	list := slices.AppendSeq(make([]*Entry, 0, e.inode.children.n), e.Children())
	slices.SortFunc(list, compare)
	return list
}

// Put adds a child to a directory. It replaces another one with its name.
func (e *Entry) Put(child *Entry) { e.details().children.put(child) }

// Filter removes the children of a directory that keep returns false for.
func (e *Entry) Filter(keep func(child *Entry) bool) {
	dropped := map[*Entry]bool{}
	for child := range e.Children() {
		if !keep(child) {
			dropped[child] = true
		}
	}
	if len(dropped) > 0 { // otherwise not: the new table for a million entries takes 16 MiB
		c := &e.inode.children
		c.resize(len(c.slots), func(child *Entry) bool { return !dropped[child] })
	}
}
