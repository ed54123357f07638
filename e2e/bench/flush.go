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

// flush measures what flushing to disk costs on an ext4, which is an image in the
// directory for temporary files, and not on a tmpfs. The kernel writes there what it
// would have written later anyway, so that is the longest that flushing can take on
// an otherwise idle disk.
func (b *bench) flush(ctx context.Context) (err error) {
	if problem := canMount("strace", "mkfs.ext4"); problem != nil {
		b.say("Not measured: %v.", problem)
		return nil
	}
	b.disk = filepath.Join(b.dir, "disk")
	defer func() { b.disk = "" }()
	unmount, err := mountNew(ctx, b.disk, 1<<30, "mkfs.ext4", "-q")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	const files = 10_000
	path := filepath.Join(b.dir, "files.tar")
	tree, err := pack(ctx, path, b.smallFiles(files))
	if err != nil {
		return err
	}
	packed, err := newArchive(path)
	if err != nil {
		return err
	}
	b.say("%s, on ext4, in an image in %s (%s).", tree, os.TempDir(), filesystem(os.TempDir()))
	t := b.table("", "", "time", "of which flushing", "share")
	for _, c := range []struct {
		name, strategy string
		prepare        func() error
	}{
		{"fresh", "builtin", b.newDest},
		{"unchanged", "builtin", func() error { return nil }},
		{"1 % changed", "builtin", func() error { return spoil(b.dest(), 100) }},
		{"fresh", "symlink", b.removeReleases},
	} {
		var whole, flushing samples
		for range b.runs {
			if err := c.prepare(); err != nil {
				return err
			}
			syscall.Sync() // so that only what is deployed is flushed
			took, flushed, err := b.traced(ctx, packed, c.strategy)
			if err == nil {
				err = b.verifyDest(tree)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, c.strategy, err)
			}
			whole, flushing = append(whole, took), append(flushing, flushed)
		}
		t.row(c.name, c.strategy, whole.String(), flushing.String(), fmt.Sprintf("%.0f %%", 100*flushing.to(whole)))
	}
	return t.print()
}

// canMount returns an error if disks cannot be mounted or a program is missing.
func canMount(programs ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount a disk")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// mountNew makes the directory dir and mounts a new file system of size bytes on it,
// which is in an image in the directory for temporary files.
func mountNew(ctx context.Context, dir string, size int64, mkfs string, args ...string) (unmount func() error, err error) {
	image, err := os.CreateTemp("", "stretcher-bench-*.img")
	if err != nil {
		return nil, err
	}
	defer os.Remove(image.Name()) // the mount keeps it
	defer image.Close()
	if err := errors.Join(image.Truncate(size), os.Mkdir(dir, 0o755)); err != nil {
		return nil, err
	}
	for _, cmd := range []*exec.Cmd{command(ctx, mkfs, append(args, image.Name())...), command(ctx, "mount", "-o", "loop", image.Name(), dir)} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
	}
	return func() error { return syscall.Unmount(dir, 0) }, nil
}

// newDest makes dest an empty directory.
func (b *bench) newDest() error {
	return errors.Join(b.removeReleases(), os.Mkdir(b.dest(), 0o755))
}

var flushTime = regexp.MustCompile(`sync.* = 0 <([0-9.]+)>`)

// traced deploys the archive, and returns how long that took, and how long syncfs(2)
// and fsync(2), which strace times; other calls do not stop for strace.
func (b *bench) traced(ctx context.Context, a archive, strategy string) (took, flushing time.Duration, err error) {
	cmd, err := b.deployment(ctx, a, strategy)
	if err != nil {
		return 0, 0, err
	}
	trace := filepath.Join(b.dir, "trace")
	traced := command(ctx, "strace", "-f", "--seccomp-bpf", "-qq", "-T", "-e", "trace=syncfs,fsync", "-e", "signal=none", "-o", trace, b.agent)
	traced.Stdin, traced.Env = cmd.Stdin, cmd.Env
	if took, err = b.timed(traced, nil); err != nil {
		return 0, 0, err
	}
	lines, err := os.ReadFile(trace)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range flushTime.FindAllSubmatch(lines, -1) {
		seconds, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, 0, err
		}
		flushing += time.Duration(seconds * float64(time.Second))
	}
	return took, flushing, nil
}
