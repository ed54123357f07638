package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README lists the options in the words of stretcher -h.
func TestReadmeOptions(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`(?ms)^  -max-bandwidth.*?\n\n`).FindString(usage)
	if !strings.Contains(options, "-help") {
		t.Fatalf("the options in the usage are %q", options)
	}
	if !strings.Contains(string(readme), "```\n"+strings.TrimSuffix(options, "\n")+"```\n") {
		t.Errorf("the README does not have the options as stretcher -h prints them:\n%s", options)
	}
}
