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

// facts are what rules do to names. TestFacts holds them against this package
// and against rsync.
var facts = []struct {
	rules    []string
	names    string // a slash at the end is a directory, an '@' a symbolic link to one
	excluded string // of names
}{
	// No slash, no "**": the last component.
	{[]string{"foo"}, "foo d/foo d/e/foo/ xfoo foox Foo", "foo d/foo d/e/foo/"},
	{[]string{"*.pid"}, ".pid a.pid d/a.pid a.pid.x d.pid/ d.pid/a", ".pid a.pid d/a.pid d.pid/"},
	{[]string{"foo*"}, "foo fooo d/foo.x xfoo foo.d/ foo.d/a", "foo fooo d/foo.x foo.d/"},
	{[]string{"a*a"}, "a aa aba aab d/aca", "aa aba d/aca"},
	{[]string{"f?o"}, "fo foo f/o fxo d/fxo", "foo fxo d/fxo"},
	{[]string{"*"}, ".a b c/ c/d", ".a b c/"},

	// A trailing slash: directories only, no symbolic links.
	{[]string{"foo/"}, "foo a/foo/ a/foo/b l/foo@", "a/foo/"},
	{[]string{"*/"}, "a b/ b/c l@", "b/"},
	{[]string{"foo//"}, "foo/ a/foo/", ""},
	{[]string{"foo\\/"}, "foo/ foo\\ a/foo\\/", "a/foo\\/"},
	{[]string{"a/b/"}, "a/b/ c/a/b d/a/b/", "a/b/ d/a/b/"},

	// A slash elsewhere: as many components at the end.
	{[]string{"foo/bar"}, "foo/bar a/foo/bar/ xfoo/bar foo/a/bar foo/barx", "foo/bar a/foo/bar/"},
	{[]string{"foo/*/bar"}, "foo/a/bar b/foo/a/bar foo/bar foo/a/b/bar", "foo/a/bar b/foo/a/bar"},
	{[]string{"*/b"}, "b a/b c/d/b/", "a/b c/d/b/"},
	{[]string{"a//b"}, "a/b", ""},
	{[]string{"./a", "../a", "a/./b"}, "a a/b", ""},
	{[]string{"[a/b]"}, "a b c/a", ""},
	{[]string{"a[/]b"}, "a/b", ""},
	{[]string{"a?b", "c[!x]d", "e[+-0]f"}, "a/b c/d e/f a.b c.d e.f", "a.b c.d e.f"},
	{[]string{"a\\/b*"}, "a/b a/bc d/a/b ab", "a/b a/bc d/a/b"},

	// A leading slash: the root.
	{[]string{"/foo"}, "foo a/foo a/b/foo", "foo"},
	{[]string{"/foo/"}, "a/foo/ foo", ""},
	{[]string{"/a/*"}, "a/b a/.c d/a/b", "a/b a/.c"},
	{[]string{"/*"}, "a b/ b/c", "a b/"},
	{[]string{"/*/b"}, "b a/b a/c/b", "a/b"},
	{[]string{"//foo"}, "foo a/foo", ""},
	{[]string{"/"}, "a b/", ""},
	{[]string{"//", ".", "./", ".."}, "a b/ b/c", ""},

	// "**".
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
	{[]string{"[**]"}, "* d/* a", "* d/*"},
	{[]string{"a/\\**"}, "a/* a/*b a/b/c c/a/*d", "a/* a/*b c/a/*d"},

	// "***".
	{[]string{"/foo/***"}, "foo/ foo/a a/foo/ a/foo/b", "foo/"},
	{[]string{"+ /foo/***", "*"}, "foo/ foo/a foo/b/ foo/b/c bar", "bar"},
	{[]string{"+ d/", "+ foo/***", "*"}, "d/foo/ d/foo/a d/foo/b/c d/bar", "d/bar"},
	{[]string{"foo/***"}, "foo d/foo/ d/e/xfoo/ l/foo@", "d/foo/"},
	{[]string{"*/***"}, "a b/ c/d l@", "b/ c/"},
	{[]string{"a***c"}, "ac abc a/c a/b/c", "ac abc a/c a/b/c"},
	{[]string{"**/foo/***"}, "foo/ d/foo/ d/e/foo", "foo/ d/foo/"},
	{[]string{"/***"}, "a b/", "a b/"},
	{[]string{"//***"}, "a b/", ""},

	// Classes.
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
	{[]string{"?"}, "a \xff \u00e9", "a \xff"}, // by bytes

	// Patterns that no name matches.
	{[]string{"[", "[a", "[a-", "[!", "[]", "[[:alpha:]", "a[", "*["}, "[ a [a [a- [! [] a[ ] -", ""},
	{[]string{"[[:foo:]]", "[[:ALPHA:]]", "[[::]]", "[a[:x:]]*"}, "a f A : [ x", ""},
	{[]string{"*\\", "a?\\"}, "\\ a\\ ab\\ a", ""},

	// Backslashes escape only in a pattern with a wildcard.
	{[]string{"a\\b"}, "a\\b ab", "a\\b"},
	{[]string{"a\\b*"}, "a\\b ab abc", "ab abc"},
	{[]string{"a\\\\b*"}, "a\\b ab a\\bc", "a\\b a\\bc"},
	{[]string{"\\*"}, "* \\* a", "*"},
	{[]string{"a\\"}, "a\\ a", "a\\"},
	{[]string{"\\?\\[*"}, "?[ ?[a \\?", "?[ ?[a"},

	// The first rule that matches decides, and directories are not looked into.
	{[]string{"+ a", "a"}, "a d/a", ""},
	{[]string{"a", "+ a"}, "a d/a", "a d/a"},
	{[]string{"+ *.go", "+ */", "*"}, "a.go b d/a.go d/b", "b d/b"},
	{[]string{"+ d/a", "d"}, "d/a d/b", "d/"},
	{[]string{"- a"}, "a d/a -", "a d/a"},
	{[]string{"a", "!", "b"}, "a b", "b"},
	{[]string{"a", "", "b"}, "a b", "a b"},

	// What only looks like a prefix.
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
				t.Fatalf("%q holds what is not in %q", f.excluded, f.names)
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

// treeOf makes a tree of the names of a fact and the directories above them.
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

// files are facts about the files of --exclude-from, where it is the names a,
// b and c that tell how a file was read.
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
	{"a\\\nb", "b"},           // no continuation lines
	{long("a", 4095) + "\nb", "a b"},
	{long("a", 4096) + "\nb", "b"},
	{long("a", 100000) + "\nb", "b"},
	{"- " + long("a", 4095) + "\nb", "a b"},
	{"- " + long("a", 4096) + "\nb", "b"},
	{long("c", 2000) + strings.Repeat("\n"+long("a", 2000), 3), "a c"},
}

