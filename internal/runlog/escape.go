package runlog

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Escape returns s with its control characters escaped as in a Go string, newlines
// and tabs included. Without that, a name in the log could forge lines of it, or
// change what a terminal shows of the rest.
func Escape(s string) string {
	return string(escape([]byte(s), false))
}

// escapeLines is Escape for lines of the log: newlines and tabs stay, and a carriage
// return at the end of a line is dropped.
func escapeLines(lines []byte) []byte { return escape(lines, true) }

// escape returns text itself where there is nothing to escape, which is the usual
// case.
func escape(text []byte, lines bool) []byte {
	var out []byte
	done := 0 // bytes of text that out has
	for i := 0; i < len(text); {
		if b := text[i]; b >= ' ' && b < 0x7f || lines && (b == '\n' || b == '\t') {
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if escaped, unsafe := escapeRune(text[i:], r, size); unsafe {
			if lines && bytes.HasPrefix(text[i:], []byte("\r\n")) {
				escaped = ""
			}
			out = append(append(out, text[done:i]...), escaped...)
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return text
	}
	return append(out, text[done:]...)
}

// escapeRune returns the escape of a rune that is not safe to show: the control
// characters of ASCII and Unicode, those of 8-bit terminals outside of UTF-8, and
// those that change the direction of the text around them
// (https://www.unicode.org/reports/tr9/, section 2).
func escapeRune(text []byte, r rune, size int) (escaped string, unsafe bool) {
	switch {
	case r == utf8.RuneError && size == 1:
		return fmt.Sprintf(`\x%02x`, text[0]), text[0] < 0xa0
	case r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
		return strings.Trim(strconv.QuoteRune(r), "'"), true
	}
	return "", false
}

// Count returns a number of things in words: "1 warning", "2 warnings".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
