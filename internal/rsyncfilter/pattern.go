package rsyncfilter

import "strings"

// pattern is a compiled pattern. Compiling sorts out what of a path it is
// compared with, and whether that takes more than comparing strings.
type pattern struct {
	scope   scope
	depth   int // components to compare, with scopeLast
	dirOnly bool

	kind           kind
	prefix, suffix string // prefix alone: kindLiteral
	elems          []elem // kindWild

	// What "foo/***" adds to "foo/**": that elems without the final "/**"
	// match a directory.
	dirElems []elem
}

// scope is the part of a path that a pattern is compared with.
type scope uint8

const (
	scopeBase  scope = iota // the last component
	scopePath               // all of it
	scopeLast               // the last so many components
	scopeTails              // from the start of any component on
)

type kind uint8

const (
	kindLiteral kind = iota // no wildcard
	kindAffix               // one '*' within one component
	kindWild
)

// compile returns false for a pattern that no name matches.
func compile(text string) (pattern, bool) {
	var p pattern
	text, p.dirOnly = strings.CutSuffix(text, "/")
	wild := strings.ContainsAny(text, "*?[")
	deep := strings.Contains(text, "**")
	rest, anchored := strings.CutPrefix(text, "/")
	switch slashes := strings.Count(text, "/"); {
	case anchored:
		p.scope = scopePath
	case deep:
		p.scope = scopeTails
	case slashes > 0:
		p.scope = scopeLast
		p.depth = slashes + 1
	default:
		p.scope = scopeBase
	}
	if !wild {
		p.prefix = rest
		return p, true
	}

	elems, ok := parse(rest)
	if !ok {
		return p, false
	}
	if p.scope == scopeBase {
		if p.prefix, p.suffix, ok = affixes(elems); ok {
			p.kind = kindAffix
			return p, true
		}
	}
	if p.scope == scopeTails && elems[0].op == opDeep {
		// A leading "**" reaches every start there is. Only "**/" asks for
		// the start of a component, the first one among them.
		if len(elems) >= 2 && elems[1].isSlash() {
			elems = elems[2:]
		} else {
			p.scope = scopePath
		}
	}
	p.kind = kindWild
	p.elems = elems
	if n := len(elems); strings.HasSuffix(text, "***") && n >= 2 && elems[n-2].isSlash() {
		p.dirElems = elems[:n-2]
	}
	return p, true
}

// affixes returns the literals around the only '*' of elems, if they are
// literals and it is one.
func affixes(elems []elem) (prefix, suffix string, ok bool) {
	var before, after []byte
	star := false
	for _, e := range elems {
		switch {
		case e.op == opStar && !star:
			star = true
		case e.op != opByte:
			return "", "", false
		case star:
			after = append(after, e.char)
		default:
			before = append(before, e.char)
		}
	}
	return string(before), string(after), star
}

// match takes the last component of path, base, from its caller, who needs it
// for many patterns.
func (p *pattern) match(path, base string, dir bool) bool {
	if p.dirOnly && !dir {
		return false
	}
	name := path
	switch p.scope {
	case scopeBase:
		name = base
	case scopeLast:
		var ok bool
		if name, ok = lastComponents(path, p.depth); !ok {
			return false
		}
	}
	switch p.kind {
	case kindLiteral:
		return name == p.prefix
	case kindAffix:
		return len(name) >= len(p.prefix)+len(p.suffix) &&
			strings.HasPrefix(name, p.prefix) && strings.HasSuffix(name, p.suffix)
	}
	tails := p.scope == scopeTails
	return matchElems(p.elems, name, tails) ||
		dir && p.dirElems != nil && matchElems(p.dirElems, name, tails)
}

// lastComponents returns the last n components of path, if it has so many.
func lastComponents(path string, n int) (string, bool) {
	start := len(path) + 1
	for ; n > 0; n-- {
		if start == 0 {
			return "", false
		}
		start = strings.LastIndexByte(path[:start-1], '/') + 1
	}
	return path[start:], true
}

// matchElems tells whether elems match all of s or, with tails, all of s from
// the start of one of its components on.
//
// It takes time in proportion to len(elems)*len(s), for there is never a reason
// to reconsider any but the last '*', which ends at a slash, and the last "**":
// what came before these has matched as early as it can. A start in vain from a
// "**" that got as far as a '*' moves on to the next component: only a slash
// matches a slash, so that every start within a component leads to a '*' in the
// same component, at best where it was tried in vain.
func matchElems(elems []elem, s string, tails bool) bool {
	i, e := 0, 0              // in s and elems
	star, starFrom := -1, 0   // the element after the last '*', where in s to try it
	start, startFrom := -1, 0 // the same of the last "**"
	if tails {
		start = 0
	}
	for {
		if e == len(elems) {
			if i == len(s) {
				return true
			}
		} else {
			switch el := &elems[e]; {
			case el.op == opStar:
				e++
				star, starFrom = e, i
				continue
			case el.op == opDeep:
				e++
				if e == len(elems) {
					return true
				}
				start, startFrom, tails = e, i, false
				star = -1
				continue
			case i == len(s):
				// Any other choice leaves as much to be matched by less.
				return false
			case el.matches(s[i]):
				i++
				e++
				continue
			}
		}
		switch {
		case star >= 0 && s[starFrom] != '/':
			starFrom++
			i, e = starFrom, star
			continue
		case start < 0:
			return false
		case star >= 0 || tails:
			slash := strings.IndexByte(s[startFrom:], '/')
			if slash < 0 {
				return false
			}
			startFrom += slash + 1
		default:
			startFrom++
		}
		i, e, star = startFrom, start, -1
	}
}

// elem is a unit of a pattern with wildcards: what matches a byte, or a star.
type elem struct {
	op   op
	char byte   // opByte
	set  *class // opClass
}

type op uint8

const (
	opByte  op = iota
	opAny      // '?'
	opClass    // '[...]'
	opStar     // '*'
	opDeep     // '**', or more of them
)

func (e *elem) isSlash() bool { return e.op == opByte && e.char == '/' }

func (e *elem) matches(c byte) bool {
	switch e.op {
	case opByte:
		return c == e.char
	case opAny:
		return c != '/'
	default:
		return e.set.has(c)
	}
}

// parse returns false for a pattern that no name matches: one with an
// unfinished class, a class of an unknown name, or a backslash at its end.
func parse(text string) ([]elem, bool) {
	var elems []elem
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '*':
			stars := 1
			for i+stars < len(text) && text[i+stars] == '*' {
				stars++
			}
			if stars == 1 {
				elems = append(elems, elem{op: opStar})
			} else {
				elems = append(elems, elem{op: opDeep})
			}
			i += stars
		case '?':
			elems = append(elems, elem{op: opAny})
			i++
		case '[':
			set, n, ok := parseClass(text[i:])
			if !ok {
				return nil, false
			}
			elems = append(elems, elem{op: opClass, set: set})
			i += n
		default:
			if c == '\\' {
				i++
				if i == len(text) {
					return nil, false
				}
			}
			elems = append(elems, elem{op: opByte, char: text[i]})
			i++
		}
	}
	return elems, true
}
