//go:build linux

package stretcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/incremental"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/releases"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// SyncStrategy is a way to make one directory, to, equal to another one, from. See
// NewSyncStrategy.
type SyncStrategy interface {
	Sync(from, to string) error
}

// strategy is one way to put the files of an archive in dest. An archive is nil if a
// keeper has what it would bring.
type strategy interface {
	SyncStrategy
	name() string // as in sync_strategy
	// prepare checks, before the download, what the strategy needs. dest is
	// locked by then.
	prepare(dest string) error
	// problem returns what keeps deploy from dest as it is now, which a pre
	// command may change, and whether deploy will certainly fail because of it.
	problem(dest string) (certain bool, err error)
	// checkArchive reports, before any command is run, what in the archive would
	// keep deploy from succeeding.
	checkArchive(src *archive.Archive) error
	// fillsHoles reports whether sparse files take their whole size in dest.
	fillsHoles() bool
	// deploy makes dest equal to the archive.
	deploy(ctx context.Context, d *deployment, src *archive.Archive) error
	// preview returns what deploy would create, change and delete, and changes
	// nothing. After an error, that is what could be found out.
	preview(ctx context.Context, d *deployment, src *archive.Archive) (iter.Seq[preview.Item], error)
}

// keeper is a strategy that keeps what it deployed.
type keeper interface {
	// has reports whether all that the archive would bring is there already, so
	// that deploy needs no archive.
	has(d *deployment) (bool, error)
	// conclude is called at the end, with the error of deploy or of what came
	// after it. After an error, it makes dest what it was.
	conclude(err error)
}

// NewSyncStrategy returns the strategy that m.SyncStrategy names: rsync, mv,
// builtin or symlink. "" is rsync, or builtin with a warning where PATH has no
// rsync. Any other name is an error, and so is rsync where PATH has none.
func NewSyncStrategy(m *Manifest) (SyncStrategy, error) {
	return newStrategy(m)
}

func newStrategy(m *Manifest) (strategy, error) {
	switch m.SyncStrategy {
	case "", "rsync":
		if _, err := exec.LookPath("rsync"); err == nil {
			return &RsyncStrategy{m}, nil
		}
		if m.SyncStrategy == "rsync" {
			return nil, errors.New("sync_strategy is rsync, but no rsync is in PATH: install it, or write sync_strategy: builtin")
		}
		log.Println("[WARN] no rsync in PATH: using sync_strategy builtin")
		return &builtinStrategy{m}, nil
	case "mv":
		return &MvSyncStrategy{}, nil
	case "builtin":
		return &builtinStrategy{m}, nil
	case "symlink":
		return &symlinkStrategy{Manifest: m}, nil
	}
	return nil, checkStrategy(m.SyncStrategy)
}

// prepare checks what the strategy needs, and removes what killed runs left in
// any of the places where a strategy stages: the killed run may have had
// another strategy than this one. What is in dest itself stays until the files
// are synced, since an archive may have brought such a name there.
func (d *deployment) prepare(s strategy) error {
	dest := d.manifest.Dest
	if err := s.prepare(dest); err != nil {
		return err
	}
	if !d.conf.DryRun {
		unixfs.SweepTempDirs(os.TempDir(), unixfs.TempPrefix)
		unixfs.SweepTempDirs(unixfs.TempBeside(dest))
	}
	certain, err := s.problem(dest)
	pre := d.manifest.Commands.Pre.given()
	// A command that only stops a service must not run if the deployment is to fail.
	mayMend := slices.ContainsFunc(pre, func(c CommandLine) bool {
		return !errors.Is(err, errDestExists) || destcheck.MayMove(string(c), d.commands.Env, dest)
	})
	switch {
	case err == nil:
	case !certain:
		log.Printf("[WARN] %v: the deployment may fail", err)
	case mayMend:
		log.Printf("[WARN] %v: the deployment will fail unless a pre command changes that", err)
		d.absent = d.conf.DryRun
	case len(pre) > 0:
		return fmt.Errorf("%w: no pre command moves it away, as by mv $STRETCHER_DEST", err)
	default:
		return err
	}
	return nil
}

