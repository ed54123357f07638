package rsyncoutput

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Stats is what --stats counts (rsync(1), "--stats").
type Stats struct {
	known       bool
	transferred int64 // regular files whose contents were copied
	created     kinds // since rsync 3.1
	deleted     kinds // since rsync 3.1
}

// kinds is a count of files, as in "6 (reg: 3, dir: 1, link: 1, special: 1)".
type kinds struct {
	known          bool
	total, regular int64
}

// String returns the statistics as words: how many files were created, changed
// and deleted. Files of all kinds count as created and deleted, directories
// included; changed are the regular files whose contents were replaced. Before
// version 3.1, rsync counts only the files that it copied.
func (s Stats) String() string {
	if !s.created.known || !s.deleted.known {
		return fmt.Sprintf("%d copied", s.transferred)
	}
	// An empty file may be created without a transfer.
	changed := max(0, s.transferred-s.created.regular)
	return fmt.Sprintf("%d created, %d changed, %d deleted", s.created.total, changed, s.deleted.total)
}

var (
	heapStart    = regexp.MustCompile(`^rsync\[\d+\] \([a-z ]+\) heap statistics:$`)
	heapLine     = regexp.MustCompile(`^  [a-z]+: +-?\d+( +\([a-z0-9+ ]+\))?$`)
	summaryStart = regexp.MustCompile(`^sent .* bytes  received .* bytes  .* bytes/sec$`)
	summaryEnd   = regexp.MustCompile(`^total size is .*  speedup is .*$`)
	countsStart  = []byte("Number of files: ")
	countLine    = regexp.MustCompile(`^(Number of files|Number of created files|Number of deleted files` +
		`|Number of regular files transferred|Number of files transferred` +
		`|Total file size|Total transferred file size|Literal data|Matched data` +
		`|File list size|File list generation time|File list transfer time` +
		`|Total bytes sent|Total bytes received): .*$`)
)

// listsNames reports whether a line announces the list of names that -v prints.
func listsNames(line []byte) bool {
	return bytes.Equal(line, []byte("sending incremental file list")) || bytes.HasPrefix(line, []byte("building file list ..."))
}

func (s *Stats) add(line []byte) {
	label, value, _ := strings.Cut(string(line), ": ")
	switch label {
	case "Number of files":
		*s = Stats{} // the statistics begin
	case "Number of created files":
		s.created = parseKinds(value)
	case "Number of deleted files":
		s.deleted = parseKinds(value)
	case "Number of regular files transferred", "Number of files transferred":
		s.transferred, s.known = parseCount(value)
	}
}

// parseKinds parses a count with the kinds of files in parentheses. Kinds that do
// not occur are left out by rsync, and all of them where the total is 0.
func parseKinds(value string) (k kinds) {
	total, list, _ := strings.Cut(value, " (")
	k.total, k.known = parseCount(total)
	for kind := range strings.SplitSeq(strings.TrimSuffix(list, ")"), ", ") {
		if n, ok := strings.CutPrefix(kind, "reg: "); ok {
			k.regular, _ = parseCount(n)
		}
	}
	return k
}

// parseCount parses a number with separators between groups of three digits,
// which are points where the locale has a comma before decimals.
func parseCount(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.NewReplacer(",", "", ".", "").Replace(text), 10, 64)
	return n, err == nil && n >= 0
}
