package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// packing measures stretcher pack on the tree of the Go toolchain: how fast it is, and
// how large the archive is, compared with gzip -6.
func (b *bench) packing(ctx context.Context) error {
	input, packedTree, err := b.packGoTree(ctx)
	if err != nil {
		return err
	}
	tree, before := filepath.Join(b.dir, "tree"), filepath.Join(b.dir, "before")
	if err := b.unpack(ctx, input, tree, before); err != nil {
		return err
	}
	if err := edit(before, 0.01); err != nil {
		return err
	}
	// The plain tar that pack makes of the same tree.
	plain := filepath.Join(b.dir, "plain.tar")
	if _, err := b.timed(b.packCommand(ctx, "-format", "tar", "-o", plain, tree), nil); err != nil {
		return err
	}
	info, err := os.Stat(plain)
	if err != nil {
		return err
	}
	b.say("The tree of the Go toolchain: %s; a tar of %s. pack -base makes patches for the 1 %% of the files that differ from an older version.", packedTree, megabytes(info.Size()))

	sides := []struct {
		name  string
		out   string
		times samples
		cpus  samples
		run   func() (time.Duration, error)
	}{
		{name: "gzip -6", out: plain + ".gz", run: func() (time.Duration, error) { return b.shell(ctx, `gzip -6nc "$1" >"$2"`, plain, plain+".gz") }},
		{name: "zstd", out: plain + ".zst", run: func() (time.Duration, error) { return b.shell(ctx, `zstd -qc "$1" >"$2"`, plain, plain+".zst") }},
		{name: "pack", out: plain + ".packed", run: func() (time.Duration, error) {
			return b.timed(b.packCommand(ctx, "-o", plain+".packed", tree), nil)
		}},
		{name: "pack -base", out: plain + ".patched", run: func() (time.Duration, error) {
			return b.timed(b.packCommand(ctx, "-base", before, "-o", plain+".patched", tree), nil)
		}},
	}
	for range min(b.runs, 3) {
		for i := range sides {
			s := &sides[i]
			took, err := s.run()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.times, s.cpus = append(s.times, took), append(s.cpus, b.cpu)
		}
	}

	t := b.table("", "time", "CPU", "MB/s and core", "goal", "", "size", "of gzip -6", "goal", "")
	var ofGzip int64
	for _, s := range sides {
		out, err := os.Stat(s.out)
		if err != nil {
			return err
		}
		if ofGzip == 0 {
			ofGzip = out.Size()
		}
		speedCase, sizeCase := "speed, "+s.name, "size, "+s.name
		if s.name == "pack" {
			speedCase, sizeCase = "speed", "size"
		}
		cpu := s.cpus.median().Seconds()
		row := append([]string{s.name, s.times.String(), fmt.Sprintf("%.2f s", cpu)}, b.verdict(speedCase, float64(info.Size())/1e6/cpu)...)
		row = append(row, megabytes(out.Size()))
		t.row(append(row, b.verdict(sizeCase, float64(out.Size())/float64(ofGzip))...)...)
	}
	return t.print()
}

// packCommand returns a command that runs stretcher pack.
func (b *bench) packCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := command(ctx, b.agent, append([]string{"pack"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.tmp())
	return cmd
}

// pack packs a directory, with patches against other ones.
func (b *bench) pack(ctx context.Context, dir, out string, bases ...string) (archive, error) {
	args, err := b.packArguments(dir, out, bases...)
	if err != nil {
		return archive{}, err
	}
	if _, err := b.timed(b.packCommand(ctx, args...), nil); err != nil {
		return archive{}, err
	}
	return packedArchive(out)
}

func (b *bench) packArguments(dir, out string, bases ...string) ([]string, error) {
	template := out + ".template"
	if err := os.WriteFile(template, []byte("dest: "+strconv.Quote(b.dest())+"\n"), 0o644); err != nil {
		return nil, err
	}
	args := []string{"-o", out, "-manifest", out + ".yml", "-manifest-from", template}
	for _, base := range bases {
		args = append(args, "-base", base)
	}
	return append(args, dir), nil
}

var indexLine = regexp.MustCompile(`(?m)^index: \{offset: \d+, size: (\d+), .*$`)

// packedArchive returns an archive that pack has made.
func packedArchive(path string) (archive, error) {
	a, err := newArchive(path)
	if err != nil {
		return archive{}, err
	}
	manifest, err := os.ReadFile(path + ".yml")
	if err != nil {
		return archive{}, err
	}
	m := indexLine.FindSubmatch(manifest)
	if m == nil {
		return archive{}, fmt.Errorf("%s.yml has no index", path)
	}
	a.index = string(m[0])
	a.indexSize, err = strconv.ParseInt(string(m[1]), 10, 64)
	return a, err
}

// unpack extracts a tar to new directories.
func (b *bench) unpack(ctx context.Context, path string, dirs ...string) error {
	for _, dir := range dirs {
		if _, err := b.shell(ctx, `mkdir "$2"; tar xf "$1" -C "$2"`, path, dir); err != nil {
			return err
		}
	}
	return nil
}
