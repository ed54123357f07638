package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// flush measures what flushing to disk costs builtin on an ext4, which is an image
// in the directory for temporary files, and not on a tmpfs. The kernel writes there
// what it would have written later anyway, so that is the longest that flushing
// can take on an otherwise idle disk.
func (b *bench) flush(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		fmt.Println("not measured: only root can mount a disk")
		return nil
	}
	for _, program := range []string{"strace", "mkfs.ext4"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Println("not measured:", err)
			return nil
		}
	}
	unmount, err := b.mountDest(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	const files = 10_000
	path := filepath.Join(b.dir, "files.tar")
	tree, err := pack(ctx, path, smallFiles(files))
	if err != nil {
		return err
	}
	packed, err := newArchive(path)
	if err != nil {
		return err
	}
	fmt.Printf("%s, on ext4, in an image in %s (%s)\n\n", tree, os.TempDir(), filesystem(os.TempDir()))
	t := newTable("", "", "time", "of which flushing", "share")
	for _, c := range []struct {
		name    string
		prepare func() error
	}{
		{"fresh", b.emptyDest},
		{"unchanged", func() error { return nil }},
		{"1 % changed", func() error { return spoil(b.dest(), 100) }},
	} {
		var whole, flushing samples
		for range b.runs {
			if err := c.prepare(); err != nil {
				return err
			}
			syscall.Sync() // so that only what is deployed is flushed
			took, flushed, err := b.traced(ctx, packed)
			if err == nil {
				err = tree.verify(b.dest())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			whole, flushing = append(whole, took), append(flushing, flushed)
		}
		t.row(c.name, "builtin", whole.String(), flushing.String(), fmt.Sprintf("%.0f %%", 100*flushing.to(whole)))
	}
	return t.print()
}

// mountDest mounts a new ext4 as dest.
func (b *bench) mountDest(ctx context.Context) (unmount func() error, err error) {
	image, err := os.CreateTemp("", "stretcher-bench-*.img")
	if err != nil {
		return nil, err
	}
	defer os.Remove(image.Name()) // the mount keeps it
	defer image.Close()
	if err := errors.Join(image.Truncate(1<<30), os.Mkdir(b.dest(), 0o755)); err != nil {
		return nil, err
	}
	for _, cmd := range []*exec.Cmd{command(ctx, "mkfs.ext4", "-q", image.Name()), command(ctx, "mount", "-o", "loop", image.Name(), b.dest())} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
	}
	return func() error { return syscall.Unmount(b.dest(), 0) }, nil
}

// emptyDest removes what is in dest, which is a mount point.
func (b *bench) emptyDest() error {
	entries, err := os.ReadDir(b.dest())
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.dest(), e.Name())))
	}
	return err
}

var syncfsTime = regexp.MustCompile(`syncfs.* = 0 <([0-9.]+)>`)

// traced deploys the archive with builtin, and returns how long that took, and how
// long syncfs(2), which strace times; other calls do not stop for strace.
func (b *bench) traced(ctx context.Context, a archive) (took, flushing time.Duration, err error) {
	cmd, err := b.deployment(ctx, a, "builtin")
	if err != nil {
		return 0, 0, err
	}
	trace := filepath.Join(b.dir, "trace")
	traced := command(ctx, "strace", "-f", "--seccomp-bpf", "-qq", "-T", "-e", "trace=syncfs", "-e", "signal=none", "-o", trace, b.agent)
	traced.Stdin, traced.Env = cmd.Stdin, cmd.Env
	if took, err = b.timed(traced, nil); err != nil {
		return 0, 0, err
	}
	lines, err := os.ReadFile(trace)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range syncfsTime.FindAllSubmatch(lines, -1) {
		seconds, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, 0, err
		}
		flushing += time.Duration(seconds * float64(time.Second))
	}
	return took, flushing, nil
}
