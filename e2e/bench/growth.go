package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// growth measures how the cost of a deployment grows with the number of small
// files. The time of deploying a single file, most of which is spent on starting
// programs, is subtracted, because it would hide growth.
//
// The deployment by hand has no target. It shows the influence of the machine:
// the files of the large trees no longer fit into the processor's caches.
func (b *bench) growth(ctx context.Context) error {
	targets := map[string]float64{"default": 1.2, "builtin": 1.2} // largest allowed growth of the time per file, from one number of files to any larger one
	counts := []int{1, 1_000, 10_000, 100_000}
	cases := []string{"fresh", "unchanged"}
	// Short deployments, of tens of milliseconds, vary more and are therefore
	// measured more often.
	inTurn := append(counts, 1, 1_000, 1, 1_000)

	archives := map[int]archive{}
	trees := map[int]tree{}
	for _, n := range counts {
		path := filepath.Join(b.dir, fmt.Sprintf("%d.tar", n))
		var err error
		if trees[n], err = pack(ctx, path, smallFiles(n)); err != nil {
			return err
		}
		if archives[n], err = compress(ctx, path, ".gz", "gzip", "-6nc"); err != nil {
			return err
		}
		if n > 1 {
			fmt.Printf("%s; gzip %s\n", trees[n], megabytes(archives[n].size))
		}
	}

	type measured struct {
		change, side string
		files        int
	}
	times := map[measured]samples{}
	for range b.runs {
		for _, n := range inTurn {
			for _, s := range b.sides() {
				if err := os.RemoveAll(b.dest()); err != nil {
					return err
				}
				for _, change := range cases {
					took, err := s.run(ctx, archives[n])
					if err == nil {
						err = trees[n].verify(b.dest())
					}
					if err != nil {
						return fmt.Errorf("%d files, %s, %s: %w", n, change, s.name, err)
					}
					m := measured{change, s.name, n}
					times[m] = append(times[m], took)
				}
			}
		}
	}

	fmt.Print("Time per file, after subtracting that of a single file; growth is the largest from one column to a later one.\n\n")
	t := newTable("", "", "1 file", "1,000", "10,000", "100,000", "growth", "target", "")
	for _, change := range cases {
		for _, s := range b.sides() {
			single := times[measured{change, s.name, 1}].median()
			row := []string{change, s.name, fmt.Sprintf("%.0f ms", single.Seconds()*1e3)}
			least, growth := 0.0, 0.0
			for _, n := range counts[1:] {
				perFile := (times[measured{change, s.name, n}].median() - single).Seconds() * 1e6 / float64(n)
				row = append(row, fmt.Sprintf("%.1f µs", perFile))
				if least == 0 {
					least = perFile
				}
				growth = max(growth, perFile/least)
				least = min(least, perFile)
			}
			t.row(append(row, b.verdict(growth, targets[s.name])...)...)
		}
	}
	return t.print()
}
