package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var usageOption = regexp.MustCompile(`^  (-\S.*?)(?:  +(.*))?$`)

// usageOptions returns the options of a usage text, as "-retry N", with what it says
// about each.
func usageOptions(t *testing.T, usage string) (options, texts []string) {
	t.Helper()
	_, list, _ := strings.Cut(usage, "\n\n  -")
	list, _, _ = strings.Cut("  -"+list, "\n\n")
	for line := range strings.Lines(list) {
		line = strings.TrimRight(line, "\n")
		if m := usageOption.FindStringSubmatch(line); m != nil {
			options, texts = append(options, m[1]), append(texts, m[2])
		} else {
			texts[len(texts)-1] += " " + strings.TrimSpace(line)
		}
	}
	if len(options) < 5 {
		t.Fatalf("the usage has the options %q", options)
	}
	return options, texts
}

// The manual page has the options of the usage, with the same texts.
func TestManPage(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../packaging/stretcher.8")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for _, usage := range []string{usage, packUsage} {
		want := ".Bl -tag -width Ds\n"
		options, texts := usageOptions(t, usage)
		for i, option := range options {
			var items []string
			for o := range strings.SplitSeq(option, ", ") {
				name, value, _ := strings.Cut(strings.TrimPrefix(o, "-"), " ")
				item := "Fl " + name
				if strings.Contains(value, " ") {
					value = `"` + value + `"`
				}
				if value != "" {
					item += " Ar " + value
				}
				items = append(items, item)
			}
			text := strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(texts[i]), `\`, `\e`), "-", `\-`)
			want += ".It " + strings.Join(items, " , ") + "\n" + text + "\n"
		}
		if want += ".El\n"; !strings.Contains(page, want) {
			t.Errorf("packaging/stretcher.8 does not have the options of the usage:\n%s", want)
		}
	}
}

// The manual page has the keys of a manifest, in the order of the documentation.
func TestManPageKeys(t *testing.T) {
	t.Parallel()
	list := func(file, pattern string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(data), -1) {
			keys = append(keys, strings.Split(m[1], " , ")...)
		}
		return strings.Join(keys, " ")
	}
	got, want := list("../../packaging/stretcher.8", `(?m)^\.It Cm (.*)$`), list("../../docs/manifest.md", "(?m)^\\| `([a-z0-9_.]+)` \\|")
	if got != want || !strings.HasPrefix(want, "src checksum ") {
		t.Errorf("packaging/stretcher.8 has the keys %s\nwant %s", got, want)
	}
}

// The completions offer all options, and no others.
func TestCompletionOptions(t *testing.T) {
	t.Parallel()
	var names []string
	for _, usage := range []string{usage, packUsage} {
		options, _ := usageOptions(t, usage)
		for _, option := range options {
			for o := range strings.SplitSeq(option, ", ") {
				name, _, _ := strings.Cut(o, " ")
				name, _, _ = strings.Cut(name, "=")
				names = append(names, strings.TrimPrefix(name, "-"))
			}
		}
	}
	for file, pattern := range map[string]string{
		"_stretcher":     `(?m)^\t\t'\*?-([a-z-]+?)(?:=-)?\[`,
		"stretcher.fish": `(?m)^complete .* -[so] ([a-z-]+) `,
	} {
		data, err := os.ReadFile("../../packaging/completions/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var inPack bool
		var main, pack []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatchIndex(string(data), -1) {
			line := string(data[m[0]:m[1]])
			if file == "_stretcher" {
				inPack = m[0] < strings.Index(string(data), "\nelse\n")
			} else {
				inPack = !strings.Contains(line, "'not __stretcher_packs'")
			}
			if name := string(data[m[2]:m[3]]); inPack {
				pack = append(pack, name)
			} else {
				main = append(main, name)
			}
		}
		if got := strings.Join(append(main, pack...), " "); got != strings.Join(names, " ") {
			t.Errorf("%s has %s\nwant %s", file, got, strings.Join(names, " "))
		}
	}
}
