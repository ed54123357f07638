package treesync

import (
	"bufio"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/fujiwara/stretcher/internal/archive"
)

// listing writes what a sync does in the form of rsync -v: the paths that are
// deleted, and then those that are created or changed, in each directory the
// files before the directories.
type listing struct{ w *bufio.Writer }

func (l listing) line(name string) {
	l.w.WriteString(escape(name))
	l.w.WriteByte('\n')
}

func (l listing) deleted(p *dirPlan) {
	for _, deleted := range p.deleted {
		l.line("deleting " + deleted)
	}
	for _, sub := range p.subdirs {
		l.deleted(sub)
	}
}

func (l listing) placed(p *dirPlan) {
	if p.entry == nil {
		return // the directory stays only for protected names: nothing is placed in it
	}
	if p.differs {
		l.line(path.Join(".", p.path) + "/")
	}
	names := slices.Concat(p.staged, p.swapped, p.retimed)
	subs := map[string]*dirPlan{}
	for _, sub := range p.subdirs {
		subs[sub.name] = sub
		names = append(names, sub.name)
	}
	slices.Sort(names)
	for _, name := range names {
		if e := p.entry.Child(name); e != nil && !e.IsDir() {
			l.entry(path.Join(p.path, name), e)
		}
	}
	for _, name := range names {
		if sub := subs[name]; sub != nil {
			l.placed(sub)
		} else if e := p.entry.Child(name); e.IsDir() {
			l.entry(path.Join(p.path, name), e)
		}
	}
}

// entry writes the path of a new entry, and those of all that is below it.
func (l listing) entry(entryPath string, e *archive.Entry) {
	switch {
	case e.IsSymlink():
		entryPath += " -> " + e.Target()
	case e.IsDir():
		entryPath += "/"
	}
	l.line(entryPath)
	children := e.ByName()
	for _, dirs := range []bool{false, true} {
		for _, child := range children {
			if child.IsDir() == dirs {
				l.entry(entryPath+child.Name, child)
			}
		}
	}
}

// unclear matches control characters, and what looks like an escaped one.
var unclear = regexp.MustCompile(`[\x00-\x08\x0a-\x1f]|\\#[0-9]{3}`)

// escape replaces control characters as rsync does (rsync(1), "--8-bit-output"),
// so that a name that contains a newline does not look like two names.
func escape(name string) string {
	if !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == '\\' }) {
		return name
	}
	return unclear.ReplaceAllStringFunc(name, func(s string) string {
		return fmt.Sprintf(`\#%03o`, s[0]) + s[1:]
	})
}
