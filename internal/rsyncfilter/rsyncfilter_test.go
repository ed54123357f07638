package rsyncfilter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// facts lists rules, names, and which of the names the rules exclude. TestFacts
// checks it against this package and against rsync.
var facts = []struct {
	rules    []string
	names    string // "/" at the end marks a directory, "@" a symbolic link to a directory
	excluded string // the excluded names, written as in names
}{
	// A pattern without a slash and without "**" is matched with the last component.
	{[]string{"foo"}, "foo d/foo d/e/foo/ xfoo foox Foo", "foo d/foo d/e/foo/"},
	{[]string{"*.pid"}, ".pid a.pid d/a.pid a.pid.x d.pid/ d.pid/a", ".pid a.pid d/a.pid d.pid/"},
	{[]string{"foo*"}, "foo fooo d/foo.x xfoo foo.d/ foo.d/a", "foo fooo d/foo.x foo.d/"},
	{[]string{"a*a"}, "a aa aba aab d/aca", "aa aba d/aca"},
	{[]string{"f?o"}, "fo foo f/o fxo d/fxo", "foo fxo d/fxo"},
	{[]string{"*"}, ".a b c/ c/d", ".a b c/"},

	// A pattern with a trailing slash matches directories only, not symbolic links to them.
	{[]string{"foo/"}, "foo a/foo/ a/foo/b l/foo@", "a/foo/"},
	{[]string{"*/"}, "a b/ b/c l@", "b/"},
	{[]string{"foo//"}, "foo/ a/foo/", ""},
	{[]string{"foo\\/"}, "foo/ foo\\ a/foo\\/", "a/foo\\/"},
	{[]string{"a/b/"}, "a/b/ c/a/b d/a/b/", "a/b/ d/a/b/"},

	// A pattern with other slashes is matched with as many components at the end of the path.
	{[]string{"foo/bar"}, "foo/bar a/foo/bar/ xfoo/bar foo/a/bar foo/barx", "foo/bar a/foo/bar/"},
	{[]string{"foo/*/bar"}, "foo/a/bar b/foo/a/bar foo/bar foo/a/b/bar", "foo/a/bar b/foo/a/bar"},
	{[]string{"*/b"}, "b a/b c/d/b/", "a/b c/d/b/"},
	{[]string{"a//b"}, "a/b", ""},
	{[]string{"./a", "../a", "a/./b"}, "a a/b", ""},
	{[]string{"[a/b]"}, "a b c/a", ""},
	{[]string{"a[/]b"}, "a/b", ""},
	{[]string{"a?b", "c[!x]d", "e[+-0]f"}, "a/b c/d e/f a.b c.d e.f", "a.b c.d e.f"},
	{[]string{"a\\/b*"}, "a/b a/bc d/a/b ab", "a/b a/bc d/a/b"},

	// A leading slash anchors the pattern at the root.
	{[]string{"/foo"}, "foo a/foo a/b/foo", "foo"},
	{[]string{"/foo/"}, "a/foo/ foo", ""},
	{[]string{"/a/*"}, "a/b a/.c d/a/b", "a/b a/.c"},
	{[]string{"/*"}, "a b/ b/c", "a b/"},
	{[]string{"/*/b"}, "b a/b a/c/b", "a/b"},
	{[]string{"//foo"}, "foo a/foo", ""},
	{[]string{"/"}, "a b/", ""},
	{[]string{"//", ".", "./", ".."}, "a b/ b/c", ""},

	// "**" matches slashes too.
	{[]string{"foo/**"}, "foo/a foo/b/ a/foo/b foo.x", "foo/a foo/b/ a/foo/b"},
	{[]string{"/foo/**/bar"}, "foo/bar foo/a/bar foo/a/b/bar a/foo/b/bar", "foo/a/bar foo/a/b/bar"},
	{[]string{"**/foo"}, "foo a/foo a/b/foo xfoo", "foo a/foo a/b/foo"},
	{[]string{"/**/foo"}, "foo a/foo a/b/foo", "a/foo a/b/foo"},
	{[]string{"**foo"}, "foo xfoo a/xfoo foox", "foo xfoo a/xfoo"},
	{[]string{"foo**bar"}, "foobar foo/bar a/foox/y/zbar xfoobar", "foobar foo/bar a/foox/y/zbar"},
	{[]string{"/foo**bar"}, "foo/a/bar a/foobar", "foo/a/bar"},
	{[]string{"a**/"}, "a1/ x/a/b/ a", "a1/ x/a/"},
	{[]string{"**"}, "a b/ b/c", "a b/"},
	{[]string{"**/"}, "a b/ c/d", "b/ c/"},
	{[]string{"/*/**b"}, "x/ab x/a/ab b c/a", "x/ab x/a/ab"},
	{[]string{"**/*/*/x"}, "x a/x a/b/x a/b/c/x", "a/b/x a/b/c/x"},
	{[]string{"**/a*b/c"}, "ab/c d/axb/c a/b/c", "ab/c d/axb/c"},
	{[]string{"b*/c**d"}, "b/cd b1/c/x/d a/b/c/d b/x/cd", "b/cd b1/c/x/d a/b/c/d"},
	{[]string{"+ */", "**/a*"}, "a/ab a/b a/c/ab", "a/ab a/c/ab"},
	{[]string{"+ */", "**a*c"}, "ab/xac ab/c ac/b ab/ac/d/abc", "ab/xac ab/ac/d/abc"},
	{[]string{"[**]"}, "* d/* a", "* d/*"},
	{[]string{"a/\\**"}, "a/* a/*b a/b/c c/a/*d", "a/* a/*b c/a/*d"},

	// A trailing "/***" matches the directory and everything below it.
	{[]string{"/foo/***"}, "foo/ foo/a a/foo/ a/foo/b", "foo/"},
	{[]string{"+ /foo/***", "*"}, "foo/ foo/a foo/b/ foo/b/c bar", "bar"},
	{[]string{"+ d/", "+ foo/***", "*"}, "d/foo/ d/foo/a d/foo/b/c d/bar", "d/bar"},
	{[]string{"foo/***"}, "foo d/foo/ d/e/xfoo/ l/foo@", "d/foo/"},
	{[]string{"*/***"}, "a b/ c/d l@", "b/ c/"},
	{[]string{"a***c"}, "ac abc a/c a/b/c", "ac abc a/c a/b/c"},
	{[]string{"**/foo/***"}, "foo/ d/foo/ d/e/foo", "foo/ d/foo/"},
	{[]string{"/***"}, "a b/", "a b/"},
	{[]string{"//***"}, "a b/", ""},

	// Classes match one byte, but never a slash.
	{[]string{"[abc]"}, "a b d ab", "a b"},
	{[]string{"[a-c]x"}, "ax cx dx -x", "ax cx"},
	{[]string{"[!a-c]"}, "a b d -", "d -"},
	{[]string{"[^a-c]"}, "a b d ^", "d ^"},
	{[]string{"[a!]", "[b^]"}, "a b ! ^ c", "a b ! ^"},
	{[]string{"[!!]"}, "! a", "a"},
	{[]string{"[]-]"}, "] - a", "] -"},
	{[]string{"[!]a]"}, "] a b", "b"},
	{[]string{"[a-]"}, "a - b", "a -"},
	{[]string{"[-a]"}, "a - b", "a -"},
	{[]string{"[a-c-e]"}, "a b c d e -", "a b c e -"},
	{[]string{"[c-a]"}, "a b c -", "c"},
	{[]string{"[a-\\c]"}, "a b c \\ -", "a b c"},
	{[]string{"[a\\-c]"}, "a b c - \\", "a c -"},
	{[]string{"[\\]]"}, "] \\", "]"},
	{[]string{"[[:digit:]_]"}, "0 _ a :", "0 _"},
	{[]string{"[![:alpha:]]"}, "0 _ a Z", "0 _"},
	{[]string{"[[:upper:][:digit:]]x"}, "0x Ax ax", "0x Ax"},
	{[]string{"[[:alpha:]-9]"}, "a - 9 5", "a - 9"},
	{[]string{"[a[:digit:]-c]"}, "a b c - 0", "a c - 0"},
	{[]string{"[:alpha:]"}, "a l : b [", "a l :"},
	{[]string{"[[:alpha]"}, "[ : a b", "[ : a"},
	{[]string{"[[:]"}, "[ : a", "[ :"},
	{[]string{"[\xff]", "[\xe0-\xef]x"}, "\xff \xfe \xe5x \xf0x", "\xff \xe5x"},
	{[]string{"?"}, "a \xff \u00e9", "a \xff"}, // one byte, not one character

	// Invalid patterns match no name.
	{[]string{"[", "[a", "[a-", "[!", "[]", "[[:alpha:]", "a[", "*["}, "[ a [a [a- [! [] a[ ] -", ""},
	{[]string{"[[:foo:]]", "[[:ALPHA:]]", "[[::]]", "[a[:x:]]*"}, "a f A : [ x", ""},
	{[]string{"*\\", "a?\\"}, "\\ a\\ ab\\ a", ""},

	// A backslash escapes only in a pattern with a wildcard.
	{[]string{"a\\b"}, "a\\b ab", "a\\b"},
	{[]string{"a\\b*"}, "a\\b ab abc", "ab abc"},
	{[]string{"a\\\\b*"}, "a\\b ab a\\bc", "a\\b a\\bc"},
	{[]string{"\\*"}, "* \\* a", "*"},
	{[]string{"a\\"}, "a\\ a", "a\\"},
	{[]string{"\\?\\[*"}, "?[ ?[a \\?", "?[ ?[a"},

	// The first rule that matches decides. Excluded directories are not descended into.
	{[]string{"+ a", "a"}, "a d/a", ""},
	{[]string{"a", "+ a"}, "a d/a", "a d/a"},
	{[]string{"+ *.go", "+ */", "*"}, "a.go b d/a.go d/b", "b d/b"},
	{[]string{"+ d/a", "d"}, "d/a d/b", "d/"},
	{[]string{"- a"}, "a d/a -", "a d/a"},
	{[]string{"a", "!", "b"}, "a b", "b"},
	{[]string{"a", "", "b"}, "a b", "a b"},

	// Text that resembles a prefix is part of the pattern.
	{[]string{"-a", "+b", "-_c", "-\td", "- !", "!x"}, "a b c d ! !x -a +b -_c", "-a +b -_c ! !x"},
	{[]string{"P a", "H a", "-! a", "-p a", "merge a", ". a", ": a"}, "a b", ""},
}

