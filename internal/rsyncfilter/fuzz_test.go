package rsyncfilter

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// FuzzExcluded holds the matcher against the same pattern as a regular
// expression, which also takes linear time.
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
			t.Skip("not what the matcher is given")
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
			t.Errorf("pattern %q, name %q, directory %v: %v, by regular expression %v", pattern, name, dir, got, want)
		}
	})
}

// matchRegexp goes by the manual's words where the matcher goes by what it
// compiled: that a pattern is matched against the full path, or against the
// last component; that "dir/***" is "dir/" and "dir/**".
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
	elems, ok := parse(pattern)
	if !ok {
		return false
	}
	// Every byte a rune, so that the expression matches bytes.
	runes := func(s string) string {
		var r strings.Builder
		for _, c := range []byte(s) {
			r.WriteRune(rune(c))
		}
		return r.String()
	}
	expression := strings.Builder{}
	expression.WriteString("(?s)" + start)
	for _, e := range elems {
		switch e.op {
		case opStar:
			expression.WriteString("[^/]*")
		case opDeep:
			expression.WriteString(".*")
		case opAny:
			expression.WriteString("[^/]")
		case opByte:
			expression.WriteString(regexp.QuoteMeta(runes(string([]byte{e.char}))))
		case opClass:
			// An empty class is no regular expression.
			alternatives := []string{`[^\x00-\x{10ffff}]`}
			for c := range 256 {
				if e.set.has(byte(c)) {
					alternatives = append(alternatives, regexp.QuoteMeta(string(rune(c))))
				}
			}
			expression.WriteString("(?:" + strings.Join(alternatives, "|") + ")")
		}
	}
	expression.WriteString("$")
	re, err := regexp.Compile(expression.String())
	if err != nil {
		t.Skip(err) // too large for package regexp
	}
	return re.MatchString(runes(subject))
}

var lineEnd = regexp.MustCompile("[\r\n]")

// FuzzAddFrom holds a file's rules against the same rules added one by one.
func FuzzAddFrom(f *testing.F) {
	for _, fact := range files {
		if len(fact.content) < 10000 { // a longer one only slows it down
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
			t.Fatalf("file %q: %v, one by one: %v", content, fileErr, err)
		}
		if len(fromFile.rules) != len(oneByOne.rules) {
			t.Fatalf("file %q: %d rules, one by one: %d", content, len(fromFile.rules), len(oneByOne.rules))
		}
		for _, dir := range []bool{false, true} {
			if got, want := fromFile.Excluded(name, dir), oneByOne.Excluded(name, dir); got != want {
				t.Errorf("file %q, name %q, directory %v: %v, one by one: %v", content, name, dir, got, want)
			}
		}
	})
}
