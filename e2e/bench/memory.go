package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// memory measures the peak memory of the agent itself, without the rsync that it
// starts, in one deployment of each kind.
func (b *bench) memory(ctx context.Context) error {
	t := b.table("", "", "", "", "peak", "goal", "")
	for _, d := range []struct {
		name string
		fill func(*packer) error
	}{
		{"1.5 GB", b.largeFiles},
		{"100,000 files", b.smallFiles(100_000)},
	} {
		path := filepath.Join(b.dir, "archive.tar")
		tree, err := pack(ctx, path, d.fill)
		if err != nil {
			return err
		}
		gzip, err := compress(ctx, path, ".gz", "gzip", "-1nc")
		if err != nil {
			return err
		}
		zstd, err := compress(ctx, path, ".zst", "zstd", "-qc")
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		b.say("%s: %s; gzip %s, zstd %s.", d.name, tree, megabytes(gzip.size), megabytes(zstd.size))
		for _, f := range []struct {
			name string
			archive
		}{{"gzip", gzip}, {"zstd", zstd}} {
			for _, strategy := range []string{"rsync", "builtin"} {
				if err := os.RemoveAll(b.dest()); err != nil {
					return err
				}
				for _, change := range []string{"fresh", "unchanged"} {
					peak, err := b.peak(ctx, f.archive, strategy)
					if err == nil {
						err = tree.verify(b.dest())
					}
					if err != nil {
						return fmt.Errorf("%s, %s, %s: %w", d.name, f.name, strategy, err)
					}
					b.memoryRow(t, peak, d.name, f.name, strategy, change)
				}
			}
		}
	}
	if err := b.memoryPacked(ctx, t); err != nil {
		return err
	}
	return t.print()
}

// memoryRow adds a row for a peak in MiB.
func (b *bench) memoryRow(t *table, peak float64, names ...string) {
	row := append(slices.Clone(names), make([]string, 4-len(names))...)
	row = append(row, fmt.Sprintf("%.1f MiB", peak))
	t.row(append(row, b.verdict(strings.Join(names, ", "), peak)[1:]...)...)
}

// memoryPacked measures the peak memory of stretcher pack and of deployments of what it
// packed. Of the older version, 1 % of the files and the large one have a further line.
func (b *bench) memoryPacked(ctx context.Context, t *table) error {
	const name = "1.5 GB"
	input, dir, before := filepath.Join(b.dir, "input.tar"), filepath.Join(b.dir, "tree"), filepath.Join(b.dir, "before")
	tree, err := pack(ctx, input, b.largeFiles)
	if err != nil {
		return err
	}
	if err := b.unpack(ctx, input, dir); err != nil {
		return err
	}
	if _, err := b.shell(ctx, `rm "$1"; cp -al "$2" "$3"`, input, dir, before); err != nil {
		return err
	}
	if err := errors.Join(edit(before, 0.01), editFile(filepath.Join(before, "large"))); err != nil {
		return err
	}
	out := filepath.Join(b.dir, "packed.tar.zst")
	args, err := b.packArguments(dir, out, before)
	if err != nil {
		return err
	}
	peak, err := b.peakOf(b.packCommand(ctx, args...))
	if err != nil {
		return err
	}
	b.memoryRow(t, peak, name, "pack -base")
	packed, err := packedArchive(out)
	if err != nil {
		return err
	}
	for _, change := range []string{"fresh", "unchanged", "1 % changed"} {
		prepare := `true`
		switch change {
		case "fresh":
			prepare = `rm -rf "$2"`
		case "1 % changed":
			prepare = `rm -rf "$2"; cp -al "$1" "$2"`
		}
		if _, err := b.shell(ctx, prepare, before, b.dest()); err != nil {
			return err
		}
		peak, err := b.peak(ctx, packed, "builtin")
		if err == nil {
			err = tree.packed().verify(b.dest())
		}
		if err != nil {
			return fmt.Errorf("packed, %s: %w", change, err)
		}
		b.memoryRow(t, peak, name, "packed", "builtin", change)
	}
	return nil
}

// largeFiles packs one file of 512 MiB and a thousand of 1 MiB, 1.6 GB in total.
func (b *bench) largeFiles(p *packer) error {
	content := text(0)
	if err := p.file("large", 0o644, someTime, int64(512<<20/b.scale), content); err != nil {
		return err
	}
	for i := range 1000 / b.scale {
		if err := p.file(fmt.Sprintf("f%04d", i), 0o644, someTime, 1<<20, content); err != nil {
			return err
		}
	}
	return nil
}

// peak deploys the archive and returns the agent's peak resident set in MiB.
//
// The kernel reports it as VmHWM, which disappears with the process. Therefore it
// is read repeatedly, and a peak in the last millisecond would be missed. The
// value that wait4(2) returns afterwards would be exact, but it includes the
// memory of rsync and of this program, from which the agent was forked.
func (b *bench) peak(ctx context.Context, a archive, strategy string) (mib float64, err error) {
	cmd, err := b.deployment(ctx, a, strategy)
	if err != nil {
		return 0, err
	}
	return b.peakOf(cmd)
}

// peakOf runs the command and returns its peak resident set in MiB.
func (b *bench) peakOf(cmd *exec.Cmd) (mib float64, err error) {
	_, err = b.timed(cmd, func(pid int, done <-chan struct{}) {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if kib, ok := highWater(pid); ok {
					mib = float64(kib) / 1024
				}
			}
		}
	})
	if err == nil && mib == 0 {
		err = errors.New("the memory of the agent could not be read")
	}
	return mib, err
}

// highWater reads VmHWM (see proc_pid_status(5)). A process that has exited, but
// has not been waited for, has none.
func highWater(pid int) (kib int, ok bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	_, value, ok := bytes.Cut(status, []byte("VmHWM:"))
	if !ok {
		return 0, false
	}
	_, err = fmt.Sscanf(string(value), "%d kB", &kib)
	return kib, err == nil
}