func TestFacts(t *testing.T) {
	for _, f := range facts {
		t.Run(fmt.Sprintf("%q", f.rules), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			src := treeOf(f.names)
			src.create(t, filepath.Join(dir, "src"))
			tree{}.create(t, filepath.Join(dir, "dest"))
			var list List
			var options []string
			for _, rule := range f.rules {
				if err := list.Add(rule); err != nil {
					t.Fatal(err)
				}
				options = append(options, "--exclude="+rule)
			}
			want := model(src, nil, func(name string, dir bool) bool {
				return slices.Contains(strings.Fields(f.excluded), name+suffixes[src[name]])
			})
			if n := len(src) - len(want.sent); n < len(strings.Fields(f.excluded)) {
				t.Fatalf("%q lists names that are not in %q", f.excluded, f.names)
			}
			if report := compare(want, model(src, nil, list.Excluded)); report != "" {
				t.Errorf("fact:\n%s", report)
			}
			if report := compare(runRsync(t, dir, options...), want); report != "" {
				t.Errorf("fact and rsync:\n%s", report)
			}
		})
	}
}

var suffixes = map[kindOfFile]string{file: "", directory: "/", symlink: "@"}

// treeOf returns the tree of the names of a fact and their parent directories.
func treeOf(names string) tree {
	all := tree{}
	for _, name := range strings.Fields(names) {
		kind := file
		for k, suffix := range suffixes {
			if suffix != "" && strings.HasSuffix(name, suffix) {
				name, kind = strings.TrimSuffix(name, suffix), k
			}
		}
		all[name] = kind
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			all[dir] = directory
		}
	}
	return all
}

