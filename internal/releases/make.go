package releases

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Make makes a release of a tree, and returns its name once all of it is on disk.
// The shared paths become links to the shared directory, and are created there if
// they do not exist. After an error, nothing of the release is left, but of shared
// paths those that were created.
func (s *Store) Make(ctx context.Context, tree *treesync.Fresh, id ID, shared []string, manifest []byte) (name string, err error) {
	target, err := s.link()
	if err != nil {
		return "", err
	}
	if err := s.create(); err != nil {
		return "", err
	}
	if name, err = s.newName(id); err != nil {
		return "", err
	}
	s.made = name
	if err := s.make(ctx, tree, s.releaseOf(target), shared, manifest); err != nil {
		s.removeMade()
		return "", fmt.Errorf("make a release in %s%s: %w", s.dest, Suffix, tree.Explain(err, s.dir))
	}
	return name, nil
}

// newName returns a name for a release that sorts after those of all others, even
// if the clock has been set back.
func (s *Store) newName(id ID) (string, error) {
	list, err := s.list()
	if err != nil {
		return "", err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	if len(list) > 0 {
		if last := list[len(list)-1].made; !now.After(last) {
			now = last.Add(time.Millisecond)
		}
	}
	return now.Format(timeLayout) + "-" + string(id), nil
}

// make makes the release s.made. What the release base has is cloned.
func (s *Store) make(ctx context.Context, tree *treesync.Fresh, base string, shared []string, manifest []byte) error {
	missing, err := s.linkShared(tree, shared)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, tree, base); err != nil {
		return err
	}
	if err := s.makeShared(ctx, tree, missing); err != nil {
		return err
	}
	if err := s.writeManifest(manifest); err != nil {
		return err
	}
	if err := (progress.Reporter{}).Flush(ctx, s.dir); err != nil {
		return err
	}
	if err := unix.Renameat(s.dir, temporaryMark(s.made), s.dir, s.made+markSuffix); err != nil {
		return fmt.Errorf("finish the release: %w", err)
	}
	// The link must not be on disk before the mark.
	if err := unixfs.FlushDir(s.dir); err != nil {
		return fmt.Errorf("finish the release: %w", err)
	}
	cloned := ""
	if base != "" {
		cloned = ", " + humanize.IBytes(uint64(tree.Cloned())) + " of it cloned from the one before"
	}
	log.Printf("Made the release %s: %s%s", s.made, humanize.IBytes(uint64(tree.Size())), cloned)
	return nil
}

func (s *Store) fill(ctx context.Context, tree *treesync.Fresh, base string) error {
	if err := unix.Mkdirat(s.dir, s.made, 0o700); err != nil {
		return fmt.Errorf("create the release %s: %w", s.made, err)
	}
	dir, err := unixfs.OpenDir(s.dir, s.made)
	if err != nil {
		return fmt.Errorf("create the release %s: %w", s.made, err)
	}
	defer unix.Close(dir)
	from := -1
	if base != "" {
		if from, err = unixfs.OpenDir(s.dir, base); err == nil {
			defer unix.Close(from)
		}
	}
	return tree.Create(ctx, dir, from)
}

// writeManifest writes the manifest under a temporary name. It may hold secrets.
func (s *Store) writeManifest(manifest []byte) error {
	fd, err := unixfs.Openat(s.dir, temporaryMark(s.made), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = unixfs.WriteAt(fd, manifest, 0)
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		return fmt.Errorf("keep the manifest: %w", err)
	}
	return nil
}

// removeMade removes the release that this run made.
func (s *Store) removeMade() {
	if err := unix.Unlinkat(s.dir, temporaryMark(s.made), 0); err != unix.ENOENT {
		s.warn("remove a manifest", err)
	}
	s.remove(s.made)
	s.made = ""
}
