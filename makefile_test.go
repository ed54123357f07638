package stretcher_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// make help describes every target that is meant to be called, and the documentation
// names no others.
func TestMakeHelp(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	phony := regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindSubmatch(makefile)
	if phony == nil {
		t.Fatal("the Makefile has no .PHONY")
	}
	_, help, _ := strings.Cut(string(makefile), "\nhelp:\n")
	help, _, _ = strings.Cut(help, "\n\n")
	targets := strings.Fields(string(phony[1]))
	for path, page := range docs(t) {
		for _, named := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(page, -1) {
			if !slices.Contains(targets, named[1]) {
				t.Errorf("%s: there is no target %s", path, named[1])
			}
		}
	}
	for _, target := range targets {
		if target != "help" && !strings.Contains(help, "'make "+target+" ") {
			t.Errorf("make help does not describe %s", target)
		}
		if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
			t.Errorf("%s is in .PHONY, and is not a target", target)
		}
	}
}
