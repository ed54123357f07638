package treesync

import (
	"bufio"
	"fmt"
	"path"
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

// escape replaces control characters other than tabs, and the backslash of what looks
// like an escaped one, as rsync does (rsync(1), "--8-bit-output"). So a name that
// contains a newline does not look like two names.
func escape(name string) string {
	if !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == '\\' }) {
		return name
	}
	var escaped strings.Builder
	for i := range len(name) {
		if c := name[i]; c < ' ' && c != '\t' || looksEscaped(name[i:]) {
			fmt.Fprintf(&escaped, `\#%03o`, c)
		} else {
			escaped.WriteByte(c)
		}
	}
	return escaped.String()
}

// looksEscaped reports whether a text begins with a backslash, # and three digits.
func looksEscaped(text string) bool {
	digits, ok := strings.CutPrefix(text, `\#`)
	return ok && len(digits) >= 3 && strings.Trim(digits[:3], "0123456789") == ""
}
