package main

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tree maps the paths that dest must contain after a deployment to their
// attributes. It includes ".".
type tree map[string]entry

type entry struct {
	mode  fs.FileMode
	mtime time.Time // zero for any
	size  int64     // files only
	sum   uint32
}

func (e entry) String() string {
	return fmt.Sprintf("%s of %s, %d bytes, CRC %08x", e.mode, e.mtime.UTC().Format(time.RFC3339Nano), e.size, e.sum)
}

// files returns the number of files and their total size.
func (t tree) files() (n int, size int64) {
	for _, e := range t {
		if e.mode.IsRegular() {
			n++
			size += e.size
		}
	}
	return n, size
}

// without returns the entries that the other tree does not have like that.
func (t tree) without(other tree) tree {
	rest := tree{}
	for name, e := range t {
		if e != other[name] {
			rest[name] = e
		}
	}
	return rest
}

// packed returns the tree as stretcher pack packs it: the archive has no entry for the
// directory itself.
func (t tree) packed() tree {
	t = maps.Clone(t)
	t["."] = entry{mode: t["."].mode}
	return t
}

func (t tree) String() string {
	n, size := t.files()
	return fmt.Sprintf("%s, %s, %s", count(n, "file", "files"), count(len(t)-n, "directory", "directories"), megabytes(size))
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// verify returns an error if the names, modes, times or contents in the
// directory differ from the tree.
func (t tree) verify(dir string) error {
	found := 0
	buffer := make([]byte, 1<<20)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := t[name]
		if !ok {
			return fmt.Errorf("%s is not in the archive", path)
		}
		found++
		info, err := d.Info()
		if err != nil {
			return err
		}
		got := entry{mode: info.Mode(), mtime: info.ModTime()}
		if got.mode.IsRegular() {
			if got.size, got.sum, err = checksum(path, buffer); err != nil {
				return err
			}
		}
		if got.mode != want.mode || got.size != want.size || got.sum != want.sum || !want.mtime.IsZero() && !got.mtime.Equal(want.mtime) {
			return fmt.Errorf("%s is %s, expected %s", path, got, want)
		}
		return nil
	})
	if err == nil && found != len(t) {
		err = fmt.Errorf("%s has %d entries, expected %d", dir, found, len(t))
	}
	if err != nil {
		return fmt.Errorf("the deployment is wrong: %w", err)
	}
	return nil
}

func checksum(path string, buffer []byte) (size int64, sum uint32, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for {
		n, err := f.Read(buffer)
		size += int64(n)
		sum = crc32.Update(sum, crc32.IEEETable, buffer[:n])
		if err == io.EOF {
			return size, sum, nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// packer writes a tar and records its entries.
type packer struct {
	w     *tar.Writer
	tree  tree
	spoil int // every so many files, one gets another last byte, unless it is 0
	files int
}

// pack creates a tar at path from the entries that fill adds.
func pack(ctx context.Context, path string, fill func(*packer) error) (tree, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(interruptible{ctx, f}, 1<<20)
	p := &packer{w: tar.NewWriter(buffered), tree: tree{}}
	if err := p.dir(".", someTime); err != nil {
		return nil, err
	}
	if err := fill(p); err != nil {
		return nil, err
	}
	return p.tree, errors.Join(p.w.Close(), buffered.Flush(), f.Close())
}

// interruptible is a writer whose writes fail after ctx is done.
type interruptible struct {
	ctx context.Context
	io.Writer
}

func (w interruptible) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// someTime is the modification time of generated files.
var someTime = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

func (p *packer) dir(name string, mtime time.Time) error {
	p.tree[name] = entry{mode: fs.ModeDir | 0o755, mtime: mtime}
	path := "./"
	if name != "." {
		path += name + "/"
	}
	return p.w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: path, Mode: 0o755, ModTime: mtime,
		Uid: os.Geteuid(), Gid: os.Getegid(),
	})
}

func (p *packer) file(name string, mode fs.FileMode, mtime time.Time, size int64, content io.Reader) error {
	err := p.w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "./" + name, Mode: int64(mode), ModTime: mtime, Size: size,
		Uid: os.Geteuid(), Gid: os.Getegid(),
	})
	if err != nil {
		return err
	}
	if p.files++; p.spoil > 0 && p.files%p.spoil == 0 && size > 0 {
		content = io.MultiReader(io.LimitReader(content, size-1), strings.NewReader("\xff"))
	}
	sum := crc32.NewIEEE()
	if _, err := io.CopyN(io.MultiWriter(p.w, sum), content, size); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	p.tree[name] = entry{mode: mode, mtime: mtime, size: size, sum: sum.Sum32()}
	return nil
}

