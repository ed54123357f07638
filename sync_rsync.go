//go:build linux

package stretcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/rsync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// RsyncStrategy syncs by rsync(1), with the excludes of the manifest.
type RsyncStrategy struct {
	*Manifest
}

// Sync runs rsync -a --delete from/ to/. It fails where rsync does, and where
// exclude_from is not a file in from.
func (s *RsyncStrategy) Sync(from, to string) error {
	return s.sync(context.Background(), &runner{}, from, to)
}

func (s *RsyncStrategy) name() string { return "rsync" }

// prepare makes sure that rsync can be started with all excludes, and that the
// staging directory, which is in TMPDIR, will not be inside of dest: rsync would
// delete it, and then all other files.
func (s *RsyncStrategy) prepare(dest string) error {
	args := []string{"rsync", strings.Repeat("x", 4*unix.PathMax)} // more than the other arguments have
	for _, pattern := range s.Excludes {
		args = append(args, "--exclude="+pattern)
	}
	long := strings.Repeat("x", maxVariable)
	env := s.environment(&event{manifestURL: long, id: long})
	if err := proc.CheckSize(args, env, "put the excludes in a file in the archive, and name it as exclude_from"); err != nil {
		return fmt.Errorf("excludes: %w", err)
	}
	dir := os.TempDir()
	realDir, err := unixfs.RealPath(dir)
	if err != nil {
		return err
	}
	realDest, err := unixfs.RealPath(dest)
	if err != nil {
		return err
	}
	if realDir == realDest || strings.HasPrefix(realDir, realDest+"/") {
		return fmt.Errorf("the directory for temporary files, %s, is inside of dest: set TMPDIR to another one", dir)
	}
	return nil
}

func (s *RsyncStrategy) problem(dest string) (certain bool, err error) {
	return destcheck.DirectoryProblem(dest)
}

// fillsHoles is true because rsync -a writes holes out.
func (s *RsyncStrategy) fillsHoles() bool { return true }

// deploy extracts the archive to TMPDIR and syncs it to dest from there.
func (s *RsyncStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	unixfs.SweepTempDirs(d.manifest.Dest, unixfs.TempPrefix) // excludes may protect them from rsync
	return d.extractTo(ctx, os.TempDir(), unixfs.TempPrefix, src, func(from string) error {
		return s.sync(ctx, d.commands.unlimited(), from, d.manifest.Dest)
	})
}

// preview has rsync compare the extracted archive with dest.
func (s *RsyncStrategy) preview(ctx context.Context, d *deployment, src *archive.Archive) (items iter.Seq[preview.Item], err error) {
	err = d.extractTo(ctx, os.TempDir(), unixfs.TempPrefix, src, func(from string) error {
		to := d.presentDest()
		if to == "" {
			to = filepath.Join(filepath.Dir(from), "missing")
		}
		output, err := s.run(ctx, d.commands.unlimited(), from, to, rsync.DryRun...)
		if output == nil {
			return err
		}
		changes := output.Changes(from, to)
		items = slices.Values(changes)
		return cmp.Or(err, s.forbidden(d.presentDest(), changes))
	})
	return items, err
}

// forbidden returns why rsync, which tries nothing in a dry run, could not make the
// changes in dest, which is "" if there is none. A dest that this user may not write to
// matters only for what is directly in it: the directories below may be the user's own.
func (s *RsyncStrategy) forbidden(dest string, changes []preview.Item) error {
	if dest == "" {
		return nil
	}
	readOnly := errors.Is(unix.Access(dest, unix.W_OK), unix.EROFS)
	if !slices.ContainsFunc(changes, func(i preview.Item) bool { return readOnly || !strings.Contains(i.Path, "/") }) {
		return nil
	}
	_, err := s.problem(dest)
	return err
}

func (s *RsyncStrategy) sync(ctx context.Context, r *runner, from, to string) error {
	start := time.Now()
	output, err := s.run(ctx, r, from, to)
	if err != nil {
		return err
	}
	if stats, ok := output.Stats(); ok {
		log.Printf("Synced to %s: %s, within %s", to, stats, time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// run runs rsync, with further options before its other arguments, and returns what
// it has printed, nil if it was not started.
func (s *RsyncStrategy) run(ctx context.Context, r *runner, from, to string, options ...string) (*rsync.Output, error) {
	args, err := s.arguments(from, to)
	if err != nil {
		return nil, err
	}
	args = slices.Insert(args, len(RsyncDefaultOpts), options...)
	name := CommandLine("rsync " + strings.Join(args, " ")).label()
	log.Println("invoking command:", name)
	stdout, stderr := capture.Output(name)
	return rsync.Run(ctx, name, args, slices.ContainsFunc(RsyncDefaultOpts, asksForStats), r.Options, stdout, stderr)
}

// arguments returns those of rsync. What --stats adds to its output is not logged
// as it is, but summed up in one line.
func (s *RsyncStrategy) arguments(from, to string) ([]string, error) {
	args := slices.Clone(RsyncDefaultOpts)
	if RsyncVerboseOpt != "" {
		args = append(args, RsyncVerboseOpt)
	}
	if s.ExcludeFrom != "" {
		file, err := rsync.ExcludeFile(from, s.ExcludeFrom)
		if err != nil {
			return nil, err
		}
		args = append(args, "--exclude-from="+file)
	}
	for _, pattern := range s.Excludes {
		args = append(args, "--exclude="+pattern)
	}
	return append(args, "--stats", unixfs.CleanPath(from)+"/", unixfs.CleanPath(to)+"/"), nil
}

// asksForStats reports whether an option makes rsync print statistics, which are
// to be logged then.
func asksForStats(option string) bool { return strings.Contains(option, "stats") }
