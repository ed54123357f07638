package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// shares are those of changed files, of which the plot shows what is fetched.
var shares = []float64{0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1}

// bytes measures how many bytes of an archive a host fetches that has an older version.
func (b *bench) bytes(ctx context.Context) error {
	if err := b.bytesByShare(ctx); err != nil {
		return err
	}
	b.say("Real software. Each archive has patches against the version before, which the host has.")
	t := b.table("", "archive", "index", "fetched", "requests", "% of the archive", "goal", "")
	for _, p := range b.pairs {
		dirs, err := p.directories(ctx, b.cache)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			// The error may name hosts and directories, which are of no use on the page.
			fmt.Printf("%s: not measured: %v\n", p.name, err)
			b.part.Missing[p.name] = "the packages could not be fetched; the output of the bench says why"
			t.row(p.name, "not measured: the packages could not be fetched")
			continue
		}
		a, err := b.pack(ctx, dirs[1], filepath.Join(b.dir, "after.tar.zst"), dirs[0])
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fetched, requests, err := b.transfer(ctx, dirs[0], dirs[1], a)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.transferRow(t, p.title(), p.name, a, fetched, requests)
	}
	return t.print()
}

// title returns the name of the pair, with its versions if the name has none.
func (p pair) title() string {
	if p.programs[0] == "apt-get" {
		return fmt.Sprintf("%s, %s to %s", p.name, p.versions[0], p.versions[1])
	}
	return p.name
}

// transferRow adds a row for the case name.
func (b *bench) transferRow(t *table, title, name string, a archive, fetched, requests int64) {
	percent := 100 * float64(fetched) / float64(a.size)
	row := []string{title, megabytes(a.size), megabytes(a.indexSize), fmt.Sprintf("%.2f MB", float64(fetched)/1e6), fmt.Sprint(requests)}
	t.row(append(row, b.verdict(name, percent)...)...)
	b.point(percent, "pair", title)
}

// bytesByShare measures this for the tree of the Go toolchain, by the share of files
// that have another line in their middle than the host's.
func (b *bench) bytesByShare(ctx context.Context) error {
	input, packed, err := b.packGoTree(ctx)
	if err != nil {
		return err
	}
	tree, before := filepath.Join(b.dir, "tree"), filepath.Join(b.dir, "before")
	if err := b.unpack(ctx, input, tree); err != nil {
		return err
	}
	without, err := b.pack(ctx, tree, filepath.Join(b.dir, "without.tar.zst"))
	if err != nil {
		return err
	}
	gzip, err := compress(ctx, input, ".gz", "gzip", "-6nc")
	if err != nil {
		return err
	}
	b.point(float64(without.size)/1e6, "whole")
	b.point(float64(gzip.size)/1e6, "gzip")
	b.say("The tree of the Go toolchain: %s; gzip -6 %s, packed without patches %s. In the host's version, some files have a further line in their middle. "+
		"The archive has patches against this version; the last two columns are for an archive without any.", packed, megabytes(gzip.size), megabytes(without.size))
	t := b.table("edited files", "archive", "index", "fetched with patches", "requests", "% of the archive", "goal", "", "fetched without", "requests")
	for _, share := range shares {
		if err := b.unpack(ctx, input, before); err != nil {
			return err
		}
		if err := edit(before, share); err != nil {
			return err
		}
		a, err := b.pack(ctx, tree, filepath.Join(b.dir, "after.tar.zst"), before)
		if err != nil {
			return err
		}
		fetched, requests, err := b.transfer(ctx, before, tree, a)
		if err != nil {
			return fmt.Errorf("%g %% edited: %w", 100*share, err)
		}
		fetchedWithout, requestsWithout, err := b.transfer(ctx, before, tree, without)
		if err != nil {
			return fmt.Errorf("%g %% edited, without patches: %w", 100*share, err)
		}
		percent := fmt.Sprintf("%g %%", 100*share)
		name := "Go tree, " + percent + " of the files edited"
		row := append([]string{percent, megabytes(a.size), fmt.Sprintf("%.2f MB", float64(a.indexSize)/1e6), fmt.Sprintf("%.2f MB", float64(fetched)/1e6), fmt.Sprint(requests)},
			b.verdict(name, 100*float64(fetched)/float64(a.size))...)
		t.row(append(row, fmt.Sprintf("%.2f MB", float64(fetchedWithout)/1e6), fmt.Sprint(requestsWithout))...)
		b.verdict(name+", requests", float64(requests))
		b.point(float64(fetched)/1e6, "with patches", percent)
		b.point(float64(fetchedWithout)/1e6, "without patches", percent)
		if share == 0 {
			b.verdict("Go tree, unchanged", float64(fetched)/float64(a.indexSize))
		}
		if err := os.RemoveAll(before); err != nil {
			return err
		}
	}
	return t.print()
}

// transfer deploys the archive to a copy of the directory before, and returns how many
// bytes of it the server sent, and in how many answers. The directory after is what
// dest has to be like.
func (b *bench) transfer(ctx context.Context, before, after string, a archive) (sent, requests int64, err error) {
	if err := os.RemoveAll(b.dest()); err != nil {
		return 0, 0, err
	}
	if _, err := b.shell(ctx, `cp -a "$1" "$2"`, before, b.dest()); err != nil {
		return 0, 0, err
	}
	server, err := serve(a.path, link{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	a.url = server.url
	if _, err := b.byAgent(ctx, a, "builtin"); err != nil {
		return 0, 0, err
	}
	if _, err := b.shell(ctx, `diff -r --no-dereference "$1" "$2"`, after, b.dest()); err != nil {
		return 0, 0, err
	}
	return server.sent.Load(), server.requests.Load(), os.RemoveAll(b.dest())
}

// edit inserts a line in the middle of a share of the files in dir.
func edit(dir string, share float64) error {
	i := 0
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if i++; int(float64(i)*share) == int(float64(i-1)*share) {
			return nil
		}
		return editFile(path)
	})
}

func editFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line := []byte("This line is in one of the two versions only.\n")
	middle := len(content) / 2
	middle += bytes.IndexByte(content[middle:], '\n') + 1
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	// A new file, since the old one may have other names.
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, bytes.Join([][]byte{content[:middle], content[middle:]}, line), info.Mode().Perm())
}
