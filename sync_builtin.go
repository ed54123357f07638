//go:build linux

package stretcher

import (
	"context"
	"iter"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/treesync"
)

// builtinStrategy has the result of rsync -a --delete without running rsync,
// but compares the contents of files and not their times.
type builtinStrategy struct{ *Manifest }

// Sync makes the directory to a copy of the directory from, with the excludes of the
// manifest.
func (s *builtinStrategy) Sync(from, to string) error {
	options, done := s.options()
	defer done()
	return treesync.SyncDir(context.Background(), from, to, options)
}

func (s *builtinStrategy) name() string { return "builtin" }

func (s *builtinStrategy) prepare(string) error { return nil }

func (s *builtinStrategy) problem(dest string) (certain bool, err error) {
	return destcheck.DirectoryProblem(dest)
}

func (s *builtinStrategy) fillsHoles() bool { return false }

func (s *builtinStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	options, done := s.options()
	defer done()
	return treesync.Sync(ctx, src, d.manifest.Dest, options)
}

func (s *builtinStrategy) preview(ctx context.Context, d *deployment, src *archive.Archive) (iter.Seq[preview.Item], error) {
	return treesync.Preview(ctx, src, d.presentDest(), s.treeOptions())
}

// options returns what the manifest and RsyncVerboseOpt say, and a function to
// be called after the sync.
func (s *builtinStrategy) options() (o treesync.Options, done func()) {
	o = s.treeOptions()
	if RsyncVerboseOpt == "" {
		return o, func() {}
	}
	list := capture.Lines()
	o.List = list
	return o, func() { list.Close() }
}

// treeOptions returns what the manifest says about the tree that is put on disk.
func (m *Manifest) treeOptions() treesync.Options {
	return treesync.Options{Mode: m.destMode(), Excludes: m.Excludes, ExcludeFrom: m.ExcludeFrom}
}
