package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// growth measures how the cost of a deployment grows with the number of small
// files. The time of deploying a single file, most of which is spent on starting
// programs, is subtracted, because it would hide growth.
//
// The deployment by hand has no goal. It shows the influence of the machine:
// the files of the large trees no longer fit into the processor's caches.
func (b *bench) growth(ctx context.Context) error {
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
		if trees[n], err = pack(ctx, path, b.smallFiles(n)); err != nil {
			return err
		}
		if archives[n], err = compress(ctx, path, ".gz", "gzip", "-6nc"); err != nil {
			return err
		}
		if n > 1 {
			b.say("%s; gzip %s.", trees[n], megabytes(archives[n].size))
		}
	}

	type measured struct {
		change, side string
		files        int
	}
	times, cpus := map[measured]samples{}, map[measured]samples{}
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
					times[m], cpus[m] = append(times[m], took), append(cpus[m], b.cpu)
				}
			}
		}
	}

	b.say("Time per file, after subtracting that of a single file; growth is the largest from one column to a later one.")
	t := b.table("", "", "1 file", "1,000", "10,000", "100,000", "growth", "goal", "")
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
			t.row(append(row, b.verdict(change+", "+s.name, growth)...)...)
		}
	}
	if err := t.print(); err != nil {
		return err
	}
	for m, samples := range times {
		b.point(samples.median().Seconds(), "time", m.change, m.side, fmt.Sprint(m.files))
		b.point(cpus[m].median().Seconds(), "CPU", m.change, m.side, fmt.Sprint(m.files))
	}
	return b.growthOfMemory(ctx, counts[1:], archives, trees)
}

// growthOfMemory measures the peak memory of the agent alone, in one deployment of
// each kind.
func (b *bench) growthOfMemory(ctx context.Context, counts []int, archives map[int]archive, trees map[int]tree) error {
	b.say("Peak memory of the agent, without the rsync that it starts.")
	t := b.table("", "", "1,000", "10,000", "100,000")
	rows := map[[2]string][]string{}
	for _, strategy := range []string{"default", "builtin"} {
		for _, n := range counts {
			if err := os.RemoveAll(b.dest()); err != nil {
				return err
			}
			for _, change := range []string{"fresh", "unchanged"} {
				peak, err := b.peak(ctx, archives[n], strings.TrimPrefix(strategy, "default"))
				if err == nil {
					err = trees[n].verify(b.dest())
				}
				if err != nil {
					return fmt.Errorf("%d files, %s, %s: %w", n, change, strategy, err)
				}
				b.point(peak, "memory", change, strategy, fmt.Sprint(n))
				key := [2]string{change, strategy}
				rows[key] = append(rows[key], fmt.Sprintf("%.1f MiB", peak))
			}
		}
	}
	for _, change := range []string{"fresh", "unchanged"} {
		for _, strategy := range []string{"default", "builtin"} {
			t.row(append([]string{change, strategy}, rows[[2]string{change, strategy}]...)...)
		}
	}
	return t.print()
}
