package redact

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns s with its control characters escaped as in a string of Go,
// newlines and tabs included, and so the bytes that are not UTF-8. Text from
// elsewhere could otherwise forge lines of the log or control a terminal.
func Printable(s string) string {
	if strings.IndexFunc(s, unsafe) < 0 {
		return s
	}
	var b strings.Builder
	for i, size := 0, 0; i < len(s); i += size {
		var c rune
		c, size = utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafe(c):
			b.WriteString(strings.Trim(strconv.QuoteRune(c), "'"))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// unsafe holds for what is not a letter, mark, number, punctuation, symbol or
// space, such as control characters and those that change the direction of text.
// It also holds for utf8.RuneError, which may stand for an invalid byte.
func unsafe(c rune) bool { return !unicode.IsPrint(c) || c == utf8.RuneError }
