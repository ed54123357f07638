package allowlist

import (
	"strings"
	"unicode/utf8"
)

// below reports whether a path stays at or below the directory where it starts, in
// whatever way a server reads it. It counts how deep the path is at least: a segment
// adds a level only if it does so in every reading, and takes one away if it does
// so in any.
func below(segments []string) bool {
	level := 0
	for _, s := range segments {
		d, ok := depth(s)
		if level += d; !ok || level < 0 {
			return false
		}
	}
	return true
}

// depth returns by how many levels a segment leads down, at least: 1 for a name, 0
// for an empty one or ".", and -1 for "..". It is false where readings differ too
// much: for an encoded slash or a backslash beside a "..", a control character, at
// which C programs may end the path, and bytes that are not UTF-8, which some
// decoders take for a slash or a dot.
func depth(segment string) (levels int, ok bool) {
	plain := decodeAll(segment)
	if !utf8.ValidString(plain) || strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return 0, false
	}
	for _, p := range strings.FieldsFunc(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
		switch d := pieceDepth(p); {
		case d < 0 && p != plain:
			return 0, false
		case d != 0:
			levels = d
		}
	}
	return levels, true
}

// pieceDepth is depth for a segment without any slash. Some servers remove what
// follows a semicolon, or decode a ? or # and end the path there, and Windows
// removes dots and spaces at the end of a name.
func pieceDepth(p string) int {
	if i := strings.IndexAny(p, ";?#"); i >= 0 {
		p = p[:i]
	}
	if strings.Trim(p, ". ") != "" {
		return 1
	}
	if strings.Count(p, ".") > 1 {
		return -1
	}
	return 0
}

// decodeAll decodes percent-encoding as often as it can be decoded, as a chain of
// servers may, and leaves the rest.
func decodeAll(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		b = append(b, s[i])
		for len(b) >= 3 {
			c, ok := decodeByte(string(b[len(b)-3:]))
			if !ok {
				break
			}
			b = append(b[:len(b)-3], c)
		}
	}
	return string(b)
}

// decodeByte decodes the percent escape that s begins with, if it does.
func decodeByte(s string) (c byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	for _, digit := range []byte(s[1:3]) {
		switch {
		case '0' <= digit && digit <= '9':
			c = c<<4 | (digit - '0')
		case 'a' <= digit|0x20 && digit|0x20 <= 'f':
			c = c<<4 | (digit | 0x20 - 'a' + 10)
		default:
			return 0, false
		}
	}
	return c, true
}
