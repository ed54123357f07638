package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// fetchByHand downloads and verifies an archive, but does not unpack it. Its
// arguments are the URL, the SHA-256 and a directory for temporary files.
const fetchByHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
rm "$3/archive"
`

// unpackByHand does approximately what the agent does.
const unpackByHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
mkdir "$4"
tar xf "$3/archive" -C "$4"
rm "$3/archive"
`

// download measures downloads from a server that limits the rate of each
// connection and from a server that does not.
//
// The agent cannot be told to only download, so its time includes extracting the
// file in the archive, which means writing the same number of bytes again.
func (b *bench) download(ctx context.Context) error {
	const rate = 20e6 // bytes per second
	size := int64(200e6 / b.scale)
	path := filepath.Join(b.dir, "object.tar")
	tree, err := pack(ctx, path, func(p *packer) error {
		return p.file("large", 0o644, someTime, size, random(0))
	})
	if err != nil {
		return err
	}
	object, err := newArchive(path)
	if err != nil {
		return err
	}
	b.say("A tar of %s of incompressible data.", tree)

	t := b.table("", "", "time", "ratio", "goal", "")
	if err := b.downloadFrom(ctx, t, link{rate: rate}, object, tree); err != nil {
		return err
	}
	if err := b.downloadFrom(ctx, t, link{}, object, tree); err != nil {
		return err
	}
	return t.print()
}

// downloadFrom measures downloads over the link.
func (b *bench) downloadFrom(ctx context.Context, t *table, l link, object archive, tree tree) (err error) {
	name := "not limited"
	if l.rate > 0 {
		name = fmt.Sprintf("%s/s per connection", megabytes(int64(l.rate)))
	}
	server, err := serve(object.path, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	object.url = server.url

	type fetch func(context.Context) (time.Duration, error)
	shell := func(script string) fetch {
		return func(ctx context.Context) (time.Duration, error) {
			return b.shell(ctx, script, object.url, object.sum, b.tmp(), b.dest())
		}
	}
	agent := func(args ...string) fetch {
		return func(ctx context.Context) (time.Duration, error) {
			cmd, err := b.deployment(ctx, object, "builtin", args...)
			if err != nil {
				return 0, err
			}
			return b.timed(cmd, nil)
		}
	}
	sides := []struct {
		name     string
		unpacked bool
		fetch    fetch
	}{
		{"curl, sha256sum", false, shell(fetchByHand)},
		{"curl, sha256sum, tar xf", true, shell(unpackByHand)},
		{"stretcher -connections 1", true, agent("-connections", "1")},
		{"stretcher", true, agent()},
	}
	times := make([]samples, len(sides))
	for range b.runs {
		for i, s := range sides {
			if err := os.RemoveAll(b.dest()); err != nil {
				return err
			}
			took, err := s.fetch(ctx)
			if err == nil && s.unpacked {
				err = tree.verify(b.dest())
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", name, s.name, err)
			}
			times[i] = append(times[i], took)
		}
	}
	for i, s := range sides {
		t.row(append([]string{name, s.name, times[i].String()}, b.verdict(name+", "+s.name, times[i].to(times[0]))...)...)
	}
	return nil
}
