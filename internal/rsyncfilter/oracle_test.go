package rsyncfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The tests in this file check random rules against the installed rsync(1), on
// both sides of a transfer. Every run uses a different seed. To reproduce a
// failure, or to test for longer, set:
//
//	RSYNCFILTER_SEED=1234 RSYNCFILTER_ROUNDS=100 go test ./internal/rsyncfilter

// TestOptionsAgainstRsync passes rules to rsync in the options that stretcher
// uses. It tests fewer lists than TestPatternsAgainstRsync, because one run of
// rsync takes only one list.
func TestOptionsAgainstRsync(t *testing.T) {
	oracle(t, 8, func(t *testing.T, rng *rand.Rand) {
		dir := t.TempDir()
		names := randomTree(rng, 60)
		src, dest := names.subset(rng), names.subset(rng)
		src.create(t, filepath.Join(dir, "src"))
		dest.create(t, filepath.Join(dir, "dest"))
		for range 15 {
			list, options := randomOptions(t, rng, names, filepath.Join(dir, "rules"))
			got := runRsync(t, dir, options...)
			if report := compare(got, model(src, dest, list.Excluded)); report != "" {
				content, err := os.ReadFile(filepath.Join(dir, "rules"))
				t.Errorf("rsync %q, file %q (%v):\n%s", options, content, err, report)
			}
		}

		// The runs above are dry runs. Check that a real run gives the same result.
		list, options := randomOptions(t, rng, names, filepath.Join(dir, "rules"))
		cmd := exec.CommandContext(t.Context(), "rsync", slices.Concat([]string{"-a", "--delete"}, options, []string{"src/", "dest/"})...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("rsync %q: %v: %s", options, err, out)
		}
		o := model(src, dest, list.Excluded)
		for _, name := range o.deleted {
			delete(dest, name)
		}
		for _, name := range o.sent {
			dest[name] = src[name]
		}
		if got, want := namesIn(t, filepath.Join(dir, "dest")), dest.sorted(); !slices.Equal(got, want) {
			t.Errorf("rsync %q: dest contains\n%q, expected\n%q", options, got, want)
		}
	})
}

