package redact

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// hidden matches the values of Hide, nil where there are none. It belongs to the
// process because the log does.
var hidden atomic.Pointer[regexp.Regexp]

// Hide makes Text and the others replace these values too, until restore is
// called. A value of less than 8 bytes is replaced only where it stands as a word
// of its own, so that the log stays readable.
func Hide(values []string) (restore func()) {
	var patterns []string
	for _, value := range values {
		quoted := strconv.Quote(value)
		for _, form := range []string{value, quoted[1 : len(quoted)-1]} {
			// A pattern has to be UTF-8; U+FFFD matches any other byte.
			switch pattern := regexp.QuoteMeta(string([]rune(form))); {
			case form == "":
			case len(form) < shortSecret:
				patterns = append(patterns, wordEdge(form[0])+pattern+wordEdge(form[len(form)-1]))
			default:
				patterns = append(patterns, pattern)
			}
		}
	}
	if len(patterns) == 0 {
		return func() {}
	}
	// The longest first, so that nothing of it is left beside a shorter one.
	slices.SortStableFunc(patterns, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	before := hidden.Swap(regexp.MustCompile(strings.Join(patterns, "|")))
	return func() { hidden.Store(before) }
}

// wordEdge returns the pattern of the edge of a word, next to its first or last
// byte.
func wordEdge(c byte) string {
	if c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' {
		return `\b`
	}
	return ""
}

// withoutHidden returns s without the values of Hide.
func withoutHidden(s string) string {
	if pattern := hidden.Load(); pattern != nil {
		return pattern.ReplaceAllLiteralString(s, placeholder)
	}
	return s
}

// Needed reports whether Text could change a text.
func Needed(text []byte) bool {
	return hidden.Load() != nil || bytes.Contains(text, []byte("://"))
}
