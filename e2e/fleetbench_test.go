package e2e

import (
	"bytes"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The benchmark of a fleet works, and its figures can be true: a limited bandwidth
// takes longer, and an upgrade fetches a small part. The figures of docs/scale.md are
// those of make bench-fleet, with more agents.
func TestFleetBench(t *testing.T) {
	t.Parallel()
	program(t, "nginx")
	bench := t.TempDir() + "/fleetbench"
	output(t, exec.Command("go", "build", "-o", bench, "./fleetbench"))
	document := t.TempDir() + "/scale.md"
	write(t, document, []byte("before\n<!-- make bench-fleet: begin -->\nold\n<!-- make bench-fleet: end -->\nafter\n"))
	h := newHost(t, "STRETCHER_BIN="+stretcherPath)
	cmd := h.command(bench, "-agents", "5", "-delay", "1s", "-bandwidth", "1MB", "-dir", t.TempDir(), "-update", document)
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes())
	}
	out := string(stdout)

	rows := map[string][]string{}
	for line := range strings.Lines(out) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); len(cells) == 9 {
			rows[strings.TrimSpace(cells[0])] = cells[1:]
		}
	}
	number := func(row string, column int) float64 {
		t.Helper()
		if len(rows[row]) == 0 {
			t.Fatalf("there is no row %q in\n%s", row, out)
		}
		all := regexp.MustCompile(`[0-9.]+`).FindAllString(rows[row][column], -1)
		n, err := strconv.ParseFloat(all[len(all)-1], 64)
		if err != nil {
			t.Fatalf("row %q, column %d: %v\n%s", row, column, err, out)
		}
		if strings.HasSuffix(strings.TrimSpace(rows[row][column]), "kB") {
			n /= 1000
		}
		return n
	}
	const ends, sent, failed, memory = 1, 2, 5, 6
	for row := range rows {
		if row == "run" || row == "---" {
			continue
		}
		if n := number(row, failed); n != 0 {
			t.Errorf("%s: %v agents failed", row, n)
		}
		if n := number(row, memory); n < 5 || n > 1000 {
			t.Errorf("%s: %v MiB", row, n)
		}
	}
	if n := number("whole, `-max-bandwidth 1MB`", ends); n < 1.5 { // 2.6 MB, less a burst
		t.Errorf("a limited bandwidth has not slowed the downloads down: %v s", n)
	}
	if whole, part := number("an upgrade, `-incremental=false`", sent), number("an upgrade", sent); part > whole/10 {
		t.Errorf("an upgrade has fetched %v MB of %v", part, whole)
	}
	wantFileHas(t, document, "before\n<!-- make bench-fleet: begin -->\n"+out+"<!-- make bench-fleet: end -->\nafter\n")
	if t.Failed() {
		t.Logf("%s\n%s", out, log.Bytes())
	}
}
