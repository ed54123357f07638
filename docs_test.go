package stretcher_test

import (
	"bytes"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher"
)

// docs returns the pages of the documentation, by their path.
func docs(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md", "examples/*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			pages[path] = string(text)
		}
	}
	if pages["README.md"] == "" || pages["docs/README.md"] == "" {
		t.Fatal("the documentation lacks README.md or docs/README.md")
	}
	return pages
}

var fenced = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")

// A deployment with -strict accepts the manifests in the documentation, and does not even
// warn of them. What lacks src is a part of a manifest.
func TestDocsManifests(t *testing.T) {
	t.Setenv("APP_ROOT", "/srv")
	t.Setenv("REGION", "")
	const rest = "src: s3://releases/app.tar.gz\nchecksum: 0c15e883dee85bb2f3540a47ec58f617a2547117f9096417ba5422268029f501\ndest: /srv/app\n"
	manifest := filepath.Join(t.TempDir(), "manifest.yml")
	checked := 0
	for path, page := range docs(t) {
		if strings.HasPrefix(path, "examples/") {
			continue
		}
		for _, block := range fenced.FindAllStringSubmatch(page, -1) {
			text := block[2]
			if block[1] != "yaml" {
				continue
			}
			if !strings.Contains(text, "src:") {
				text = rest + text
			}
			if strings.Contains(text, "\nshared:") {
				text = "sync_strategy: symlink\n" + text
			}
			if err := os.WriteFile(manifest, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			problems, err := stretcher.Check(t.Context(), manifest, stretcher.Config{})
			if err != nil || len(problems) > 0 {
				t.Errorf("%s: %v %v in\n%s", path, problems, err, text)
			}
			checked++
		}
	}
	if checked < 5 {
		t.Errorf("the documentation has %d manifests, want at least 5", checked)
	}
}

// The table of errors in docs/manifest.md has the words of -check.
func TestDocsManifestErrors(t *testing.T) {
	t.Parallel()
	good := map[string]string{"src": "src: s3://releases/app.tar.gz", "checksum": "checksum: 0c15e883dee85bb2f3540a47ec58f617a2547117f9096417ba5422268029f501", "dest": "dest: /srv/app"}
	_, table, _ := strings.Cut(docs(t)["docs/manifest.md"], "| line of the manifest | error |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := regexp.MustCompile("(?m)^\\| `(([a-z_]+):.*?)`.*? \\| `(.*)` \\|$").FindAllStringSubmatch(table, -1)
	if len(rows) != strings.Count(table, "\n") {
		t.Fatalf("%d of the lines were understood:\n%s", len(rows), table)
	}
	manifest := filepath.Join(t.TempDir(), "manifest.yml")
	for _, row := range rows {
		line, key, want := row[1], row[2], row[3]
		lines := maps.Clone(good)
		lines[key] = line
		if key == "shared" {
			lines["sync_strategy"] = "sync_strategy: symlink"
		}
		text := strings.Join(slices.Collect(maps.Values(lines)), "\n")
		if err := os.WriteFile(manifest, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		problems, err := stretcher.Check(t.Context(), manifest, stretcher.Config{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range problems {
			if p.Warning {
				p.Text = "warning: " + p.Text
			}
			got = append(got, p.Text)
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: -check says %q, docs/manifest.md %q", line, got, want)
		}
	}
}

// docs/commands.md lists the variables that commands get.
func TestDocsVariables(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile("command.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`"(STRETCHER_[A-Z_]+)=`).FindAllSubmatch(code, -1)
	if len(names) < 8 {
		t.Errorf("command.go sets %d variables, want at least 8", len(names))
	}
	page := docs(t)["docs/commands.md"]
	for _, name := range names {
		if !strings.Contains(page, "| `"+string(name[1])+"` |") {
			t.Errorf("docs/commands.md does not list %s", name[1])
		}
	}
}

// Links to files, and to headings of pages, lead somewhere.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	pages := docs(t)
	anchors := map[string]map[string]bool{}
	for path, page := range pages {
		anchors[path] = headings(page)
	}
	checked := 0
	for path, page := range pages {
		text := regexp.MustCompile("`[^`\n]*`").ReplaceAllString(fenced.ReplaceAllString(page, ""), "")
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			target, err := url.Parse(link[1])
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if target.Scheme != "" {
				continue
			}
			checked++
			to := path
			if target.Path != "" {
				to = filepath.Join(filepath.Dir(path), target.Path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", path, link[1], err)
			} else if target.Fragment != "" && !anchors[to][target.Fragment] {
				t.Errorf("%s links to %s, but %s has no such heading", path, link[1], to)
			}
		}
	}
	if checked < 50 {
		t.Errorf("the documentation has %d links, want at least 50", checked)
	}
}

// headings returns the anchors that GitHub gives the headings of a page.
func headings(page string) map[string]bool {
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		anchor := strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")
		anchor = regexp.MustCompile(`[^\pL\pN_-]`).ReplaceAllString(anchor, "")
		for n, unique := 1, anchor; ; n++ {
			if !anchors[unique] {
				anchors[unique] = true
				break
			}
			unique = anchor + "-" + strconv.Itoa(n)
		}
	}
	return anchors
}

// Each page is listed in docs/README.md, and begins with an example or a picture.
func TestDocsPages(t *testing.T) {
	t.Parallel()
	pages := docs(t)
	for path, page := range pages {
		name, ok := strings.CutPrefix(path, "docs/")
		if !ok || name == "README.md" {
			continue
		}
		if !strings.Contains(pages["docs/README.md"], "]("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
		intro, _, _ := strings.Cut(page, "\n## ")
		if !strings.Contains(intro, "\n```") && !strings.Contains(intro, "\n![") {
			t.Errorf("%s begins with neither an example nor a picture", path)
		}
	}
	if lines := bytes.Count([]byte(pages["README.md"]), []byte("\n")); lines > 120 {
		t.Errorf("README.md has %d lines, more than two screens", lines)
	}
}
