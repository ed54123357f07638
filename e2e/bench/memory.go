package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// memory measures the peak memory of the agent itself, without the rsync that it
// starts, in one deployment of each kind.
func (b *bench) memory(ctx context.Context) error {
	t := newTable("", "", "", "", "peak", "target", "")
	for _, d := range []struct {
		name   string
		target float64 // MiB
		fill   func(*packer) error
	}{
		{"1.5 GB", 96, largeFiles},
		{"100,000 files", 0, smallFiles(100_000)},
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
		fmt.Printf("%s: %s; gzip %s, zstd %s\n", d.name, tree, megabytes(gzip.size), megabytes(zstd.size))
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
					row := []string{d.name, f.name, strategy, change, fmt.Sprintf("%.1f MiB", peak)}
					if d.target != 0 {
						row = append(row, b.verdict(peak, d.target)[1:]...)
					}
					t.row(row...)
				}
			}
		}
	}
	fmt.Println()
	return t.print()
}

// largeFiles packs one file of 512 MiB and a thousand of 1 MiB, 1.6 GB in total.
func largeFiles(p *packer) error {
	content := text(0)
	if err := p.file("large", 0o644, someTime, 512<<20, content); err != nil {
		return err
	}
	for i := range 1000 {
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
