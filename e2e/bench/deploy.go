package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fujiwara/stretcher/e2e/bench/report"
)

// deploy measures deployments of the Go toolchain's own tree.
func (b *bench) deploy(ctx context.Context) error {
	plain, tree, err := b.packGoTree(ctx)
	if err != nil {
		return err
	}
	gzip, err := compress(ctx, plain, ".gz", "gzip", "-6nc")
	if err != nil {
		return err
	}
	zstd, err := compress(ctx, plain, ".zst", "zstd", "-qc")
	if err != nil {
		return err
	}
	packed, err := b.packSpoiled(ctx, plain)
	if err != nil {
		return err
	}
	b.say("The tree of the Go toolchain: %s; gzip -6 %s, zstd %s, packed by stretcher pack, with patches for 1 %% of the files, %s. All archives are local files. CPU is that of all processes.",
		tree, megabytes(gzip.size), megabytes(zstd.size), megabytes(packed.size))

	b.say("The script below is what is called by hand. Its arguments are the URL of the archive, its SHA-256, a directory for temporary files, and dest. " +
		"It does one after the other what the documentation of the original says that the original does: it downloads to a temporary file over a single connection, reads the file again for the checksum, unpacks it to a temporary directory with tar, and runs rsync.")
	b.part.Blocks = append(b.part.Blocks, report.Block{Code: strings.TrimSpace(byHand)})
	cases := b.changes()
	formats := []struct {
		name string
		archive
		verify func(dir string) error
	}{{"gzip", gzip, tree.verify}, {"zstd", zstd, tree.verify}, {"packed", packed, tree.packed().verify}}
	times, cpus := map[measured]samples{}, map[measured]samples{}
	floors := b.floors(plain, gzip, zstd)
	floorTimes := make([]samples, len(floors))
	for range b.runs {
		for _, c := range cases {
			for _, f := range formats {
				for _, s := range b.sides() {
					if err := c.prepare(); err != nil {
						return err
					}
					m := measured{c.name, f.name, s.name}
					took, err := s.run(ctx, f.archive)
					if err == nil {
						err = f.verify(b.dest())
					}
					if err != nil {
						return fmt.Errorf("%s: %w", m, err)
					}
					times[m], cpus[m] = append(times[m], took), append(cpus[m], b.cpu)
				}
			}
		}
		for i, f := range floors {
			took, err := b.shell(ctx, f.script, f.args...)
			if err != nil {
				return err
			}
			floorTimes[i] = append(floorTimes[i], took)
			if err := os.RemoveAll(b.scratch()); err != nil {
				return err
			}
		}
	}

	t := b.table("", "", "", "time", "CPU", "ratio", "goal", "")
	for _, c := range cases {
		for _, f := range formats {
			hand := times[measured{c.name, f.name, "by hand"}]
			for _, s := range b.sides() {
				m := measured{c.name, f.name, s.name}
				cpu := fmt.Sprintf("%.2f s", cpus[m].median().Seconds())
				t.row(append([]string{c.name, f.name, s.name, times[m].String(), cpu}, b.verdict(m.String(), times[m].to(hand))...)...)
				b.point(times[m].median().Seconds(), m.String())
			}
		}
	}
	hand := times[measured{"fresh", "gzip", "by hand"}]
	for i, f := range floors {
		t.row("floor", "", f.name, floorTimes[i].String(), "", fmt.Sprintf("%.2f", floorTimes[i].to(hand)))
	}
	b.say("A floor is a program for one part of the work, with one thread; its ratio is relative to fresh, gzip, by hand.")
	return t.print()
}

// measured is what is measured on one side.
type measured struct{ change, format, side string }

func (m measured) String() string { return m.change + ", " + m.format + ", " + m.side }

// packSpoiled packs what is in the tar at path, with patches against the same tree
// after spoil has changed 1 % of its files.
func (b *bench) packSpoiled(ctx context.Context, path string) (archive, error) {
	tree, before := filepath.Join(b.dir, "tree"), filepath.Join(b.dir, "before")
	if err := b.unpack(ctx, path, tree, before); err != nil {
		return archive{}, err
	}
	if err := spoil(before, 100); err != nil {
		return archive{}, err
	}
	packed, err := b.pack(ctx, tree, filepath.Join(b.dir, "packed.tar.zst"), before)
	return packed, errors.Join(err, os.RemoveAll(tree), os.RemoveAll(before))
}

// floor is a lower bound: a specialized, single-threaded program does one part
// of the work.
type floor struct {
	name   string
	script string
	args   []string
}

// scratch is a directory for the files that floors write.
func (b *bench) scratch() string { return filepath.Join(b.dir, "scratch") }

func (b *bench) floors(plain string, gzip, zstd archive) []floor {
	return []floor{
		{"sha256sum of the gzip", `sha256sum "$1" >/dev/null`, []string{gzip.path}},
		{"gzip -dc", `gzip -dc "$1" >/dev/null`, []string{gzip.path}},
		{"zstd -dc", `zstd -dc "$1" >/dev/null`, []string{zstd.path}},
		{"tar xf of the plain tar", `mkdir "$2"; tar xf "$1" -C "$2"`, []string{plain, b.scratch()}},
	}
}
