package proc

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxLabel is the size in bytes to which Label shortens a line.
const maxLabel = 500

// Label returns the name of a command for the log and for errors, which is one
// line: its first one that is not blank, how many follow, and no more than 500
// bytes of it. Control characters other than newlines stay as they are.
func Label(command string) string {
	line, rest, more := strings.Cut(strings.TrimSpace(command), "\n")
	line = Shorten(strings.TrimRight(line, "\r"), maxLabel)
	switch n := strings.Count(rest, "\n") + 1; {
	case !more:
		return line
	case n == 1:
		return line + " (and 1 more line)"
	default:
		return fmt.Sprintf("%s (and %d more lines)", line, n)
	}
}

// Shorten returns at most the first n bytes of s, without a part of a character
// at the end, and "..." after them where something is left out.
func Shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax && i > 0; i-- {
		if utf8.RuneStart(s[i]) {
			n = i
			break
		}
	}
	return s[:n] + "..."
}
