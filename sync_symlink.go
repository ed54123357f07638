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
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/releases"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// defaultKeepReleases is how many releases are kept unless the manifest says so.
const defaultKeepReleases = 5

// symlinkStrategy makes dest a symbolic link to a complete release.
type symlinkStrategy struct {
	*Manifest
	found   string          // a finished release that is what the archive would bring
	cleaned bool            // what killed runs left was removed
	store   *releases.Store // nil before deploy
}

// Sync makes the directory from, with the excludes of the manifest, a release of to.
func (s *symlinkStrategy) Sync(from, to string) error {
	ctx := context.Background()
	tree, err := treesync.FreshDir(ctx, from, s.treeOptions())
	if err != nil {
		return err
	}
	err = s.release(ctx, unixfs.CleanPath(to), tree)
	unixfs.Warn("close "+from, tree.Close())
	s.conclude(err)
	return err
}

func (s *symlinkStrategy) name() string { return "symlink" }

func (s *symlinkStrategy) prepare(string) error { return nil }

func (s *symlinkStrategy) problem(dest string) (certain bool, err error) {
	if _, missing := os.Lstat(dest); missing != nil {
		err = destcheck.Problem(dest)
	}
	if err == nil {
		err = destcheck.Problem(dest + releases.Suffix)
	}
	if err == nil {
		if err = releases.Check(dest); errors.Is(err, releases.ErrForeign) {
			err = destExistsError{err}
		}
	}
	if err != nil {
		return true, err
	}
	return false, destcheck.LinkProblem(dest) // the release may be the current one already
}

// destExistsError is an errDestExists with the text of another error.
type destExistsError struct{ error }

func (e destExistsError) Unwrap() []error { return []error{e.error, errDestExists} }

func (s *symlinkStrategy) fillsHoles() bool { return false }

func (s *symlinkStrategy) has(d *deployment) (bool, error) {
	store, err := releases.Open(s.Dest)
	if err == nil {
		defer store.Close()
		err = store.Check()
	}
	if err != nil && d.release == "" {
		return false, nil // problem has logged it, and a pre command may change it
	}
	if err == nil && !d.conf.DryRun {
		s.cleaned, err = true, store.Clean()
	}
	if err != nil {
		return false, err
	}
	if d.release == "" {
		s.found, err = store.Find(s.id())
	} else if s.found, _, err = store.Before(); err == nil && s.found != d.release {
		err = fmt.Errorf("roll back %s: another deployment has changed it meanwhile", s.Dest)
	}
	if s.found != "" && err == nil {
		log.Printf("The release %s is there already: nothing to download", s.found)
	}
	return s.found != "", err
}

// deploy makes a release of the archive, unless it was found, and switches to it.
func (s *symlinkStrategy) deploy(ctx context.Context, d *deployment, src *archive.Archive) error {
	tree, err := s.tree(ctx, src)
	if err != nil {
		return err
	}
	return s.release(ctx, s.Dest, tree)
}

// tree returns what a release of the archive has in it, nil without an archive.
func (s *symlinkStrategy) tree(ctx context.Context, src *archive.Archive) (*treesync.Fresh, error) {
	if src == nil {
		return nil, nil
	}
	return treesync.FreshArchive(ctx, src, s.treeOptions())
}

// release switches dest to a release of the tree. A nil tree is the release that
// was found.
func (s *symlinkStrategy) release(ctx context.Context, dest string, tree *treesync.Fresh) (err error) {
	s.store.Close() // of an attempt before
	if s.store, err = releases.Open(dest); err != nil {
		return err
	}
	if !s.cleaned {
		if err := s.store.Clean(); err != nil {
			return err
		}
	}
	manifest, err := s.source()
	if err != nil {
		return err
	}
	name := s.found
	if tree != nil {
		if name, err = s.store.Make(ctx, tree, s.id(), s.Shared, manifest); err != nil {
			return err
		}
	}
	return s.store.Switch(name, manifest)
}

