package rsyncfilter

import "strings"

// pattern is a compiled pattern: a list of tokens, and which part of a path
// they have to match.
type pattern struct {
	dirOnly    bool    // the pattern matches directories only
	components int     // number of last components to match; 0 means the whole path
	tokens     []token // what these components have to match
	dirTokens  []token // for "foo/***", the tokens of "foo", which match directories only

	// Literals that every match starts and ends with, so that most names are
	// rejected early.
	prefix, suffix string
}

// compile returns false if the pattern cannot match any name.
func compile(text string) (pattern, bool) {
	var p pattern
	text, p.dirOnly = strings.CutSuffix(text, "/")
	text, anchored := strings.CutPrefix(text, "/")
	deep := strings.Contains(text, "**")
	if !anchored && !deep {
		// Like rsync, count a slash in a class too, although a class never
		// matches a slash.
		p.components = strings.Count(text, "/") + 1
	}
	if !strings.ContainsAny(text, "*?[") {
		// A backslash is an ordinary character here.
		p.tokens = []token{{kind: literal, text: text}}
		p.prefix, p.suffix = text, text
		return p, true
	}

	tokens, ok := parse(text)
	if !ok {
		return p, false
	}
	if !anchored && deep {
		// The match may start at any component. That is all that a leading
		// "**/" means, so remove it: "**/foo" matches a top-level foo too.
		if len(tokens) > 1 && tokens[0].kind == deepStar && tokens[1].isSlash() {
			tokens = tokens[2:]
		}
		tokens = append([]token{{kind: anyDirs}}, tokens...)
	}
	p.tokens = tokens
	n := len(tokens)
	if tokens[0].kind == literal {
		p.prefix = tokens[0].text
	}
	if tokens[n-1].kind == literal {
		p.suffix = tokens[n-1].text
	}
	if strings.HasSuffix(text, "***") && n > 1 && tokens[n-2].isSlash() {
		p.dirTokens = tokens[:n-2]
	}
	return p, true
}

// match tells whether the pattern matches path. base is the last component of
// path; Excluded determines it once for all patterns.
func (p *pattern) match(path, base string, dir bool) bool {
	if p.dirOnly && !dir || !strings.HasSuffix(path, p.suffix) {
		return false
	}
	name := path
	switch p.components {
	case 0:
	case 1:
		name = base
	default:
		var ok bool
		if name, ok = lastComponents(path, p.components); !ok {
			return false
		}
	}
	if !strings.HasPrefix(name, p.prefix) {
		return false
	}
	return matchTokens(p.tokens, name) == matched ||
		dir && p.dirTokens != nil && matchTokens(p.dirTokens, name) == matched
}

// lastComponents returns the last n components of path. It returns false if
// path has fewer components.
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
