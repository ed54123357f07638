package rsyncfilter

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// FuzzExcluded compares the matcher with a regular expression made from the same
// pattern. Package regexp does not take exponential time either.
func FuzzExcluded(f *testing.F) {
	for _, pattern := range tokens {
		f.Add(pattern, "a/b.c/*", true)
	}
	for _, fact := range facts {
		for _, rule := range fact.rules {
			for name := range strings.FieldsSeq(fact.names) {
				f.Add(rule, strings.TrimRight(name, "/@"), strings.HasSuffix(name, "/"))
			}
		}
	}
	f.Fuzz(func(t *testing.T, pattern, name string, dir bool) {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if name == "" || pattern == "" || len(pattern) > maxPattern || len(name) > maxPattern {
			t.Skip("never passed to the matcher")
		}
		var list List
		if err := list.Add("- " + pattern); err != nil {
			if strings.IndexByte(pattern, 0) < 0 {
				t.Fatalf("%q: %v", pattern, err)
			}
			return
		}
		want := len(pattern) < maxPattern && matchRegexp(t, pattern, name, dir)
		if got := list.Excluded(name, dir); got != want {
			t.Errorf("pattern %q, name %q, directory %v: got %v, the regular expression says %v", pattern, name, dir, got, want)
		}
	})
}

// matchRegexp matches pattern with a regular expression. It shares parse with the
// package, but follows the manual in how it selects the part of the path to match
// and in what "dir/***" means, so that it does not repeat errors of compile.
func matchRegexp(t *testing.T, pattern, name string, dir bool) bool {
	t.Helper()
	if len(pattern) > 1 && strings.HasSuffix(pattern, "/") {
		if !dir {
			return false
		}
		pattern = strings.TrimSuffix(pattern, "/")
	}
	if !strings.ContainsAny(pattern, "*?[") {
		if rest, ok := strings.CutPrefix(pattern, "/"); ok {
			return name == rest
		}
		return strings.HasSuffix("/"+name, "/"+pattern)
	}
	start, subject := `^(?:|.*/)`, name
	switch {
	case strings.HasPrefix(pattern, "/"):
		start, pattern = "^", pattern[1:]
	case strings.HasPrefix(pattern, "**"):
		start, subject = "^", "/"+name
	case !strings.Contains(pattern, "**"):
		depth := strings.Count(pattern, "/")
		parts := strings.Split(name, "/")
		if len(parts) <= depth {
			return false
		}
		start, subject = "^", strings.Join(parts[len(parts)-depth-1:], "/")
	}
	if dir && strings.HasSuffix(pattern, "***") {
		subject += "/"
	}
	tokens, ok := parse(pattern)
	if !ok {
		return false
	}
	// Turn every byte into a rune, so that the expression matches bytes.
	runes := func(s string) string {
		var r strings.Builder
		for _, c := range []byte(s) {
			r.WriteRune(rune(c))
		}
		return r.String()
	}
	expression := strings.Builder{}
	expression.WriteString("(?s)" + start)
	for _, token := range tokens {
		switch token.kind {
		case star:
			expression.WriteString("[^/]*")
		case deepStar:
			expression.WriteString(".*")
		case anyByte:
			expression.WriteString("[^/]")
		case literal:
			expression.WriteString(regexp.QuoteMeta(runes(token.text)))
		case oneOf:
			// A regular expression cannot have an empty class, so start
			// with an alternative that never matches.
			alternatives := []string{`[^\x00-\x{10ffff}]`}
			for c := range 256 {
				if token.set.has(byte(c)) {
					alternatives = append(alternatives, regexp.QuoteMeta(string(rune(c))))
				}
			}
			expression.WriteString("(?:" + strings.Join(alternatives, "|") + ")")
		}
	}
	expression.WriteString("$")
	re, err := regexp.Compile(expression.String())
	if err != nil {
		t.Skip(err) // the expression is too large
	}
	return re.MatchString(runes(subject))
}

var lineEnd = regexp.MustCompile("[\r\n]")

// FuzzAddFrom compares the rules of a file with the same rules added one by one.
func FuzzAddFrom(f *testing.F) {
	for _, fact := range files {
		if len(fact.content) < 10000 { // longer inputs only slow down the fuzzing
			f.Add(fact.content, "a")
		}
	}
	f.Add("- \n", "a")
	f.Fuzz(func(t *testing.T, content, name string) {
		var fromFile, oneByOne List
		fileErr := fromFile.AddFrom(strings.NewReader(content))
		var err error
		for _, line := range lineEnd.Split(content, -1) {
			line, _, _ = strings.Cut(line, "\x00")
			if err == nil && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
				err = oneByOne.Add(line)
			}
		}
		if (fileErr == nil) != (err == nil) {
			t.Fatalf("file %q: error %v, added one by one: %v", content, fileErr, err)
		}
		if len(fromFile.rules) != len(oneByOne.rules) {
			t.Fatalf("file %q: %d rules, added one by one: %d", content, len(fromFile.rules), len(oneByOne.rules))
		}
		for _, dir := range []bool{false, true} {
			if got, want := fromFile.Excluded(name, dir), oneByOne.Excluded(name, dir); got != want {
				t.Errorf("file %q, name %q, directory %v: got %v, added one by one: %v", content, name, dir, got, want)
			}
		}
	})
}
