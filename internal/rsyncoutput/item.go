package rsyncoutput

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/preview"
)

// DryRun are the arguments with which rsync changes nothing, and prints what it
// would do in the form that KeepItems expects: "@", what differs, the size and the name of
// each file that would not stay as it is. -8 leaves all bytes of names but control
// characters as they are, whatever the locale is.
var DryRun = []string{"-n", "-8", "--out-format=@%i %l %n"}

// item is a line of rsync --itemize-changes (rsync(1), "--itemize-changes").
type item struct {
	flags string // at most 11 characters; a space at the end is left out
	size  int64
	path  string // without a trailing slash
	isDir bool
}

// parseItem parses a line that DryRun makes rsync print, and reports whether it is
// one.
func parseItem(line string) (i item, ok bool) {
	const flags = 11 // characters
	if len(line) < 1+flags+1 || line[0] != '@' || line[1+flags] != ' ' {
		return item{}, false
	}
	i.flags = strings.TrimRight(line[1:1+flags], " ")
	size, name, ok := strings.Cut(line[1+flags+1:], " ")
	if !ok || name == "" || len(i.flags) < 2 || !strings.Contains("<>ch.*", i.flags[:1]) {
		return item{}, false
	}
	var err error
	if i.size, err = strconv.ParseInt(size, 10, 64); err != nil || i.size < 0 {
		return item{}, false
	}
	i.path, i.isDir = strings.CutSuffix(unescape(name), "/")
	return i, i.path != ""
}

// unescape returns the name that rsync has escaped: a control character as "\#" and
// three octal digits, and a backslash before what looks like that, too.
func unescape(name string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(name, `\#`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name = after
		code := after[:min(3, len(after))]
		if c, err := strconv.ParseUint(code, 8, 8); err == nil && len(code) == 3 {
			b.WriteByte(byte(c))
			name = after[3:]
		} else {
			b.WriteString(`\#`)
		}
	}
}

// KeepItems makes an Output keep the lines that DryRun makes rsync print, instead of
// passing them on. It has to be called before the first Write.
func (o *Output) KeepItems() { o.keepsItems = true }

// Changes returns what the kept lines say, sorted. The directories are those that
// were compared: from is where rsync reads, and dest what it would change.
func (o *Output) Changes(from, dest string) []preview.Item {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []preview.Item
	for _, i := range o.items {
		if change, ok := i.change(from, dest); ok && !(change.Kind == preview.Delete && o.stay[i.path]) {
			list = append(list, change)
		}
	}
	slices.SortStableFunc(list, func(a, b preview.Item) int { return preview.ComparePaths(a.Path, b.Path) })
	return list
}

// misleads reports whether a line says what a dry run does not do: list names, or create
// dest.
func misleads(line []byte) bool {
	return listsNames(line) || bytes.HasPrefix(line, []byte("created directory "))
}

// noteStay notes the directory that a message says cannot be deleted, because names
// in it are excluded. A dry run of rsync may list it as deleted, too.
func (o *Output) noteStay(line string) {
	if name, ok := strings.CutPrefix(line, "cannot delete non-empty directory: "); ok {
		if o.stay == nil {
			o.stay = map[string]bool{}
		}
		o.stay[unescape(name)] = true
	}
}

// change returns what an item means, and false for nothing.
func (i item) change(from, dest string) (preview.Item, bool) {
	p := preview.Item{Path: i.path, Dir: i.isDir}
	if strings.HasPrefix(i.flags, "*deleting") {
		p.Kind = preview.Delete
		return p, true
	}
	if i.flags[0] == '>' || i.flags[0] == '<' {
		p.Bytes = i.size
	}
	now, old := stat(from, i.path), stat(dest, i.path)
	if strings.HasSuffix(i.flags, "+++") {
		if old == nil {
			p.Kind = preview.Create
			return p, true
		}
		was, is := preview.KindName(old.Mode), preview.KindName(kindOf(i.flags[1]))
		p.Kind, p.Differs = preview.Change, []string{"type " + was + " -> " + is}
		if was == is {
			p.Differs = []string{is}
		}
		return p, true
	}
	p.Kind, p.Differs = preview.Change, i.differs(now, old)
	return p, len(p.Differs) > 0
}

// differs says what the flags mean. now and old are the files, nil if there is none.
func (i item) differs(now, old *unix.Stat_t) []string {
	var list []string
	switch {
	case i.flags[0] == '>' || i.flags[0] == '<':
		what := "copied" // since the time differs; the contents may be the same
		if strings.ContainsAny(i.flags[2:], "cs") {
			what = "contents"
		}
		list = append(list, what)
	case i.flags[0] == 'c' && i.flags[1] == 'L':
		list = append(list, "target")
	case i.flags[0] == 'c' && i.flags[1] != 'd':
		list = append(list, "device")
	}
	values := func(name, format string, value func(*unix.Stat_t) uint32) string {
		if now == nil || old == nil {
			return name
		}
		return fmt.Sprintf("%s "+format+" -> "+format, name, value(old), value(now))
	}
	for _, f := range []struct {
		flag rune
		text string
	}{
		{'o', values("owner", "%d", func(st *unix.Stat_t) uint32 { return st.Uid })},
		{'g', values("group", "%d", func(st *unix.Stat_t) uint32 { return st.Gid })},
		{'p', values("mode", "%04o", func(st *unix.Stat_t) uint32 { return st.Mode & 0o7777 })},
		{'t', "time"}, {'T', "time"}, {'a', "ACL"}, {'x', "extended attributes"},
	} {
		if strings.ContainsRune(i.flags[2:], f.flag) {
			list = append(list, f.text)
		}
	}
	return list
}

// stat is lstat(2) of a path below a directory, nil if it fails. What a symbolic link
// in the path leads to does not count: a directory will take the place of the link.
func stat(dir, path string) *unix.Stat_t {
	var st unix.Stat_t
	for parent := filepath.Dir(path); parent != "." && parent != "/"; parent = filepath.Dir(parent) {
		if unix.Lstat(filepath.Join(dir, parent), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
	}
	if unix.Lstat(filepath.Join(dir, path), &st) != nil {
		return nil
	}
	return &st
}

// kindOf returns the type of a file that a flag of rsync stands for.
func kindOf(flag byte) uint32 {
	switch flag {
	case 'd':
		return unix.S_IFDIR
	case 'L':
		return unix.S_IFLNK
	case 'D':
		return unix.S_IFCHR
	case 'S':
		return unix.S_IFIFO
	}
	return unix.S_IFREG
}