// files lists the contents of files for --exclude-from, and which of the names a,
// b and c their rules exclude.
var files = []struct{ content, excluded string }{
	{"", ""},
	{"a\nb\n", "a b"},
	{"a\nb", "a b"}, // no newline at the end
	{"a\r\nb\r\n", "a b"},
	{"a\rb\r\r\nc", "a b c"},
	{"\n\n \n\t\n\r\na\n", "a"},
	{"#a\n;b\n#\nc\n", "c"},
	{" #\n- #\n- ;\na", "a"},
	{" a\nb \n\tc\n", ""},
	{"+ a\n- a\n-  b\n-c\n", ""},
	{"+ a\r\n*\r\n", "b c"},
	{"a\n!\nb", "b"},
	{"a\n!", ""},
	{"a\n!\r\nb", "b"},
	{"a\n! \n !\n- !\n!b\nb", "a b"},
	{"a\x00b\nb\x00\n\x00c", "a b"},
	{"#\x00\na\n!\x00\nb", "b"},
	{"\xef\xbb\xbfa\nb", "b"}, // a byte order mark is part of the pattern
	{"a\\\nb", "b"},           // a backslash does not continue a line
	{long("a", 4095) + "\nb", "a b"},
	{long("a", 4096) + "\nb", "b"},
	{long("a", 100000) + "\nb", "b"},
	{"- " + long("a", 4095) + "\nb", "a b"},
	{"- " + long("a", 4096) + "\nb", "b"},
	{long("c", 2000) + strings.Repeat("\n"+long("a", 2000), 3), "a c"},
}

