package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// window measures for how long dest is neither the old version nor the new one
// while every file of it is replaced.
func (b *bench) window(ctx context.Context) error {
	fill, err := goTree(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "go.tar")
	tree, err := pack(ctx, path, fill)
	if err != nil {
		return err
	}
	archive, err := compress(ctx, path, ".zst", "zstd", "-qc")
	if err != nil {
		return err
	}
	fmt.Printf("the tree of Go: %s\n\n", tree)

	const tidy = ", with dest's own time"
	strategies := []string{"rsync", "builtin"}
	targets := map[string]float64{"builtin": 0.1}
	windows := map[string]samples{}
	if _, err := b.byAgent(ctx, archive, "rsync"); err != nil {
		return err
	}
	for range b.runs {
		for _, strategy := range strategies {
			if err := spoil(b.dest(), 1); err != nil {
				return err
			}
			_, err := b.byAgent(ctx, archive, strategy)
			if err == nil {
				err = tree.verify(b.dest())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", strategy, err)
			}
			mixed, tidied, err := changeWindow(b.dest())
			if err != nil {
				return err
			}
			windows[strategy] = append(windows[strategy], mixed)
			windows[strategy+tidy] = append(windows[strategy+tidy], tidied)
		}
	}

	t := newTable("", "dest is mixed for", "ratio", "target", "")
	for _, s := range []string{"rsync", "builtin", "rsync" + tidy, "builtin" + tidy} {
		t.row(append([]string{s, windows[s].String()}, b.verdict(windows[s].to(windows["rsync"]), targets[s])...)...)
	}
	return t.print()
}

// changeWindow returns the time between the first change of a file in dir and
// the last change of anything below dir, when each file was changed; and then
// that to the last change of dir itself. builtin sets dir's time in the end,
// when all that a reader can see has long been new, and just the staging
// directory with the old files had still to be removed.
//
// The change times tell it, which the kernel sets and no program can: both
// strategies rename new files to the place of the old ones, which sets it, and
// touch none afterwards. They cost the program nothing, as a watcher would. The
// kernel's clock for them ticks every 1 to 10 ms.
func changeWindow(dir string) (below, all time.Duration, err error) {
	var first, last, own time.Time
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		changed := time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix())
		if d.Type().IsRegular() && (first.IsZero() || changed.Before(first)) {
			first = changed
		}
		if path == dir {
			own = changed
		} else if changed.After(last) {
			last = changed
		}
		return nil
	})
	return last.Sub(first), max(last.Sub(first), own.Sub(first)), err
}
