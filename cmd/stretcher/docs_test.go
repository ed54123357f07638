package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsOptions checks that docs/flags.md lists the options exactly as
// stretcher -h prints them.
func TestDocsOptions(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "flags.md"))
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`(?ms)^  -max-bandwidth.*?\n\n`).FindString(usage)
	if !strings.Contains(options, "-help") {
		t.Fatalf("the list of options in the usage is %q", options)
	}
	if !strings.Contains(string(page), "```\n"+strings.TrimSuffix(options, "\n")+"```\n") {
		t.Errorf("docs/flags.md does not contain the options as stretcher -h prints them:\n%s", options)
	}
}