func (s *symlinkStrategy) conclude(err error) {
	if s.store == nil {
		return
	}
	if err != nil {
		s.store.Undo()
	} else {
		s.store.Prune(s.keep())
	}
	s.store.Close()
}

// keep returns how many releases are kept.
func (s *symlinkStrategy) keep() int { return cmp.Or(s.KeepReleases, defaultKeepReleases) }

// preview returns how the release would differ from the current one.
func (s *symlinkStrategy) preview(ctx context.Context, d *deployment, src *archive.Archive) (iter.Seq[preview.Item], error) {
	tree, err := s.tree(ctx, src)
	if err != nil {
		return nil, err
	}
	if d.absent && tree != nil {
		return tree.Preview(ctx, "")
	}
	store, err := releases.Open(s.Dest)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if tree == nil {
		return store.PreviewFound(ctx, s.found, s.Shared, s.keep(), d.absent)
	}
	return store.PreviewNew(ctx, tree, s.id(), s.Shared, s.keep())
}

// id stands for all that decides what a release has in it.
func (s *symlinkStrategy) id() releases.ID {
	return releases.NewID(s.CheckSum, fmt.Sprintf("%04o", uint32(s.destMode())), s.Excludes, s.ExcludeFrom, s.Shared)
}

// Rollback deploys again the newest release of dest, an absolute path, that is older
// than the current one, and runs all commands of its manifest, as RunContext does.
// Nothing is downloaded. The release must have been made by the strategy symlink and
// still be kept; if there is none, the error says so and nothing changes. Of conf,
// what is about downloads, Allow included, PublicKeys and InitSleep do not count, and
// the manifest may have expired: it was verified when it was kept.
func Rollback(ctx context.Context, dest string, conf Config) (err error) {
	defer conf.startLog()()
	conf.logStart()
	if err := conf.check(); err != nil {
		return logged("Configuration", err)
	}
	out := newOutcome(conf)
	out.deployment.Rollback = true
	out.destIs(dest)
	defer func() { out.failed(err) }()
	if err := out.open(); err != nil {
		return logged("State directory", err)
	}
	m, name, source, err := earlier(dest, conf.Strict)
	if err != nil {
		return logged("Rollback", err)
	}
	// Nothing is downloaded, and src was allowed and the manifest verified when the
	// release was made.
	out.conf.Allow, out.conf.PublicKeys = nil, nil
	log.Printf("Rolling back %s to the release %s", m.Dest, name)
	log.Println("Loading manifest:", source)
	ev := &event{manifestURL: source}
	out.received(ev)
	d := newDeployment(m, ev, out)
	d.release = name
	return d.deployAndTell(ctx)
}

// earlier returns the manifest, with its URL, of the release before the current one.
func earlier(dest string, strict bool) (m *Manifest, name, source string, err error) {
	if err := destcheck.Check(dest); err != nil {
		return nil, "", "", err
	}
	dest = unixfs.CleanPath(dest)
	store, err := releases.Open(dest)
	if err != nil {
		return nil, "", "", err
	}
	defer store.Close()
	name, data, err := store.Before()
	if err != nil {
		return nil, "", "", err
	}
	path := store.ManifestPath(name)
	if m, err = parseManifest(data, strict); err != nil {
		return nil, "", "", fmt.Errorf("%s: %w", path, err)
	}
	if m.SyncStrategy != "symlink" || m.Src == "" {
		return nil, "", "", fmt.Errorf("%s is not the manifest of a release", path)
	}
	m.Dest = dest // the release may have been moved
	// It protects from those who send an old manifest, and must not keep a bad release.
	m.Expires = time.Time{}
	return m, name, fileURL(path), nil
}

// source returns the manifest in YAML: as it was fetched, if it was.
func (m *Manifest) source() ([]byte, error) {
	if m.parsed.data != nil {
		return m.parsed.data, nil
	}
	return yaml.Marshal(m)
}