// source returns the archive, nil if the strategy needs none.
func (d *deployment) source(ctx context.Context, s strategy) (*archive.Archive, error) {
	if k, ok := s.(keeper); ok {
		if has, err := k.has(d); has || err != nil {
			return nil, err
		}
	}
	src, err := d.getSrc(ctx, s)
	if err != nil {
		return nil, err
	}
	// If dest has changed already, orWhole will use the whole archive.
	if err := s.checkArchive(src); err != nil && !errors.Is(err, incremental.ErrChanged) {
		unixfs.Warn("free the archive", src.Close())
		return nil, err
	}
	return src, nil
}

// checkArchive is that of the strategies with excludes.
func (m *Manifest) checkArchive(src *archive.Archive) error {
	return treesync.CheckExcludes(src, treesync.Options{Excludes: m.Excludes, ExcludeFrom: m.ExcludeFrom})
}

// conclude ends a deployment by a strategy, which failed if err is not nil.
func conclude(s strategy, err error) error {
	if k, ok := s.(keeper); ok {
		k.conclude(err)
	}
	return err
}

// sync makes dest equal to the archive by the strategy. Without a strategy, there is
// nothing to sync.
func (d *deployment) sync(ctx context.Context, s strategy, src *archive.Archive) error {
	if s == nil {
		return nil
	}
	d.warnRootMode(src)
	log.Printf("Syncing to %s", d.manifest.Dest)
	if _, ok := s.(keeper); !ok {
		if err := releases.Forget(d.manifest.Dest); err != nil {
			return err
		}
	}
	err := d.orWhole(ctx, s, src, func(src *archive.Archive) error { return s.deploy(ctx, d, src) })
	if err != nil || d.conf.StateDir == "" {
		return err
	}
	// What the state directory says to be deployed has to survive a power cut. The
	// strategy may not have flushed at all, or not what a killed run before it wrote.
	return progress.Flush(ctx, d.manifest.Dest)
}

// orWhole calls do with an archive, and if what dest has of it has changed, again with
// the whole archive. That is not too late, since nothing has been put in place.
func (d *deployment) orWhole(ctx context.Context, s strategy, src *archive.Archive, do func(*archive.Archive) error) error {
	err := do(src)
	if !errors.Is(err, incremental.ErrChanged) {
		return err
	}
	log.Printf("[WARN] %v: downloading the whole archive", redact.Printable(err.Error()))
	d.conf.Whole = true
	unixfs.Warn("free the archive", src.Close()) // the whole one may need its space
	whole, err := d.getSrc(ctx, s)
	if err != nil {
		return err
	}
	defer func() { unixfs.Warn("free the archive", whole.Close()) }()
	return do(whole)
}

// warnRootMode warns of a dest_mode that is not applied.
func (d *deployment) warnRootMode(src *archive.Archive) {
	m := d.manifest
	if mode, ok := src.RootMode(); ok && m.hasDestMode() && uint32(*m.DestMode) != mode {
		log.Printf("[WARN] dest_mode %04o is not applied: the archive's entry ./ has the mode %04o", *m.DestMode, mode)
	}
}

// extractTo extracts the archive to a directory in a new temporary directory, whose
// name begins with prefix, in parent, and calls then with its absolute path: rsync
// takes a relative one with a colon in it for a host. The temporary directory is removed
// afterwards.
func (d *deployment) extractTo(ctx context.Context, parent, prefix string, src *archive.Archive, then func(from string) error) error {
	staging, err := unixfs.NewTempDir(parent, prefix)
	if err != nil {
		return err
	}
	defer func() { unixfs.Warn("remove the staging directory", staging.Remove()) }()
	from := filepath.Join(staging.Path, "root")
	if err := os.Mkdir(from, 0o700); err != nil {
		return err
	}
	if err := treesync.Extract(ctx, src, from); err != nil {
		return fmt.Errorf("extract the archive: %w", err)
	}
	if _, ok := src.RootMode(); !ok {
		if err := unix.Chmod(from, uint32(d.manifest.destMode())); err != nil {
			return &fs.PathError{Op: "chmod", Path: from, Err: err}
		}
	}
	return then(from)
}
