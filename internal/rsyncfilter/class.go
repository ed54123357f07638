package rsyncfilter

import "strings"

// class is a set of bytes: those that a bracket expression such as [a-z] matches.
type class [256 / 64]uint64

func (s *class) has(c byte) bool { return s[c/64]&(1<<(c%64)) != 0 }
func (s *class) add(c byte)      { s[c/64] |= 1 << (c % 64) }
func (s *class) remove(c byte)   { s[c/64] &^= 1 << (c % 64) }

func (s *class) addRange(first, last byte) {
	for c := int(first); c <= int(last); c++ {
		s.add(byte(c))
	}
}

// named contains the POSIX character classes as ranges of ASCII characters.
var named = [...]struct {
	name   string
	ranges string // the first and the last character of each
}{
	{"alnum", "09AZaz"},
	{"alpha", "AZaz"},
	{"blank", "\t\t  "},
	{"cntrl", "\x00\x1f\x7f\x7f"},
	{"digit", "09"},
	{"graph", "!~"},
	{"lower", "az"},
	{"print", " ~"},
	{"punct", "!/:@[`{~"},
	{"space", "\t\r  "},
	{"upper", "AZ"},
	{"xdigit", "09AFaf"},
}

// addNamed adds a POSIX character class. It returns false if there is none of that
// name.
func (s *class) addNamed(name string) bool {
	for _, n := range named {
		if n.name == name {
			for r := n.ranges; r != ""; r = r[2:] {
				s.addRange(r[0], r[1])
			}
			return true
		}
	}
	return false
}

// parseClass parses the bracket expression at the start of text and returns its
// set and its length in bytes. It returns false if the expression has no end or
// names an unknown class.
//
// A ']' is an ordinary character if it is the first one in the set. A '-' is an
// ordinary character unless it has a character on both sides, and the one on its
// left must not be the end of a range or a named class.
func parseClass(text string) (*class, int, bool) {
	set := new(class)
	i := 1
	negate := i < len(text) && (text[i] == '!' || text[i] == '^')
	if negate {
		i++
	}
	var left byte // the previous character, if a range may start with it, or 0
	for first := true; ; first = false {
		if i >= len(text) {
			return nil, 0, false
		}
		c := text[i]
		if c == ']' && !first {
			i++
			break
		}
		if c == '[' && strings.HasPrefix(text[i:], "[:") {
			inner := text[i+2:]
			end := strings.IndexByte(inner, ']')
			if end < 0 {
				return nil, 0, false
			}
			if name, ok := strings.CutSuffix(inner[:end], ":"); ok {
				if !set.addNamed(name) {
					return nil, 0, false
				}
				left = 0
				i += 2 + end + 1
				continue
			}
			// Without ":]" this '[' is an ordinary character.
		}
		isRange := c == '-' && left != 0 && i+1 < len(text) && text[i+1] != ']'
		if isRange {
			i++
		}
		if text[i] == '\\' {
			i++
			if i == len(text) {
				return nil, 0, false
			}
		}
		c = text[i]
		i++
		if isRange {
			set.addRange(left, c)
			left = 0
		} else {
			set.add(c)
			left = c
		}
	}
	if negate {
		for w := range set {
			set[w] = ^set[w]
		}
	}
	// Only a slash and "**" match a slash, even if the set contains it.
	set.remove('/')
	return set, i, true
}
