package stretcher_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// make help describes every target that is meant to be called.
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
	for _, target := range strings.Fields(string(phony[1])) {
		if target != "help" && !strings.Contains(help, "'make "+target+" ") {
			t.Errorf("make help does not describe %s", target)
		}
		if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
			t.Errorf("%s is in .PHONY, and is not a target", target)
		}
	}
}
