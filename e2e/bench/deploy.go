package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// deploy measures deployments of the Go toolchain's own tree.
func (b *bench) deploy(ctx context.Context) error {
	fill, err := goTree(ctx)
	if err != nil {
		return err
	}
	plain := filepath.Join(b.dir, "go.tar")
	tree, err := pack(ctx, plain, fill)
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
	fmt.Printf("the tree of the Go toolchain: %s; gzip %s, zstd %s\n\n", tree, megabytes(gzip.size), megabytes(zstd.size))

	cases := []struct {
		name    string
		prepare func() error // changes a dest that equals the archive
	}{
		{"fresh", func() error { return os.RemoveAll(b.dest()) }},
		{"unchanged", func() error { return nil }},
		{"1 % changed", func() error { return spoil(b.dest(), 100) }},
	}
	formats := []struct {
		name string
		archive
	}{{"gzip", gzip}, {"zstd", zstd}}
	type measured struct{ change, format, side string }
	targets := map[measured]float64{
		{"fresh", "gzip", "default"}:       0.78,
		{"unchanged", "gzip", "default"}:   0.65,
		{"fresh", "gzip", "builtin"}:       0.42,
		{"fresh", "zstd", "builtin"}:       0.36,
		{"unchanged", "gzip", "builtin"}:   0.45,
		{"unchanged", "zstd", "builtin"}:   0.42,
		{"1 % changed", "gzip", "builtin"}: 0.48,
		{"1 % changed", "zstd", "builtin"}: 0.45,
	}
	times := map[measured]samples{}
	floors := b.floors(plain, gzip, zstd)
	floorTimes := make([]samples, len(floors))
	for range b.runs {
		for _, c := range cases {
			for _, f := range formats {
				for _, s := range b.sides() {
					if err := c.prepare(); err != nil {
						return err
					}
					took, err := s.run(ctx, f.archive)
					if err == nil {
						err = tree.verify(b.dest())
					}
					if err != nil {
						return fmt.Errorf("%s, %s, %s: %w", c.name, f.name, s.name, err)
					}
					m := measured{c.name, f.name, s.name}
					times[m] = append(times[m], took)
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

	t := newTable("", "", "", "time", "ratio", "target", "")
	for _, c := range cases {
		for _, f := range formats {
			hand := times[measured{c.name, f.name, "by hand"}]
			for _, s := range b.sides() {
				m := measured{c.name, f.name, s.name}
				t.row(append([]string{c.name, f.name, s.name, times[m].String()}, b.verdict(times[m].to(hand), targets[m])...)...)
			}
		}
	}
	hand := times[measured{"fresh", "gzip", "by hand"}]
	for i, f := range floors {
		t.row("floor", "", f.name, floorTimes[i].String(), fmt.Sprintf("%.2f", floorTimes[i].to(hand)))
	}
	fmt.Println("The ratios of the floors are relative to fresh, gzip, by hand.")
	return t.print()
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