// long returns a pattern of size bytes that matches only c.
func long(c string, size int) string {
	return "[" + strings.Repeat(c, size-2) + "]"
}

func TestFiles(t *testing.T) {
	for i, f := range files {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			src := treeOf("a b c")
			src.create(t, filepath.Join(dir, "src"))
			tree{}.create(t, filepath.Join(dir, "dest"))
			rules := filepath.Join(dir, "rules")
			if err := os.WriteFile(rules, []byte(f.content), 0o644); err != nil {
				t.Fatal(err)
			}
			var list List
			if err := list.AddFrom(strings.NewReader(f.content)); err != nil {
				t.Fatal(err)
			}
			want := model(src, nil, func(name string, dir bool) bool {
				return strings.Contains(f.excluded, name)
			})
			if report := compare(want, model(src, nil, list.Excluded)); report != "" {
				t.Errorf("fact for %.100q:\n%s", f.content, report)
			}
			if report := compare(runRsync(t, dir, "--exclude-from="+rules), want); report != "" {
				t.Errorf("fact and rsync for %.100q:\n%s", f.content, report)
			}
		})
	}
}

func TestLongRules(t *testing.T) {
	for _, prefix := range []string{"", "- "} {
		var list List
		for _, rule := range []string{prefix + long("a", 4095), prefix + long("b", 4096)} {
			if err := list.Add(rule); err != nil {
				t.Fatal(err)
			}
		}
		if !list.Excluded("a", false) || list.Excluded("b", false) {
			t.Errorf("prefix %q: the limit of the length differs from that of rsync", prefix)
		}
	}
}

