package rsyncfilter

import "strings"

// class is the set of bytes that a bracket expression matches.
type class [256 / 64]uint64

func (s *class) has(c byte) bool { return s[c/64]&(1<<(c%64)) != 0 }
func (s *class) add(c byte)      { s[c/64] |= 1 << (c % 64) }
func (s *class) remove(c byte)   { s[c/64] &^= 1 << (c % 64) }

func (s *class) addRange(first, last byte) {
	for c := int(first); c <= int(last); c++ {
		s.add(byte(c))
	}
}

// named are the POSIX classes, as ranges of ASCII characters.
var named = map[string][][2]byte{
	"alnum":  {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}},
	"alpha":  {{'A', 'Z'}, {'a', 'z'}},
	"blank":  {{'\t', '\t'}, {' ', ' '}},
	"cntrl":  {{0, 0x1f}, {0x7f, 0x7f}},
	"digit":  {{'0', '9'}},
	"graph":  {{'!', '~'}},
	"lower":  {{'a', 'z'}},
	"print":  {{' ', '~'}},
	"punct":  {{'!', '/'}, {':', '@'}, {'[', '`'}, {'{', '~'}},
	"space":  {{'\t', '\r'}, {' ', ' '}},
	"upper":  {{'A', 'Z'}},
	"xdigit": {{'0', '9'}, {'A', 'F'}, {'a', 'f'}},
}

// parseClass parses the bracket expression that text begins with and returns
// its length. It returns false for one that has no end or names an unknown
// class. A ']' right at the beginning stands for itself, and so does a '-' that
// has no character on its left or on its right, the end of another range being
// none.
func parseClass(text string) (*class, int, bool) {
	set := new(class)
	i := 1
	negate := i < len(text) && (text[i] == '!' || text[i] == '^')
	if negate {
		i++
	}
	var left byte // where a range may begin, 0 for nowhere
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
				ranges, ok := named[name]
				if !ok {
					return nil, 0, false
				}
				for _, r := range ranges {
					set.addRange(r[0], r[1])
				}
				left = 0
				i += 2 + end + 1
				continue
			}
			// No ":]": a '[' like any other character.
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
	// rsync matches a slash by nothing but a slash and "**".
	set.remove('/')
	return set, i, true
}
