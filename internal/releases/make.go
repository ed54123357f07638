package releases

import (
	"bytes"
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
// they do not exist. After an error, nothing of the release is left; shared paths
// that were created stay.
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
	if err := s.writeManifest(s.made, manifest, false); err != nil {
		return err
	}
	if err := (progress.Reporter{}).Flush(ctx, s.dir); err != nil {
		return err
	}
	// The link must not be on disk before the mark.
	if err := s.placeManifest(s.made); err != nil {
		return fmt.Errorf("finish the release: %w", err)
	}
	cloned := ""
	if base != "" {
		cloned = ", " + humanize.IBytes(uint64(tree.Cloned())) + " of it cloned from the one before"
	}
	log.Printf("Made the release %s: %s%s", s.made, humanize.IBytes(uint64(tree.Size())), cloned)
	return nil
}

// fill creates the directory of the release s.made, and the tree in it.
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

// keepManifest makes manifest that of a finished release, unless it is already: a
// rollback should run the commands with which the release was deployed last.
func (s *Store) keepManifest(name string, manifest []byte) error {
	old, err := s.readManifest(name)
	if err != nil || bytes.Equal(old, manifest) {
		return err
	}
	if err = s.writeManifest(name, manifest, true); err == nil {
		err = s.placeManifest(name)
	}
	if err != nil {
		_ = unix.Unlinkat(s.dir, temporaryMark(name), 0) // err says more
	}
	return err
}

// writeManifest writes the manifest of a release, which may hold secrets, under a
// temporary name. If flush is set, it waits until it is on disk.
func (s *Store) writeManifest(name string, manifest []byte, flush bool) error {
	fd, err := unixfs.Openat(s.dir, temporaryMark(name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = unixfs.WriteAt(fd, manifest, 0)
		if err == nil && flush {
			err = unix.Fsync(fd)
		}
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		return fmt.Errorf("keep the manifest: %w", err)
	}
	return nil
}

// placeManifest gives the manifest of a release its name, on disk too.
func (s *Store) placeManifest(name string) error {
	if err := unix.Renameat(s.dir, temporaryMark(name), s.dir, name+markSuffix); err != nil {
		return err
	}
	return unixfs.FlushDir(s.dir)
}

// removeMade removes the release that this run made, whether it is finished or not.
func (s *Store) removeMade() {
	if err := unix.Unlinkat(s.dir, temporaryMark(s.made), 0); err != unix.ENOENT {
		s.warn("remove the manifest of the release "+s.made, err)
	}
	s.remove(s.made)
	s.made = ""
}