// TestSyntaxErrors checks that a rule is an error here if it is one for rsync.
func TestSyntaxErrors(t *testing.T) {
	fails := func(t *testing.T, option string) {
		t.Helper()
		dir := t.TempDir()
		out, err := exec.CommandContext(t.Context(), "rsync", "-an", option, dir+"/", dir+"/").CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), "unexpected end of filter rule: ") {
			t.Errorf("rsync %q: %v: %s", option, err, out)
		}
	}
	for _, rule := range []string{"- ", "+ "} {
		if err := new(List).Add(rule); err == nil {
			t.Errorf("no error for %q", rule)
		}
		fails(t, "--exclude="+rule)
	}
	if err := new(List).Add("a\x00b"); err == nil { // rsync cannot be given such an argument
		t.Error("no error for a NUL byte")
	}
	for content, want := range map[string]string{
		"a\n- \nb\n":      `line 2: filter rule "- " has no pattern`,
		"\r\n\r\n+ \r\nb": `line 3: filter rule "+ " has no pattern`,
		"- \x00a":         `line 1: filter rule "- " has no pattern`,
	} {
		if err := new(List).AddFrom(strings.NewReader(content)); err == nil || err.Error() != want {
			t.Errorf("error %v for %q, expected %s", err, content, want)
		}
		rules := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(rules, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		fails(t, "--exclude-from="+rules)
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	var list List
	err := list.AddFrom(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("error %v does not wrap the error of the reader", err)
	}
	if !list.Excluded("a", false) || list.Excluded("b", false) {
		t.Error("the list does not contain exactly the rules before the error")
	}
}

func TestRootIsNeverExcluded(t *testing.T) {
	var list List
	for _, rule := range []string{"*", "**", "/***", "."} {
		if err := list.Add(rule); err != nil {
			t.Fatal(err)
		}
	}
	if list.Excluded("", true) || list.Excluded(".", true) {
		t.Error("the root is excluded")
	}
}

// hardPatterns are patterns that match none of hardNames. A matcher that tries
// every position for every star takes exponential time for them. A matcher that
// retries only the last star of each kind, but tries it at every position, takes
// minutes for some. All patterns end with a class: a literal would let match
// reject the names by their suffix.
func hardPatterns(size int) []string {
	return []string{
		fill("*a", size) + "[b]",
		fill("**a", size) + "[b]",
		fill("**a*a", size) + "[b]",
		fill("*a/", size) + "[b]",
		fill("**/*a", size) + "[b]",
		"**" + fill("a", size/2) + "[b]",
		"**" + fill("*?", size/2) + "[b]",
		"**" + fill("*a/", size/2) + "[b]",
		"a**" + fill("*a/**", size/2) + "[b]",
		fill("a/", size/2) + "**[b]",
		fill("*/", size/2) + "**[b]",
		fill("?", size/2) + "**[b]",
		"**a*" + fill("?", size/2) + "[b]",
		"*" + fill("[a]", size) + "b/***",
	}
}

func hardNames(size int) []string {
	return []string{
		fill("a", size), fill("a/", size) + "a", fill("aa/", size) + "a",
		fill("a", size/2) + "/" + fill("a", size/2), fill("a/", size/2) + fill("a", size/2),
		fill("a", 3*size) + "/a",
	}
}

func fill(s string, size int) string { return strings.Repeat(s, size/len(s)) }

func TestTimeOfHardPatterns(t *testing.T) {
	t.Parallel()
	const size = 4000
	var patterns []pattern
	for _, text := range hardPatterns(size) {
		p, ok := compile(text)
		if !ok {
			t.Fatalf("%.20q... is not a valid pattern", text)
		}
		patterns = append(patterns, p)
	}
	matches := make(chan int, 1)
	go func() {
		n := 0
		for _, name := range hardNames(size) {
			for _, p := range patterns {
				if p.match(name, path.Base(name), true) {
					n++
				}
			}
		}
		matches <- n
	}()
	select {
	case n := <-matches:
		if n > 0 {
			t.Errorf("%d patterns match names that they should not match", n)
		}
	case <-time.After(time.Minute):
		t.Error("the patterns took more than a minute")
	}
}

func TestExcludedDoesNotAllocate(t *testing.T) {
	list, names := typical(t)
	if n := testing.AllocsPerRun(10, func() {
		for _, name := range names {
			list.Excluded(name, false)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkExcluded(b *testing.B) {
	list, names := typical(b)
	benchmarkExcluded(b, list, names, false)
}

func BenchmarkPattern(b *testing.B) {
	_, names := typical(b)
	names = append(names, "log/app.log", "cache/a/b/c", "lib/node_modules", "work.tmp", "a/b/x/y")
	for _, pattern := range []string{"*.log", "/cache/***", "node_modules/", "[a-z]*.tmp", "**/x/y"} {
		b.Run(strings.ReplaceAll(pattern, "/", "|"), func(b *testing.B) {
			list := new(List)
			if err := list.Add(pattern); err != nil {
				b.Fatal(err)
			}
			benchmarkExcluded(b, list, names, true)
		})
	}
}

// BenchmarkHardPatterns shows the growth of the time: a name and patterns that are
// twice as long should take no more than four times as long.
func BenchmarkHardPatterns(b *testing.B) {
	for _, size := range []int{500, 1000, 2000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			list := new(List)
			for _, pattern := range hardPatterns(size) {
				if err := list.Add(pattern); err != nil {
					b.Fatal(err)
				}
			}
			benchmarkExcluded(b, list, hardNames(size), true)
		})
	}
}

func benchmarkExcluded(b *testing.B, list *List, names []string, dir bool) {
	for b.Loop() {
		for _, name := range names {
			list.Excluded(name, dir)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/name")
}

// typical returns rules as they occur in manifests, and names of which only the
// last one is excluded, by the last rule.
func typical(tb testing.TB) (*List, []string) {
	tb.Helper()
	list := new(List)
	for _, rule := range []string{"*.pid", "*.socket", ".git/", "/log/", "tmp/*", "/config/local.yml",
		"node_modules/", "*.sw[op]", "/public/**/cache", "**/testdata/*.golden"} {
		if err := list.Add(rule); err != nil {
			tb.Fatal(err)
		}
	}
	return list, []string{"README.md", "app/models/user.rb", "public/assets/images/a/b/c/logo.png",
		"src/cmd/compile/internal/ssa/rewrite_generic.go", "src/cmd/go/testdata/list.golden"}
}
