package releases

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/treesync"
)

// PreviewNew logs what Make, Switch and Prune would do, and returns how the release
// of the tree would differ from the current one. It changes nothing on disk.
func (s *Store) PreviewNew(ctx context.Context, tree *treesync.Fresh, id ID, shared []string, keep int) (iter.Seq[preview.Item], error) {
	name, err := s.newName(id)
	if err != nil {
		return nil, err
	}
	log.Printf("would make the release %s (its name will have the time of the deployment)", name)
	links, err := s.linkShared(tree, shared)
	if err != nil {
		return nil, err
	}
	for _, p := range links {
		var st unix.Stat_t
		err := unix.Fstatat(s.parent, path.Join(s.name+sharedSuffix, p.path), &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			log.Printf("would create the shared path %s in %s%s", p.path, s.dest, sharedSuffix)
		} else if err != nil {
			return nil, fmt.Errorf("create the shared path %s in %s%s: %w", p.path, s.dest, sharedSuffix, err)
		}
	}
	return s.previewSwitch(ctx, tree, name, shared, keep)
}

// PreviewFound is PreviewNew for a release that is there already. If absent is set, it
// takes dest for missing.
func (s *Store) PreviewFound(ctx context.Context, name string, shared []string, keep int, absent bool) (iter.Seq[preview.Item], error) {
	tree, err := treesync.FreshDir(ctx, s.releasePath(name), treesync.Options{})
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	if absent {
		return tree.Preview(ctx, "")
	}
	return s.previewSwitch(ctx, tree, name, shared, keep)
}

func (s *Store) releasePath(name string) string { return filepath.Join(s.dest+Suffix, name) }

// previewSwitch logs what Switch and Prune would do, and returns how the tree of a
// release differs from the current one.
func (s *Store) previewSwitch(ctx context.Context, tree *treesync.Fresh, name string, shared []string, keep int) (iter.Seq[preview.Item], error) {
	target, err := s.link()
	if err != nil {
		return nil, err
	}
	list, err := s.list()
	if err != nil {
		return nil, err
	}
	current, base := s.releaseOf(target), ""
	switch current {
	case name:
		log.Printf("%s is the current release already", name)
	case "":
		log.Printf("would make %s a link to the release %s", s.dest, name)
	default:
		log.Printf("would switch %s from the release %s to %s", s.dest, current, name)
	}
	if current != "" {
		base = s.releasePath(current)
	}
	names := finished(list)
	if !slices.Contains(names, name) {
		names = append(names, name)
	}
	for _, old := range tooOld(names, name, keep) {
		log.Printf("would remove the old release %s", old)
	}
	items, err := tree.Preview(ctx, base)
	return func(yield func(preview.Item) bool) {
		for item := range items {
			// Each release has links of its own, which are as old as the release.
			isLink := slices.ContainsFunc(shared, func(p string) bool { return path.Clean(p) == item.Path })
			if isLink && slices.Equal(item.Differs, []string{"time"}) {
				continue
			}
			if !yield(item) {
				return
			}
		}
	}, err
}