// randomOptions returns random rules and the options that pass the same rules to
// rsync. It writes the file for --exclude-from to path.
func randomOptions(t *testing.T, rng *rand.Rand, names tree, path string) (*List, []string) {
	t.Helper()
	for {
		content, arguments := randomFile(rng, names), randomArguments(rng, names)
		list := new(List)
		err := list.AddFrom(strings.NewReader(content))
		options := []string{"--exclude-from=" + path}
		for _, rule := range arguments {
			err = errors.Join(err, list.Add(rule))
			options = append(options, "--exclude="+rule)
		}
		if err != nil {
			continue // TestSyntaxErrors covers invalid rules
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return list, options
	}
}

func namesIn(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err == nil && name != root {
			names = append(names, strings.TrimPrefix(name, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestPatternsAgainstRsync tests many lists in one run of rsync. Each list is in
// a per-directory merge file and applies to the directory that contains the file.
// rsync anchors a pattern with a leading slash at that directory, but matches all
// other patterns with the path from the root of the transfer.
func TestPatternsAgainstRsync(t *testing.T) {
	const mergeFile = ".rules"
	oracle(t, 3, func(t *testing.T, rng *rand.Rand) {
		dir := t.TempDir()
		var tops [60]string
		names := map[string]tree{}
		src, dest := tree{}, tree{}
		for n := range tops {
			top := fmt.Sprint("T", n)
			tops[n] = top
			names[top] = randomTree(rng, 14)
			for _, side := range []tree{src, dest} {
				side[top] = directory
				side[path.Join(top, mergeFile)] = file
				for name, kind := range names[top].subset(rng) {
					side[path.Join(top, name)] = kind
				}
			}
		}
		src.create(t, filepath.Join(dir, "src"))
		dest.create(t, filepath.Join(dir, "dest"))

		for range 12 {
			lists := map[string]*List{}
			texts := map[string]string{}
			for _, top := range tops {
				lists[top], texts[top] = randomMerge(t, rng, names[top], top)
				for _, side := range []string{"src", "dest"} {
					err := os.WriteFile(filepath.Join(dir, side, top, mergeFile), []byte(texts[top]), 0o644)
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			got := runRsync(t, dir, "--filter=: "+mergeFile)
			want := model(src, dest, func(name string, dir bool) bool {
				top, _, below := strings.Cut(name, "/")
				return below && lists[top].Excluded(name, dir)
			})
			if report := compare(got, want); report != "" {
				t.Errorf("rsync with merge files:\n%s", report)
				for _, top := range tops {
					if compare(got.below(top), want.below(top)) != "" {
						t.Logf("%s: %q", path.Join(top, mergeFile), texts[top])
					}
				}
			}
		}
	})
}

// randomMerge returns random rules for the names below the directory top, and the
// content of a merge file in top with the same rules.
func randomMerge(t *testing.T, rng *rand.Rand, names tree, top string) (*List, string) {
	t.Helper()
	list := new(List)
	var text strings.Builder
	for range 1 + rng.IntN(4) {
		prefix := pick(rng, "- ", "- ", "+ ")
		pattern := randomPattern(rng, names)
		if pattern == "" || strings.ContainsAny(pattern, "\r\n") {
			continue
		}
		fmt.Fprintf(&text, "%s%s\n", prefix, pattern)
		if strings.HasPrefix(pattern, "/") {
			pattern = "/" + top + pattern
		}
		if err := list.Add(prefix + pattern); err != nil {
			t.Fatal(err)
		}
	}
	return list, text.String()
}

// oracle runs a test for a number of rounds. The random numbers depend only on
// the seed and the round.
func oracle(t *testing.T, rounds int, test func(*testing.T, *rand.Rand)) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Fatalf("rsync(1) is needed to compare with: %v", err)
	}
	number := func(name string, value uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return value
		}
		value, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return value
	}
	seed := number("RSYNCFILTER_SEED", rand.Uint64())
	for round := range number("RSYNCFILTER_ROUNDS", uint64(rounds)) {
		t.Run(strconv.FormatUint(round, 10), func(t *testing.T) {
			t.Parallel()
			defer func() {
				if t.Failed() {
					t.Logf("RSYNCFILTER_SEED=%d", seed)
				}
			}()
			test(t, rand.New(rand.NewPCG(seed, round)))
		})
	}
}

type kindOfFile byte

const (
	file kindOfFile = iota
	directory
	symlink
)

// tree maps slash-separated paths to kinds of files.
type tree map[string]kindOfFile

func randomTree(rng *rand.Rand, entries int) tree {
	names := tree{}
	parents := []string{"", ""}
	for len(names) < entries {
		name := path.Join(pick(rng, parents...), randomName(rng))
		if _, ok := names[name]; ok {
			continue
		}
		kind := pick(rng, file, file, file, directory, directory, directory, symlink)
		names[name] = kind
		if kind == directory {
			parents = append(parents, name)
		}
	}
	return names
}

func (names tree) sorted() []string { return slices.Sorted(maps.Keys(names)) }

// subset returns the tree without a random third of the names and everything
// below them.
func (names tree) subset(rng *rand.Rand) tree {
	some := tree{}
	for _, name := range names.sorted() {
		_, parent := some[path.Dir(name)]
		if (parent || path.Dir(name) == ".") && rng.IntN(3) > 0 {
			some[name] = names[name]
		}
	}
	return some
}

func (names tree) create(t *testing.T, root string) {
	t.Helper()
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names.sorted() {
		target := filepath.Join(root, name)
		var err error
		switch names[name] {
		case file:
			err = os.WriteFile(target, nil, 0o644)
		case directory:
			err = os.Mkdir(target, 0o755)
		case symlink: // to a directory, although rules must not treat it as one
			err = os.Symlink(".", target)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// outcome lists the paths that a transfer sends and deletes.
type outcome struct{ sent, deleted []string }

func (o outcome) below(top string) outcome {
	other := func(name string) bool { return !strings.HasPrefix(name, top+"/") }
	return outcome{
		sent:    slices.DeleteFunc(slices.Clone(o.sent), other),
		deleted: slices.DeleteFunc(slices.Clone(o.deleted), other),
	}
}

// model returns what rsync -a --delete should do with src and dest.
func model(src, dest tree, excluded func(string, bool) bool) outcome {
	// reach returns all names except excluded ones and those below them.
	reach := func(names tree) tree {
		reached := tree{}
		for _, name := range names.sorted() { // parents come first
			_, parent := reached[path.Dir(name)]
			if (parent || path.Dir(name) == ".") && !excluded(name, names[name] == directory) {
				reached[name] = names[name]
			}
		}
		return reached
	}
	sent := reach(src)
	found := reach(dest)
	deleted := tree{}
	for name, kind := range found {
		if _, ok := sent[name]; !ok {
			deleted[name] = kind
		}
	}
	// A directory that contains a name that is kept is kept too.
	for name := range dest {
		if _, gone := deleted[name]; gone {
			continue
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			delete(deleted, dir)
		}
	}
	return outcome{sent: sent.sorted(), deleted: deleted.sorted()}
}

// runRsync makes a dry run of a transfer from src to dest, which are in dir.
func runRsync(t *testing.T, dir string, options ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	arguments := []string{"-a", "--delete", "--dry-run", "-ii"}
	arguments = append(arguments, options...)
	arguments = append(arguments, "src/", "dest/")
	cmd := exec.CommandContext(ctx, "rsync", arguments...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	// TestFiles contains overlong rules, which rsync warns about.
	if err != nil || stderr.Len() > 0 && !strings.HasPrefix(stderr.String(), "discarding over-long filter") {
		t.Fatalf("rsync %.200q: %v: %s", options, err, &stderr)
	}
	var o outcome
	kept := map[string]bool{}
	for line := range strings.Lines(string(stdout)) {
		// If a directory cannot be deleted and its parent is to be deleted,
		// a dry run lists the directory as deleted, but prints this line too.
		if name, ok := strings.CutPrefix(line, "cannot delete non-empty directory: "); ok {
			kept[unescape(strings.TrimSuffix(name, "\n"))] = true
			continue
		}
		m := itemized.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("rsync %q: unexpected line: %q", options, line)
		}
		what, name := m[1], unescape(m[2])
		switch {
		case strings.HasPrefix(what, "*"):
			o.deleted = append(o.deleted, name)
		case name != ".":
			o.sent = append(o.sent, name)
		}
	}
	o.deleted = slices.DeleteFunc(o.deleted, func(name string) bool { return kept[name] })
	slices.Sort(o.sent)
	slices.Sort(o.deleted)
	return o
}

// itemized matches a line of the output of rsync -ii: eleven columns that describe
// the change, a space, and the name. A slash follows the name of a directory, and
// the target follows the name of a symbolic link.
var itemized = regexp.MustCompile(`^(\*deleting  |[.<>ch][fdL].{9}) (.*?)/?(?: -> \.)?\n$`)

var escaped = regexp.MustCompile(`\\#[0-7]{3}`)

// unescape replaces the notation that rsync uses for unprintable bytes.
func unescape(name string) string {
	return escaped.ReplaceAllStringFunc(name, func(e string) string {
		n, err := strconv.ParseUint(e[2:], 8, 8)
		if err != nil {
			panic(err) // rsync prints nothing above \#377
		}
		return string([]byte{byte(n)})
	})
}

// compare describes the differences between two outcomes in terms of the rules. It
// returns "" if there are none.
func compare(got, want outcome) string {
	var report strings.Builder
	list := func(what string, a, b []string) {
		for _, name := range a {
			if _, ok := slices.BinarySearch(b, name); !ok {
				fmt.Fprintf(&report, "\t%s: %q\n", what, name)
			}
		}
	}
	list("excluded here, sent by rsync", got.sent, want.sent)
	list("not excluded here, not sent by rsync", want.sent, got.sent)
	list("kept here, deleted by rsync", got.deleted, want.deleted)
	list("deleted here, kept by rsync", want.deleted, got.deleted)
	return report.String()
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// randomName returns a name made of few different letters, so that rules match
// often, and of all characters that have a meaning in a pattern.
func randomName(rng *rand.Rand) string {
	for {
		var name strings.Builder
		for range 1 + rng.IntN(3) {
			name.WriteString(pick(rng, "a", "a", "a", "b", "b", "c", "A", "0", "_", ".", "-", "*",
				"?", "[", "]", "!", "^", ":", "\\", " ", "#", "+ ", "\t", "\xff", "\u00e9", "\n"))
		}
		if n := name.String(); n != "." && n != ".." {
			return n
		}
	}
}

func randomPattern(rng *rand.Rand, names tree) string {
	if rng.IntN(3) == 0 {
		return randomTokens(rng)
	}
	return patternFor(rng, pick(rng, names.sorted()...))
}

func randomTokens(rng *rand.Rand) string {
	var pattern strings.Builder
	for range 1 + rng.IntN(6) {
		pattern.WriteString(pick(rng, tokens...))
	}
	return pattern.String()
}

var tokens = []string{
	"a", "a", "b", "c", "A", "0", "_", ".", "-", " ", "#", "!", "^", ":", "]", "\xff", "\u00e9", "\xc3",
	"*", "*", "*", "**", "**", "***", "****", "?", "?",
	"/", "/", "/", "//", "./", "../", "/.", "**/", "/**", "/***", "/*",
	"[ab]", "[!a]", "[^a]", "[a-c]", "[c-a]", "[!a-c]", "[^]]", "[]]", "[]a]", "[]-]", "[]-a]", "[a-]",
	"[-a]", "[--0]", "[+--]", "[a-c-e]", "[a-b-c]", "[!]a]", "[^^]", "[!!]", "[^!a]", "[!^]", "[a^]",
	"[*]", "[**]", "[?]", "[a/b]", "[/]", "[!/]", "[.-0]", "[[]", "[[a]", "[][]", "[a[]", "[\xff]",
	"[\x80-\xff]", "[!\x80-\xff]", "[\u00e9]",
	`[\]]`, `[\\]`, `[a\-c]`, `[a-\c]`, `[\a-c]`, `[\!a]`, `[!\!]`, `[\^]`, `[a\]`, `[\/]`, `[a-\]]`,
	"[[:alpha:]]", "[![:alpha:]]", "[^[:punct:]]", "[[:digit:][:upper:]]", "[[:lower:]_]", "[[:space:]]",
	"[[:blank:]]", "[[:cntrl:]]", "[[:graph:]]", "[[:print:]]", "[[:alnum:]]", "[[:xdigit:]]",
	"[a-[:alpha:]]", "[[:alpha:]-c]", "[[:digit:]-]", "[a[:digit:]-c]", "[[:alpha:]", "[[:foo:]]", "[[:ALPHA:]]", "[[::]]",
	"[[:]", "[[:]]", "[[:alpha]", "[[:a]]", "[[:alpha:a]", "[:alpha:]", "[[.a.]]", "[[=a=]]",
	"[", "[a", "[!", "[^", "[]", "[!]", "[[", "[a-", "[[:", `[\`,
	`\`, `\`, `\\`, `\*`, `\?`, `\[`, `\]`, `\a`, `\/`, `\!`, `\-`,
}

// patternFor returns a random pattern that is likely to match name.
func patternFor(rng *rand.Rand, name string) string {
	parts := strings.Split(name, "/")
	anchored := rng.IntN(3) == 0
	if !anchored {
		parts = parts[rng.IntN(len(parts)):]
	}
	// Vary the number of wildcards: some patterns have none, some have many.
	spice := rng.IntN(5)
	for i, part := range parts {
		if rng.IntN(30) < spice {
			parts[i] = pick(rng, "*", "*", "**", "***", "?*", "*?")
			continue
		}
		var b strings.Builder
		for _, c := range []byte(part) {
			if rng.IntN(12) >= spice {
				b.WriteByte(c)
				continue
			}
			switch rng.IntN(8) {
			case 0:
				b.WriteByte('?')
			case 1:
				b.WriteString(pick(rng, "*", string([]byte{c, '*'}), string([]byte{'*', c})))
			case 2:
				b.WriteString("**")
			case 3:
				b.Write([]byte{'\\', c})
			case 4:
				b.Write([]byte{'[', c, ']'})
			case 5:
				b.Write([]byte{'[', pick(rng, c-1, c, 'b'), '-', pick(rng, c+1, c, ']'), pick(rng, c, ']', '-'), ']'})
			case 6:
				b.Write([]byte{'[', pick[byte](rng, '!', '^'), pick(rng, c, 'b', ']'), ']'})
			case 7:
				b.WriteString(pick(rng, tokens...))
			}
		}
		parts[i] = b.String()
	}
	pattern := strings.Join(parts, "/")
	if anchored {
		pattern = "/" + pattern
	}
	if rng.IntN(8) < spice {
		pattern = pick(rng, "*", "**", "**/", "*/", "./", "/", "/**/") + pattern
	}
	if rng.IntN(6) == 0 {
		pattern += pick(rng, "/", "/", "/*", "/**", "/***", "//", "*", "**", "***", "/***/", "/.", `\`)
	}
	return strings.ReplaceAll(pattern, "\x00", "")
}

func randomRule(rng *rand.Rand, names tree) string {
	switch rng.IntN(40) {
	case 0:
		return "!"
	case 1:
		return pick(rng, "", "! ", " !", "!/", "- !", "+ !", "-", "+", " ", "/", "//", ".", "./", "..", "- /", "- ./")
	}
	return pick(rng, "", "", "- ", "+ ", "+ ", "-", "+", " ", "- - ", "+ + ", "- + ") + randomPattern(rng, names)
}

func randomArguments(rng *rand.Rand, names tree) []string {
	rules := make([]string, rng.IntN(4))
	for i := range rules {
		rules[i] = randomRule(rng, names)
	}
	return rules
}

func randomFile(rng *rand.Rand, names tree) string {
	var text strings.Builder
	for range rng.IntN(5) {
		if rng.IntN(6) == 0 {
			text.WriteString(pick(rng, "# *", ";*", "", " ", "\t", "#", "*\x00", "\x00*", "#\x00", "a\x00*", " # *"))
		} else {
			text.WriteString(randomRule(rng, names))
		}
		text.WriteString(pick(rng, "\n", "\n", "\r\n", "\r\n", "\n\n", "\r", "\n\r"))
	}
	if rng.IntN(2) == 0 {
		text.WriteString(randomRule(rng, names)) // a last line without a line end
	}
	return text.String()
}
