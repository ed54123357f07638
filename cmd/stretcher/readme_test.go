package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeOptions checks that the README lists the options exactly as
// stretcher -h prints them.
func TestReadmeOptions(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`(?ms)^  -max-bandwidth.*?\n\n`).FindString(usage)
	if !strings.Contains(options, "-help") {
		t.Fatalf("the list of options in the usage is %q", options)
	}
	if !strings.Contains(string(readme), "```\n"+strings.TrimSuffix(options, "\n")+"```\n") {
		t.Errorf("the README does not contain the options as stretcher -h prints them:\n%s", options)
	}
}
