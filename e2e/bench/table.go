package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fujiwara/stretcher/e2e/bench/report"
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

// say prints a paragraph, which becomes one of the page.
func (b *bench) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Print(text, "\n\n")
	b.part.Blocks = append(b.part.Blocks, report.Block{Text: text})
}

// table prints rows of cells in columns.
type table struct {
	bench *bench
	rows  [][]string // the first one has the titles
}

func (b *bench) table(titles ...string) *table { return &table{b, [][]string{titles}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print prints the table, which becomes one of the page.
func (t *table) print() error {
	t.bench.part.Blocks = append(t.bench.part.Blocks, report.Block{Table: t.rows})
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// verdict returns three cells: the value, the goal for this case of the running part,
// and whether it is met. The last two are empty if there is no goal.
func (b *bench) verdict(name string, value float64) []string {
	cells := []string{fmt.Sprintf("%.2f", value), "", ""}
	goal, ok := report.FindGoal(b.part.Name, name)
	if !ok {
		return cells
	}
	b.part.Results[name] = value
	cells[1], cells[2] = fmt.Sprint(goal.Limit), "met"
	if !goal.Met(value) {
		cells[2] = "missed"
	}
	return cells
}

// point keeps a figure for the plots.
func (b *bench) point(value float64, name ...string) {
	b.part.Points[strings.Join(name, ", ")] = value
}
