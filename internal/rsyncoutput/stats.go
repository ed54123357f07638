package rsyncoutput

import (
	"bytes"
	"fmt"
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

// startsHeap reports whether a line is the first one of the memory statistics, as
// "rsync[123] (sender) heap statistics:".
func startsHeap(line []byte) bool {
	return bytes.HasPrefix(line, []byte("rsync[")) && bytes.HasSuffix(line, []byte(") heap statistics:"))
}

// isHeap reports whether a line is another one of them, as
// "  arena:         262144   (bytes from sbrk)".
func isHeap(line []byte) bool {
	label, value, ok := bytes.Cut(line, []byte(": "))
	number, _, _ := bytes.Cut(bytes.TrimLeft(value, " "), []byte(" "))
	_, err := strconv.ParseInt(string(number), 10, 64)
	return ok && bytes.HasPrefix(label, []byte("  ")) && err == nil
}

// startsSummary reports whether a line is the first one of the summary, as
// "sent 1,234 bytes  received 56 bytes  860.00 bytes/sec".
func startsSummary(line []byte) bool {
	return bytes.HasPrefix(line, []byte("sent ")) && bytes.Contains(line, []byte(" bytes  received ")) && bytes.HasSuffix(line, []byte(" bytes/sec"))
}

// endsSummary reports whether a line is the second one, as
// "total size is 5,678  speedup is 4.40".
func endsSummary(line []byte) bool {
	return bytes.HasPrefix(line, []byte("total size is ")) && bytes.Contains(line, []byte("  speedup is "))
}

// startsCounts reports whether a line is the first one of the statistics.
func startsCounts(line []byte) bool { return bytes.HasPrefix(line, []byte("Number of files: ")) }

// isCount reports whether a line is one of the statistics.
func isCount(line []byte) bool {
	label, _, ok := bytes.Cut(line, []byte(": "))
	if !ok {
		return false
	}
	switch string(label) {
	case "Number of files", "Number of created files", "Number of deleted files",
		"Number of regular files transferred", "Number of files transferred",
		"Total file size", "Total transferred file size", "Literal data", "Matched data",
		"File list size", "File list generation time", "File list transfer time",
		"Total bytes sent", "Total bytes received":
		return true
	}
	return false
}

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
