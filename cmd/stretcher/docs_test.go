package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsOptions checks that the documentation lists the options exactly as -h prints
// them.
func TestDocsOptions(t *testing.T) {
	for page, list := range map[string]struct{ usage, first string }{
		"flags.md":   {usage, "-max-bandwidth"},
		"packing.md": {packUsage, "-o FILE"},
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		options := regexp.MustCompile(`(?ms)^  ` + list.first + `.*?\n\n`).FindString(list.usage)
		if !strings.Contains(options, "-help") {
			t.Fatalf("the list of options in the usage is %q", options)
		}
		if !strings.Contains(string(text), "```\n"+strings.TrimSuffix(options, "\n")+"```\n") {
			t.Errorf("docs/%s does not contain the options as -h prints them:\n%s", page, options)
		}
	}
}