// long returns a pattern of size bytes that matches c.
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
			t.Errorf("prefix %q: the limit is not where rsync has it", prefix)
		}
	}
}

// What is an error is one to rsync too.
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
	if err := new(List).Add("a\x00b"); err == nil { // no program can be given that
		t.Error("no error for a NUL byte")
	}
	for content, want := range map[string]string{
		"a\n- \nb\n":      `line 2: filter rule "- ": no pattern`,
		"\r\n\r\n+ \r\nb": `line 3: filter rule "+ ": no pattern`,
		"- \x00a":         `line 1: filter rule "- ": no pattern`,
	} {
		if err := new(List).AddFrom(strings.NewReader(content)); err == nil || err.Error() != want {
			t.Errorf("error %v for %q, not %s", err, content, want)
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
		t.Errorf("error %v, not the reader's", err)
	}
	if !list.Excluded("a", false) || list.Excluded("b", false) {
		t.Error("the list does not hold the rules before the error, and them alone")
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

// Patterns that take a matcher that backtracks into every star exponential
// time, and one that tries every start for the last of them minutes.
func TestTimeOfHardPatterns(t *testing.T) {
	fill := func(s string, size int) string { return strings.Repeat(s, size/len(s)) }
	const size = 4000
	names := []string{
		fill("a", size), fill("a/", size) + "a", fill("aa/", size) + "a",
		fill("a", size/2) + "/" + fill("a", size/2), fill("a/", size/2) + fill("a", size/2),
	}
	start := time.Now()
	check := func(pattern, name string) {
		p, ok := compile(pattern)
		if !ok {
			t.Fatalf("%.20q... is no pattern", pattern)
		}
		if p.match(name, path.Base(name), true) {
			t.Errorf("%.20q... matches %.20q...", pattern, name)
		}
		if took := time.Since(start); took > time.Minute {
			t.Fatalf("%v until after %.20q... with %.20q...", took, pattern, name)
		}
	}
	for _, pattern := range []string{
		fill("*a", size) + "b",
		fill("**a", size) + "b",
		fill("**a*a", size) + "b",
		fill("*a/", size) + "b",
		fill("**/*a", size) + "b",
		"**" + fill("a", size/2) + "b",
		"**" + fill("*?", size/2) + "b",
		"**" + fill("*a/", size/2) + "b",
		"a**" + fill("*a/**", size/2) + "b",
		fill("a/", size/2) + "**b",
		fill("*/", size/2) + "**b",
		fill("?", size/2) + "**b",
		"*" + fill("[a]", size) + "b/***",
	} {
		for _, name := range names {
			check(pattern, name)
		}
	}
	check("**a*"+fill("a", size/2)+"b", fill("a", 3*size)+"/a")
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
	for b.Loop() {
		for _, name := range names {
			list.Excluded(name, false)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/name")
}

// typical returns rules such as manifests have, and names that none but the
// last of them excludes.
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
