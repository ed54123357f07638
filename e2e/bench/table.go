package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// samples are the measured times of one command.
type samples []time.Duration

func (s samples) median() time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// to returns the ratio of the median of s to that of the other samples.
func (s samples) to(base samples) float64 {
	return float64(s.median()) / float64(base.median())
}

func (s samples) String() string {
	return fmt.Sprintf("%.3f s (%.3f-%.3f)", s.median().Seconds(), slices.Min(s).Seconds(), slices.Max(s).Seconds())
}

// table prints rows of cells in columns. The first row contains the titles.
type table struct{ w *tabwriter.Writer }

func newTable(titles ...string) table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)}
	t.row(titles...)
	return t
}

func (t table) row(cells ...string) {
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t table) print() error { return t.w.Flush() }

// verdict returns three cells: the ratio, the target, which is its maximum, and
// whether the target is met. A target of 0 means that there is none.
func (b *bench) verdict(ratio, target float64) []string {
	cells := []string{fmt.Sprintf("%.2f", ratio), "", ""}
	if target == 0 {
		return cells
	}
	cells[1], cells[2] = fmt.Sprintf("%.2f", target), "ok"
	if ratio > target {
		cells[2] = "MISS"
		b.missed++
	}
	return cells
}
