// Package preview is the list of what a deployment would change, as a dry run shows
// it: one line for each path.
//
//	would create path
//	would change path: contents, mode 0644 -> 0755
//	would delete path/
package preview

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/redact"
)

// Kind is what would be done with a path.
type Kind int

const (
	Create Kind = iota // dest does not have it
	Change             // its contents, type, mode, owner or time would change
	Delete             // the archive does not have it
)

// Item is one path that would not stay as it is.
type Item struct {
	Kind Kind
	Path string // relative to dest, with slashes; "." is dest itself
	Dir  bool   // the path is, or would be, a directory
	// Differs is what differs, for Change, such as "contents" or "mode 0644 -> 0755".
	Differs []string
	Bytes   int64 // how many would be written
}

// String returns the line for an item, without a line break. Control characters are
// escaped.
func (i Item) String() string {
	name := i.Path
	if i.Dir {
		name += "/"
	}
	verb := [...]string{"create", "change", "delete"}[i.Kind]
	line := "would " + verb + " " + name
	if len(i.Differs) > 0 {
		line += ": " + strings.Join(i.Differs, ", ")
	}
	return redact.Printable(line)
}

// KindName returns a word for the type of a file, as st_mode of stat(2) has it.
func KindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "device"
}

// ComparePaths is the order of items for slices.SortFunc: by names, what is in a
// directory directly after it.
func ComparePaths(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	rest := func(s string) int {
		switch {
		case n == len(s):
			return -2
		case s[n] == '/':
			return -1
		}
		return int(s[n])
	}
	return cmp.Compare(rest(a), rest(b))
}

// Total counts items.
type Total struct {
	Created, Changed, Deleted int
	Bytes                     int64
}

// In says how much would change in dest.
func (t Total) In(dest string) string {
	return fmt.Sprintf("%d would be created, %d changed, %d deleted in %s, %s written",
		t.Created, t.Changed, t.Deleted, dest, humanize.IBytes(uint64(t.Bytes)))
}

// Write writes a line for each item, and returns how many there are. If items is nil,
// there are none. The error is that of w.
func Write(w io.Writer, items iter.Seq[Item]) (Total, error) {
	var t Total
	if items == nil {
		return t, nil
	}
	lines := bufio.NewWriterSize(w, 32<<10)
	for i := range items {
		switch i.Kind {
		case Create:
			t.Created++
		case Change:
			t.Changed++
		case Delete:
			t.Deleted++
		}
		t.Bytes += i.Bytes
		lines.WriteString(i.String())
		lines.WriteByte('\n')
	}
	return t, lines.Flush()
}
