package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// summary collects what ran. Its phases may run at the same time.
type summary struct {
	mu     sync.Mutex
	w      io.Writer // what happens, and at the end the summary
	phases []*phase
}

// phase is one row of the summary.
type phase struct {
	s    *summary
	name string
	took time.Duration
	err  error // of the phase itself, which then counts as failed

	passed, failed, skipped int
	reasons                 map[string]int // of skipped tests: how many there are of each
	tests                   []timed
	fuzzed                  []fuzzed
}

// timed is a test and how long it took.
type timed struct {
	name string
	took time.Duration
}

// fuzzed is a fuzz target and how many inputs it tried.
type fuzzed struct {
	name       string
	executions int
}

// phase runs do as a phase and returns whether it succeeded.
func (s *summary) phase(name string, do func(p *phase) error) bool {
	p := &phase{s: s, name: name, reasons: map[string]int{}}
	s.mu.Lock()
	s.phases = append(s.phases, p)
	s.mu.Unlock()
	s.printf("=== %s\n", name)
	start := time.Now()
	err := do(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.took, p.err = time.Since(start), err
	if err != nil {
		if p.failed == 0 {
			p.failed = 1
		}
		fmt.Fprintf(s.w, "%s: %v\n", name, err)
	}
	return err == nil && p.failed == 0
}

func (s *summary) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, format, args...)
}

// maxSlowest is how many of the slowest tests are printed.
const maxSlowest = 12

// print prints the summary of what took the time total.
func (s *summary) print(total time.Duration) {
	fmt.Fprintf(s.w, "\nwhat ran:\n")
	var passed, failed, skipped int
	reasons := map[string]int{}
	var tests []timed
	var targets []fuzzed
	table := tabwriter.NewWriter(s.w, 0, 0, 2, ' ', 0)
	for _, p := range s.phases {
		result := fmt.Sprintf("%d passed, %d failed, %d skipped", p.passed, p.failed, p.skipped)
		if p.passed+p.failed+p.skipped == 0 {
			result = "passed"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", p.name, result, p.took.Round(time.Second))
		passed, failed, skipped = passed+p.passed, failed+p.failed, skipped+p.skipped
		for reason, n := range p.reasons {
			reasons[reason] += n
		}
		tests, targets = append(tests, p.tests...), append(targets, p.fuzzed...)
	}
	table.Flush()
	s.printSkipped(reasons)
	s.printSlowest(tests)
	s.printFuzzed(targets)
	fmt.Fprintf(s.w, "\ntotal time %s\n", total.Round(time.Second))
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
}

func (s *summary) printSkipped(reasons map[string]int) {
	if len(reasons) == 0 {
		return
	}
	fmt.Fprintf(s.w, "\nskipped:\n")
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		if n := reasons[reason]; n > 1 {
			reason += fmt.Sprintf(" (%d times)", n)
		}
		fmt.Fprintf(s.w, "  %s\n", reason)
	}
}

func (s *summary) printSlowest(tests []timed) {
	if len(tests) == 0 {
		return
	}
	slices.SortFunc(tests, func(a, b timed) int {
		return cmp.Or(cmp.Compare(b.took, a.took), strings.Compare(a.name, b.name))
	})
	fmt.Fprintf(s.w, "\nslowest tests:\n")
	for _, t := range tests[:min(maxSlowest, len(tests))] {
		fmt.Fprintf(s.w, "  %6.1fs  %s\n", t.took.Seconds(), t.name)
	}
}

func (s *summary) printFuzzed(targets []fuzzed) {
	if len(targets) == 0 {
		return
	}
	slices.SortFunc(targets, func(a, b fuzzed) int { return strings.Compare(a.name, b.name) })
	fmt.Fprintf(s.w, "\nfuzz targets, and how many inputs they tried:\n")
	total := 0
	for _, t := range targets {
		fmt.Fprintf(s.w, "  %10d  %s\n", t.executions, t.name)
		total += t.executions
	}
	fmt.Fprintf(s.w, "  %10d  in all, by %d targets\n", total, len(targets))
}

// ok returns whether something has run and nothing has failed.
func (s *summary) ok() bool {
	for _, p := range s.phases {
		if p.failed > 0 {
			return false
		}
	}
	return len(s.phases) > 0
}
