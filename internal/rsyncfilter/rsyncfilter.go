// Package rsyncfilter tells which names of a tree rsync(1) would leave alone:
// it is what
//
//	rsync -a --delete --exclude-from=FILE --exclude=PATTERN SRC/ DEST/
//
// makes of those two options, on the side of SRC (an excluded name is not
// sent) and on the side of DEST (an excluded name is not deleted) alike.
//
// A rule is a pattern, excluded where it matches. Before the pattern may stand
// "- ", which changes nothing, or "+ ", which makes the rule an include. "!"
// alone drops all rules given so far. The first rule that matches a name
// decides, and a name that none matches is not excluded.
//
//	foo        a file or directory foo anywhere
//	foo/       a directory foo anywhere
//	/foo       foo at the top of the tree
//	foo/bar    bar in any directory foo
//	*.pid      '*' and '?' match anything but a slash
//	foo/**     '**' matches slashes too: all that is below a directory foo
//	foo/***    the same, and the directory itself
//	[a-z_]     a class, also [!a-z], [^a-z] and [[:alpha:]]
//	foo\*      a backslash escapes, but only in a pattern that has one of *?[
//
// Patterns without a slash (a trailing one aside) and without "**" are matched
// against the last component of a path, others against as many components at
// its end as they need. All is matched by bytes; classes such as [:alpha:]
// hold ASCII characters only, as they do in the C and the UTF-8 locales.
//
// Of rsync's filter language this is the whole that --exclude and
// --exclude-from give access to. Not here is what takes --filter or another
// option: rules with long or other short names (merge, dir-merge, hide, show,
// protect, risk), modifiers ("-! foo", "-p foo"), --cvs-exclude. In an
// --exclude they are patterns like any other, to rsync and here.
//
// The reference is rsync(1), "FILTER RULES" with "PATTERN MATCHING RULES"
// ("INCLUDE/EXCLUDE PATTERN RULES" in older manuals), and where it says
// nothing, what rsync 3.2.7 and 3.5.0 were seen to do, in which they agree. The
// tests compare with the rsync that is installed.
package rsyncfilter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxPattern is the length from which on rsync discards a pattern: PATH_MAX on
// Linux.
const maxPattern = 4096

// List is an ordered list of rules. The zero value excludes nothing. Once
// built, it may be used by several goroutines at a time.
type List struct {
	rules []rule
}

type rule struct {
	include bool
	pattern pattern
}

// Add appends a rule as --exclude=rule does. An empty rule is ignored, and so
// is a pattern of 4096 bytes or more, as rsync does. A prefix without a pattern
// is an error, and so is a NUL byte, which no argument of a program can hold.
func (l *List) Add(text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("filter rule %q: NUL byte", text)
	}
	if text == "!" {
		l.rules = nil
		return nil
	}
	body, include := strings.CutPrefix(text, "+ ")
	if !include {
		body = strings.TrimPrefix(text, "- ")
	}
	if body == "" && text != "" {
		return fmt.Errorf("filter rule %q: no pattern", text)
	}
	if body == "" || len(body) >= maxPattern {
		return nil
	}
	if p, ok := compile(body); ok {
		l.rules = append(l.rules, rule{include, p})
	}
	return nil
}

// AddFrom appends the rules of a file as --exclude-from does: one a line, as
// Add takes it, blank lines and those that begin with '#' or ';' skipped.
// White space belongs to the pattern. A line ends at LF, at CR or at the end of
// the file, and what follows a NUL byte in it is ignored. On an error, the list
// holds the rules before it.
func (l *List) AddFrom(r io.Reader) error {
	in := bufio.NewReader(r)
	number := 1
	var line []byte
	for {
		c, err := in.ReadByte()
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read filter rules: %w", err)
		}
		if err == nil && c != '\n' && c != '\r' {
			// No more than shows that Add will discard it.
			if len(line) < len("- ")+maxPattern {
				line = append(line, c)
			}
			continue
		}
		text, _, _ := strings.Cut(string(line), "\x00")
		if !strings.HasPrefix(text, "#") && !strings.HasPrefix(text, ";") {
			if err := l.Add(text); err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
		}
		if err != nil {
			return nil
		}
		line = line[:0]
		if c == '\n' {
			number++
		}
	}
}

// Excluded tells whether the rules exclude path, a slash-separated path below
// the root of the tree without a leading or trailing slash; dir says that it is
// a directory, which a symbolic link to one is not. The root itself, "" or ".",
// is never excluded.
//
// The answer is about this name alone. What is below an excluded directory is
// out of the tree whatever the rules say of it: a caller does not descend.
func (l *List) Excluded(path string, dir bool) bool {
	if path == "" || path == "." {
		return false
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	for i := range l.rules {
		if l.rules[i].pattern.match(path, base, dir) {
			return !l.rules[i].include
		}
	}
	return false
}
