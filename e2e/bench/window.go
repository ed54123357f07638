package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// window measures for how long dest is neither the old nor the new version while
// every file in it is replaced.
func (b *bench) window(ctx context.Context) error {
	path, tree, err := b.packGoTree(ctx)
	if err != nil {
		return err
	}
	archive, err := compress(ctx, path, ".zst", "zstd", "-qc")
	if err != nil {
		return err
	}
	b.say("The tree of the Go toolchain: %s.", tree)

	const tidy = ", with dest's own time"
	strategies := []string{"rsync", "builtin"}
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

	t := b.table("", "dest is mixed for", "ratio", "goal", "")
	for _, s := range []string{"rsync", "builtin", "rsync" + tidy, "builtin" + tidy} {
		t.row(append([]string{s, windows[s].String()}, b.verdict(s, windows[s].to(windows["rsync"]))...)...)
	}
	return t.print()
}

// changeWindow returns two durations since the first change of a file in dir: to
// the last change of anything below dir, and to the last change of dir itself.
// They only make sense if every file was changed. builtin sets the time of dir at
// the very end, when readers have long seen only new files, but the staging
// directory with the old files still had to be removed.
//
// The durations are computed from change times (ctime), which the kernel sets and
// programs cannot. Both strategies rename new files over the old ones, which sets
// the change time, and do not touch them afterwards. Unlike a watcher, this does
// not slow the program down. The resolution of the kernel's clock for change
// times is 1 to 10 ms.
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
