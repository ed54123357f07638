package redact

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Printable returns s with its control characters escaped as in a string of Go,
// newlines and tabs included, and also the bytes that are not UTF-8. Text from
// elsewhere could otherwise forge lines of the log or control a terminal.
func Printable(s string) string {
	return string(printable([]byte(s), false))
}

// PrintableLines is Printable for the lines of a log: newlines and tabs stay, and a
// carriage return before a newline is dropped. Where there is nothing to escape, it
// returns lines itself.
func PrintableLines(lines []byte) []byte { return printable(lines, true) }

func printable(text []byte, lines bool) []byte {
	var out []byte
	done := 0 // bytes of text that are in out
	valid := utf8.Valid(text)
	for i := 0; i < len(text); {
		// Eight bytes at once, because all that commands print comes through here.
		if i+8 <= len(text) {
			if word := binary.LittleEndian.Uint64(text[i:]); isSafe(word) && (valid || word&0x8080808080808080 == 0) {
				i += 8
				continue
			}
		}
		if b := text[i]; b >= ' ' && b < 0x7f || lines && (b == '\n' || b == '\t') || valid && !utf8.RuneStart(b) {
			i++ // or the rest of a rune that began in a safe word
			continue
		}
		c, size := utf8.DecodeRune(text[i:])
		if invalid := c == utf8.RuneError && size == 1; invalid || unsafe(c) {
			if out == nil {
				out = make([]byte, 0, len(text)+len(text)/4)
			}
			out = append(out, text[done:i]...)
			switch {
			case lines && bytes.HasPrefix(text[i:], []byte("\r\n")):
			case invalid:
				out = fmt.Appendf(out, `\x%02x`, text[i])
			default:
				quoted := strconv.AppendQuoteRune(make([]byte, 0, 16), c)
				out = append(out, quoted[1:len(quoted)-1]...)
			}
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return text
	}
	return append(out, text[done:]...)
}

// isSafe reports that none of the eight bytes is a control character of ASCII or
// begins an unsafe rune in UTF-8: U+0080 to U+009F, U+061C, or U+200E to U+2069
// (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord).
func isSafe(word uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	del, c2, d8, e2 := word^each*0x7f, word^each*0xc2, word^each*0xd8, word^each*0xe2
	found := (word-each*' ')&^word | (del-each)&^del | (c2-each)&^c2 | (d8-each)&^d8 | (e2-each)&^e2
	return found&high == 0
}

// unsafe holds for control characters, for line and paragraph separators, and for
// what changes the direction of the text around it
// (https://www.unicode.org/reports/tr9/, section 2).
func unsafe(c rune) bool {
	switch {
	case c < ' ', c >= 0x7f && c < 0xa0:
	case c == '\u061c', c == '\u200e', c == '\u200f', c >= '\u2028' && c <= '\u202e', c >= '\u2066' && c <= '\u2069':
	default:
		return false
	}
	return true
}