// goTree returns a function that packs the tree of the Go toolchain in use, up to the
// size for which the goals were set. Modes and owners are adjusted so that any user can
// deploy the tree.
func (b *bench) goTree(ctx context.Context) (func(*packer) error, error) {
	const (
		mostFiles = 17_000
		mostBytes = 240 << 20
	)
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	root := strings.TrimSpace(string(out))
	return func(p *packer) error {
		var files, bytes int64
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			mtime := info.ModTime().Truncate(time.Second)
			switch {
			case d.IsDir():
				return p.dir(name, mtime)
			case !d.Type().IsRegular():
				return nil
			case b.scale > 1 && info.Size() > 64<<10:
				return nil // so that there are enough files
			}
			files++
			bytes += info.Size()
			if files > int64(mostFiles/b.scale) || bytes > int64(mostBytes/b.scale) {
				return fs.SkipAll
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return p.file(name, 0o644|info.Mode()&0o111, mtime, info.Size(), f)
		})
	}, nil
}

// packGoTree makes a tar of the tree of the Go toolchain in use, and returns its path.
func (b *bench) packGoTree(ctx context.Context) (path string, t tree, err error) {
	fill, err := b.goTree(ctx)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(b.dir, "go.tar")
	t, err = pack(ctx, path, fill)
	return path, t, err
}

// smallFiles packs n files of about 1 KB, a hundred per directory.
func (b *bench) smallFiles(n int) func(*packer) error {
	n = max(1, n/b.scale)
	return func(p *packer) error {
		content := text(uint64(n))
		for i := range n {
			dir := fmt.Sprintf("d%05d", i/100)
			if i%100 == 0 {
				if err := p.dir(dir, someTime); err != nil {
					return err
				}
			}
			size := int64(512 + i*37%1024)
			if err := p.file(fmt.Sprintf("%s/f%02d", dir, i%100), 0o644, someTime, size, content); err != nil {
				return err
			}
		}
		return nil
	}
}

// random returns an endless stream of incompressible bytes, the same in each run.
func random(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
}

// text returns an endless stream of bytes that compress to about half their
// size, the same in each run.
func text(seed uint64) io.Reader { return digits{random(seed)} }

type digits struct{ random io.Reader }

func (d digits) Read(p []byte) (int, error) {
	n, err := d.random.Read(p)
	for i := range n {
		p[i] = "0123456789abcdef"[p[i]&15]
	}
	return n, err
}

// archive is a packed, possibly compressed tree that can be deployed.
type archive struct {
	url  string
	path string
	sum  string // SHA-256 in hex
	size int64

	index     string // line of the manifest, if stretcher pack made the archive
	indexSize int64
}

// compress creates an archive by running the compression program on the file at
// path.
func compress(ctx context.Context, path, suffix, program string, args ...string) (archive, error) {
	out, err := os.Create(path + suffix)
	if err != nil {
		return archive{}, err
	}
	defer out.Close()
	cmd := command(ctx, program, append(args, path)...)
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return archive{}, fmt.Errorf("%s: %w", cmd, err)
	}
	return newArchive(out.Name())
}

func newArchive(path string) (archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return archive{}, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return archive{}, err
	}
	return archive{url: fileURL(path), path: path, sum: hex.EncodeToString(sum.Sum(nil)), size: size}, nil
}

// spoil changes the last byte of every nth file in dir in place. The size of the
// files does not change, so only comparing contents reveals the difference.
func spoil(dir string, nth int) error {
	i := 0
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if i++; i%nth != 0 {
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		last := make([]byte, 1)
		at := max(0, info.Size()-1)
		if _, err := f.ReadAt(last, at); err != nil && err != io.EOF {
			return err
		}
		last[0] ^= 1
		_, err = f.WriteAt(last, at)
		return err
	})
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
