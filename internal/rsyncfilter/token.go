package rsyncfilter

import "strings"

// token is an element of a pattern.
type token struct {
	kind kind
	text string // the bytes of a literal
	set  *class // the bytes that a oneOf matches
}

type kind uint8

const (
	literal  kind = iota // exactly the bytes of text
	anyByte              // "?": one byte, but not a slash
	oneOf                // "[...]": one byte of set
	star                 // "*": any number of bytes, but no slashes
	deepStar             // "**" or more stars: any number of bytes
	anyDirs              // any number of leading directories with their slashes
)

func (t *token) isSlash() bool { return t.kind == literal && t.text == "/" }

// parse splits a pattern with wildcards into tokens. Every slash becomes a token
// of its own. parse returns false for an invalid class and for a backslash at
// the end: rsync accepts such a pattern, but it never matches.
func parse(text string) ([]token, bool) {
	var tokens []token
	for text != "" {
		t := token{kind: literal}
		length := 1 // number of bytes of text that make up the token
		switch text[0] {
		case '*':
			t.kind = star
			length = len(text) - len(strings.TrimLeft(text, "*"))
			if length > 1 {
				t.kind = deepStar
			}
		case '?':
			t.kind = anyByte
		case '[':
			var ok bool
			t.kind = oneOf
			if t.set, length, ok = parseClass(text); !ok {
				return nil, false
			}
		case '/':
			t.text = "/"
		case '\\':
			if len(text) == 1 {
				return nil, false
			}
			length = 2
			t.text = text[1:2]
		default:
			length = strings.IndexAny(text, `*?[/\`)
			if length < 0 {
				length = len(text)
			}
			t.text = text[:length]
		}
		tokens = append(tokens, t)
		text = text[length:]
	}
	return tokens, true
}

// result tells whether tokens match at a position in a name. If they do not, it
// tells the star in front of them which later position to try next.
type result uint8

const (
	matched          result = iota
	tryNextByte             // the next byte
	tryNextComponent        // the byte after the next slash
	giveUp                  // none: the tokens do not match at any later position
)

// matchTokens tells whether the tokens match the whole of name. At a star, it
// tries the tokens after the star at one position after another.
//
// With several stars this would take exponential time if each of them tried
// every position. They do not have to. When a star fails, it has tried all
// positions that it can reach, and moving an earlier star forward only makes the
// later one start further right among the same positions. Therefore the failure
// of one star is also the failure of the stars before it:
//
//   - A '*' fails at the next slash and returns tryNextComponent. Nothing but a
//     slash or "**" matches a slash, so an earlier star can reach another
//     component only by moving past a slash itself. A "**" does so; a '*' cannot,
//     and fails too.
//   - A "**" fails at the end of name and returns giveUp, as all stars before it
//     then do.
//
// The time is thus at most proportional to the length of the pattern multiplied
// by the length of name.
func matchTokens(tokens []token, name string) result {
	for i := range tokens {
		t := &tokens[i]
		switch t.kind {
		case star:
			return matchStar(tokens[i+1:], name)
		case deepStar:
			return matchDeepStar(tokens[i+1:], name)
		case anyDirs:
			return matchAnyDirs(tokens[i+1:], name)
		}
		size := 1
		if t.kind == literal {
			size = len(t.text)
		}
		if len(name) < size {
			return giveUp // later positions have even fewer bytes left
		}
		switch {
		case t.kind == literal && name[:size] != t.text,
			t.kind == anyByte && name[0] == '/',
			t.kind == oneOf && !t.set.has(name[0]):
			return tryNextByte
		}
		name = name[size:]
	}
	if name != "" {
		return tryNextByte
	}
	return matched
}

// matchStar tells whether a '*' followed by rest matches name.
func matchStar(rest []token, name string) result {
	if len(rest) == 0 {
		if strings.IndexByte(name, '/') >= 0 {
			return tryNextComponent
		}
		return matched
	}
	for {
		if r := matchTokens(rest, name); r != tryNextByte {
			return r
		}
		if name[0] == '/' {
			return tryNextComponent
		}
		name = name[1:]
	}
}

// matchDeepStar tells whether a "**" followed by rest matches name.
func matchDeepStar(rest []token, name string) result {
	if len(rest) == 0 {
		return matched
	}
	for {
		switch r := matchTokens(rest, name); r {
		case tryNextByte:
			name = name[1:]
		case tryNextComponent:
			_, name, _ = strings.Cut(name, "/")
		default:
			return r
		}
	}
}

// matchAnyDirs tells whether rest matches from the start of any component of
// name to the end of name.
func matchAnyDirs(rest []token, name string) result {
	for {
		r := matchTokens(rest, name)
		if r == matched || r == giveUp {
			return r
		}
		var found bool
		if _, name, found = strings.Cut(name, "/"); !found {
			return giveUp
		}
	}
}
