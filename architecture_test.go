package stretcher

import (
	"bufio"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/fujiwara/stretcher"

// The packages import what docs/architecture.md allows, and it lists them all.
func TestImports(t *testing.T) {
	t.Parallel()
	allowed := importTable(t)
	for _, dir := range packageDirs(t) {
		if dir == "cmd/stretcher" || dir == "internal/tartest" || dir == "internal/ptytest" {
			continue // thin, and test code
		}
		may, ok := allowed[dir]
		if !ok {
			t.Errorf("docs/architecture.md does not list %s", dir)
		}
		delete(allowed, dir)
		if dir == "." {
			continue // it may import all of them
		}
		for _, imported := range importsOf(t, dir) {
			if !slices.Contains(may, imported) {
				t.Errorf("%s imports %s, which docs/architecture.md does not allow", dir, imported)
			}
		}
	}
	for dir := range allowed {
		t.Errorf("docs/architecture.md lists %s, which does not exist", dir)
	}
}

// importTable reads the table of packages: which one may import which others.
func importTable(t *testing.T) map[string][]string {
	t.Helper()
	f, err := os.Open("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := map[string][]string{}
	quoted := regexp.MustCompile("`([^`]+)`")
	for lines := bufio.NewScanner(f); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		dir := quoted.FindStringSubmatch(cells[1])[1]
		table[dir] = nil
		for _, match := range quoted.FindAllStringSubmatch(cells[3], -1) {
			table[dir] = append(table[dir], match[1])
		}
	}
	if len(table) == 0 {
		t.Fatal("docs/architecture.md has no table of packages")
	}
	return table
}

// packageDirs lists the directories of this module that have Go code other than
// tests.
func packageDirs(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(name, "go.mod")); d.IsDir() && name != "." && err == nil {
			return filepath.SkipDir // another module
		}
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !slices.Contains(dirs, path.Dir(name)) {
			dirs = append(dirs, path.Dir(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// importsOf lists the packages of this module that a package imports, its tests
// aside.
func importsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if imported == modulePath {
				imports = append(imports, ".")
			} else if dir, ok := strings.CutPrefix(imported, modulePath+"/"); ok {
				imports = append(imports, dir)
			}
		}
	}
	return imports
}

// The root package stays small, and files stay readable. Raise a limit only for a
// new step or concept of the deployment process, never for a mechanism: that gets a
// package of its own.
func TestSizes(t *testing.T) {
	t.Parallel()
	const maxFiles, maxLines, maxFileLines = 18, 2700, 500
	for _, dir := range packageDirs(t) {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		files, total := 0, 0
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Count(string(data), "\n")
			if lines > maxFileLines {
				t.Errorf("%s has %d lines, more than %d: split it by concept", name, lines, maxFileLines)
			}
			files, total = files+1, total+lines
		}
		if dir == "." && (files > maxFiles || total > maxLines) {
			t.Errorf("the root package has %d files and %d lines, more than %d and %d: move a mechanism to a package of its own", files, total, maxFiles, maxLines)
		}
	}
}
