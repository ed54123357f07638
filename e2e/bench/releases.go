package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// releaseByHand makes a release and switches to it, as hooks do that people write.
// Its arguments are those of byHand.
const releaseByHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
name=$(date -u +%Y%m%dT%H%M%S.%N)
mkdir -p "$4.releases/unfinished"
tar xf "$3/archive" -C "$4.releases/unfinished"
rm "$3/archive"
mv "$4.releases/unfinished" "$4.releases/$name"
ln -s "$(basename "$4").releases/$name" "$4.new"
mv -T "$4.new" "$4"
`

// version is a packed tree.
type version struct {
	archive
	tree tree
}

// releases measures deployments with the strategy symlink of two versions of the
// tree of the Go toolchain, of which 1 % of the files differ in the last byte.
func (b *bench) releases(ctx context.Context) error {
	fill, err := b.goTree(ctx)
	if err != nil {
		return err
	}
	before, err := packVersion(ctx, filepath.Join(b.dir, "before.tar"), fill)
	if err != nil {
		return err
	}
	after, err := packVersion(ctx, filepath.Join(b.dir, "after.tar"), func(p *packer) error {
		p.spoil = 100
		return fill(p)
	})
	if err != nil {
		return err
	}
	files, size := after.tree.without(before.tree).files()
	b.say("The tree of the Go toolchain: %s; zstd %s; 1 %% changed: %d files, %s.", before.tree, megabytes(before.size), files, megabytes(size))
	if err := b.switches(ctx, before, after); err != nil {
		return err
	}
	return b.clones(ctx, before, after)
}

func packVersion(ctx context.Context, path string, fill func(*packer) error) (version, error) {
	tree, err := pack(ctx, path, fill)
	if err != nil {
		return version{}, err
	}
	zstd, err := compress(ctx, path, ".zst", "zstd", "-qc")
	return version{zstd, tree}, errors.Join(err, os.Remove(path))
}

// switches measures how long releases and rollbacks take. Each run begins without
// dest, and each of its steps continues from the one before.
func (b *bench) switches(ctx context.Context, before, after version) error {
	steps := []struct {
		name   string
		to     version
		byHand bool // else it is compared with fresh by hand
		run    func(context.Context, archive) (time.Duration, error)
	}{
		{"fresh", before, true, b.release},
		{"unchanged", before, true, b.release},
		{"1 % changed", after, true, b.release},
		{"the old manifest again", before, false, b.release},
		{"the new manifest again", after, false, b.release},
		{"-rollback", before, false, b.rollback},
	}
	byHand := make([]samples, len(steps))
	byAgent := make([]samples, len(steps))
	for range b.runs {
		for _, hand := range []bool{true, false} {
			if err := b.removeReleases(); err != nil {
				return err
			}
			for i, s := range steps {
				run, times := s.run, byAgent
				if hand {
					run, times = b.releaseByHand, byHand
				}
				if hand && !s.byHand {
					continue
				}
				took, err := run(ctx, s.to.archive)
				if err == nil {
					err = b.verifyDest(s.to.tree)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				times[i] = append(times[i], took)
			}
		}
	}

	t := b.table("", "", "time", "ratio", "goal", "")
	for i, s := range steps {
		base := byHand[0]
		if s.byHand {
			base = byHand[i]
			t.row(append([]string{s.name, "by hand", base.String()}, b.verdict(s.name+", by hand", 1)...)...)
		}
		t.row(append([]string{s.name, "symlink", byAgent[i].String()}, b.verdict(s.name, byAgent[i].to(base))...)...)
	}
	b.say("The ratios of the last three, which switch to a release that is there, are relative to fresh, by hand.")
	return t.print()
}

// writtenCase is the one for which clones has a goal.
const writtenCase = "1 % changed, written to an xfs"

// clones measures how much a release with 1 % changed files writes to an xfs, which
// can clone the other files: all that the kernel has written to the disk once dest
// is flushed, names, attributes and the journal included.
func (b *bench) clones(ctx context.Context, before, after version) (err error) {
	if problem := canMount("mkfs.xfs"); problem != nil {
		b.part.Missing[writtenCase] = problem.Error()
		b.say("Bytes written to an xfs: not measured: %v.", problem)
		return nil
	}
	b.disk = filepath.Join(b.dir, "disk")
	defer func() { b.disk = "" }()
	unmount, err := mountNew(ctx, b.disk, 4<<30, "mkfs.xfs", "-q", "-m", "reflink=1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	_, size := after.tree.files()
	t := b.table("", "", "written to an xfs", "% of the release", "goal", "")
	for _, side := range []struct {
		name string
		run  func(context.Context, archive) (time.Duration, error)
	}{{"by hand", b.releaseByHand}, {"symlink", b.release}} {
		if err := b.removeReleases(); err != nil {
			return err
		}
		if _, err := side.run(ctx, before.archive); err != nil {
			return err
		}
		syscall.Sync()
		start, err := writtenTo(b.disk)
		if err != nil {
			return err
		}
		if _, err := side.run(ctx, after.archive); err != nil {
			return err
		}
		syscall.Sync()
		end, err := writtenTo(b.disk)
		if err != nil {
			return err
		}
		if err := b.verifyDest(after.tree); err != nil {
			return fmt.Errorf("%s: %w", side.name, err)
		}
		written := end - start
		name := writtenCase
		if side.name == "by hand" {
			name += ", by hand"
		}
		t.row(append([]string{"1 % changed", side.name, megabytes(written)}, b.verdict(name, 100*float64(written)/float64(size))...)...)
	}
	return t.print()
}

// writtenTo returns how many bytes have been written to the disk that is mounted on
// dir since it was attached (see Documentation/block/stat.rst of Linux).
func writtenTo(dir string) (int64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	major, minor := st.Dev>>8&0xfff, st.Dev&0xff|st.Dev>>12&0xfff00
	path := fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var skip, sectors int64
	if _, err := fmt.Sscan(string(data), &skip, &skip, &skip, &skip, &skip, &skip, &sectors); err != nil {
		return 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return sectors * 512, nil
}

// releaseByHand makes a release of the archive by hand.
func (b *bench) releaseByHand(ctx context.Context, a archive) (time.Duration, error) {
	return b.shell(ctx, releaseByHand, a.url, a.sum, b.tmp(), b.dest())
}

// release deploys the archive with the strategy symlink.
func (b *bench) release(ctx context.Context, a archive) (time.Duration, error) {
	return b.byAgent(ctx, a, "symlink")
}

// rollback deploys the release before the current one, which should be the archive.
func (b *bench) rollback(ctx context.Context, _ archive) (time.Duration, error) {
	cmd := command(ctx, b.agent, "-rollback", b.dest())
	cmd.Env = append(os.Environ(), "TMPDIR="+b.tmp())
	return b.timed(cmd, nil)
}

func (b *bench) removeReleases() error {
	return errors.Join(os.RemoveAll(b.dest()), os.RemoveAll(b.dest()+".releases"))
}

// verifyDest returns an error if dest, or the directory that it is a link to, is not
// the tree.
func (b *bench) verifyDest(t tree) error {
	dir, err := filepath.EvalSymlinks(b.dest())
	if err != nil {
		return err
	}
	return t.verify(dir)
}
