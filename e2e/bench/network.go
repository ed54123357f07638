package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// network measures deployments of the tree of the Go toolchain over a link of 100
// Mbit/s, which all connections share.
func (b *bench) network(ctx context.Context) (err error) {
	plain, tree, err := b.packGoTree(ctx)
	if err != nil {
		return err
	}
	gzip, err := compress(ctx, plain, ".gz", "gzip", "-6nc")
	if err != nil {
		return err
	}
	packed, err := b.packSpoiled(ctx, plain)
	if err != nil {
		return err
	}
	runs := min(b.runs, 3)
	b.say("The tree of the Go toolchain: %s; gzip -6 %s, packed with patches for 1 %% of the files %s. Over a link of 100 Mbit/s, which all connections share; medians of %d runs.",
		tree, megabytes(gzip.size), megabytes(packed.size), runs)

	builtin := func(ctx context.Context, a archive) (time.Duration, error) { return b.byAgent(ctx, a, "builtin") }
	sides := []struct {
		name, format string
		archive      *archive
		verify       func(dir string) error
		run          func(context.Context, archive) (time.Duration, error)
	}{
		{"by hand", "gzip", &gzip, tree.verify, b.byHand},
		{"by hand", "packed", &packed, tree.packed().verify, b.byHand},
		{"builtin", "packed", &packed, tree.packed().verify, builtin},
	}
	for _, a := range []*archive{&gzip, &packed} {
		server, err := serve(a.path, link{rate: 100e6 / 8, shared: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.stop()) }()
		a.url = server.url
	}
	times := map[measured]samples{}
	for range runs {
		for _, c := range b.changes() {
			for _, s := range sides {
				m := measured{c.name, s.format, s.name}
				if err := c.prepare(); err != nil {
					return err
				}
				took, err := s.run(ctx, *s.archive)
				if err == nil {
					err = s.verify(b.dest())
				}
				if err != nil {
					return fmt.Errorf("%s: %w", m, err)
				}
				times[m] = append(times[m], took)
			}
		}
	}
	t := b.table("", "", "", "time", "ratio", "goal", "")
	for _, c := range b.changes() {
		hand := times[measured{c.name, "packed", "by hand"}]
		for _, s := range sides {
			m := measured{c.name, s.format, s.name}
			name := m.String()
			if s.name == "builtin" {
				name = c.name + ", builtin"
			}
			t.row(append([]string{c.name, s.format, s.name, times[m].String()}, b.verdict(name, times[m].to(hand))...)...)
			b.point(times[m].median().Seconds(), m.String())
		}
	}
	return t.print()
}

// change is what a deployment has to do.
type change struct {
	name    string
	prepare func() error // changes a dest that equals the archive
}

func (b *bench) changes() []change {
	return []change{
		{"fresh", func() error { return os.RemoveAll(b.dest()) }},
		{"unchanged", func() error { return nil }},
		{"1 % changed", func() error { return spoil(b.dest(), 100) }},
	}
}
