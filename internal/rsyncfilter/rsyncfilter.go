// Package rsyncfilter implements the filter rules of rsync(1) that its options
// --exclude and --exclude-from accept. It tells which names of a tree the command
//
//	rsync -a --delete --exclude-from=FILE --exclude=PATTERN SRC/ DEST/
//
// excludes. An excluded name in SRC is not sent, and an excluded name in DEST is
// not deleted; the rules are the same for both.
//
// # Rules
//
// A rule is a pattern, optionally after a prefix (manual: "--exclude-from", and
// "SIMPLE INCLUDE/EXCLUDE RULES" and "LIST-CLEARING FILTER RULE" in "FILTER
// RULES"):
//
//	PATTERN      exclude the names that match
//	- PATTERN    the same
//	+ PATTERN    include the names that match
//	!            remove all rules given so far
//
// The first rule whose pattern matches a name decides. A name that no pattern
// matches is included.
//
// # Patterns
//
// The manual describes patterns in "PATTERN MATCHING RULES", which older
// versions call "INCLUDE/EXCLUDE PATTERN RULES":
//
//	foo        a file or directory foo at any depth
//	foo/       only a directory foo, at any depth
//	/foo       foo at the top of the tree
//	foo/bar    bar in a directory foo at any depth
//	*.pid      "*" matches any number of bytes except slashes
//	f?o        "?" matches one byte except a slash
//	foo/**     "**" also matches slashes: everything below a directory foo
//	foo/***    the directory foo and everything below it
//	[a-z_]     a class; also [!a-z], [^a-z] and [[:alpha:]]
//	foo\*      a backslash escapes the next character, but only in a pattern
//	           that contains "*", "?" or "["
//
// A name is matched in these steps:
//
//	if the pattern ends with "/": the name has to be a directory
//	select the part of the path to match:
//	    pattern starts with "/":       the whole path
//	    pattern contains "**":         the path from the start of any component
//	    pattern has n other slashes:   the last n+1 components
//	match the tokens of the pattern (literals, "?", classes, stars) with that
//	part from left to right; at a star, try one position after another
//
// Matching compares bytes, not characters. Named classes such as [:alpha:] contain
// ASCII characters only, as they do for rsync in the C locale and in UTF-8
// locales.
//
// # Limits
//
// rsync has more filter rules, but only for --filter and other options: the
// prefixes for merge, dir-merge, hide, show, protect and risk, long rule names,
// modifiers ("-! foo", "-p foo") and --cvs-exclude. In an --exclude option rsync
// takes them as ordinary patterns, and so does this package.
//
// Where the manual is silent, the package follows the behavior observed in rsync
// 3.2.7 and 3.5.0, which agree. The tests compare it with the installed rsync.
package rsyncfilter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxPattern is the length in bytes at which rsync starts to discard patterns. It
// is PATH_MAX on Linux.
const maxPattern = 4096

// List is an ordered list of rules. The zero value is an empty list, which
// excludes nothing. Several goroutines may call Excluded at the same time, but
// not while another one adds rules.
type List struct {
	rules []rule
}

type rule struct {
	include bool
	pattern pattern
}

// Add appends a rule, as the option --exclude=RULE does. Like rsync, it ignores
// an empty rule and a pattern of 4096 bytes or more. It returns an error for a
// prefix without a pattern, and for a NUL byte, which a command-line argument
// cannot contain. After an error the list is unchanged.
func (l *List) Add(text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("filter rule %q contains a NUL byte", text)
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
		return fmt.Errorf("filter rule %q has no pattern", text)
	}
	if body == "" || len(body) >= maxPattern {
		return nil
	}
	if p, ok := compile(body); ok {
		l.rules = append(l.rules, rule{include, p})
	}
	return nil
}

// AddFrom reads a file and adds its rules, as the option --exclude-from=FILE
// does. Each line is a rule for Add. Blank lines and lines that start with '#' or
// ';' are skipped. Spaces and tabs are part of the pattern. A line ends at LF, at
// CR or at the end of the file; the rest of a line after a NUL byte is ignored.
//
// AddFrom returns an error that names the line if Add fails, or the wrapped error
// of r. The list then contains the rules before the error.
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
			// Keep just enough of an overlong line for Add to discard it.
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

// Excluded tells whether the rules exclude path. path is relative to the root of
// the tree, its components are separated by slashes, and it has no leading or
// trailing slash. dir tells whether path is a directory; a symbolic link to a
// directory is not. The root itself, "" or ".", is never excluded.
//
// Excluded does not look at the parents of path. Everything below an excluded
// directory is excluded, even if a rule includes it, so callers must not descend
// into an excluded directory.
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
