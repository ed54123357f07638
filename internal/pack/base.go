package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Base is an older version of a tree.
type Base struct {
	// Name is what the base is called in errors and the log.
	Name string

	archive *archive.Archive // nil for a directory
	files   map[string]*oldFile
	// The files by their paths, and by their base names, without the digits in them:
	// many names contain a version. They are for files of which the base has none at
	// the same path.
	byPath, byName map[string]*oldFile
	whole          map[seekable.Sum]bool // the digests of the files
}

// oldFile is a regular file of a base.
type oldFile struct {
	path string
	size int64
	open func() (io.ReaderAt, io.Closer, error)
	sum  seekable.Sum
}

// ambiguous takes the place of several files with the same key.
var ambiguous = &oldFile{}

// OpenBase returns the base at a path or a URL: a directory or an archive of any
// format.
func OpenBase(ctx context.Context, from string, o fetch.Options) (*Base, error) {
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		return DirBase(ctx, from)
	}
	url, err := fetch.ArgumentURL(from)
	if err != nil {
		return nil, err
	}
	file, err := unixfs.TempFile()
	if err != nil {
		return nil, err
	}
	var a *archive.Archive
	_, err = fetch.Download(ctx, url, file, o, func(arriving io.Reader) (err error) {
		a.Close() // nil, or that of a download that was started over
		a, err = archive.Index(ctx, arriving, file, archive.Limits{})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, a.Close(), file.Close())
	}
	a.TakeOver(file)
	return archiveBase(ctx, redact.URL(from), a)
}

// Close frees the archive, if the base is one.
func (b *Base) Close() error {
	if b.archive == nil {
		return nil
	}
	return b.archive.Close()
}

// DirBase returns the files below a directory as a base.
func DirBase(ctx context.Context, dir string) (*Base, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	// The files are opened later, by their whole path.
	defer root.Close()
	var files []*oldFile
	err = unixfs.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, &oldFile{path: name, size: info.Size(), open: func() (io.ReaderAt, io.Closer, error) {
			f, err := openUnchanged(path.Join(dir, name), info)
			return f, f, err
		}})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return newBase(ctx, dir, files)
}

// openUnchanged opens a file, which must be what it was when it was listed: hosts could
// not use a patch that was made against other contents than those that were hashed.
func openUnchanged(name string, listed fs.FileInfo) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a fifo by now
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && !sameFile(listed, now) {
		err = fmt.Errorf("%s changed while it was read: give a base that nothing writes to", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// archiveBase returns the files of an archive as a base, which owns the archive.
func archiveBase(ctx context.Context, name string, a *archive.Archive) (*Base, error) {
	var files []*oldFile
	var add func(dir string, e *archive.Entry)
	add = func(dir string, e *archive.Entry) {
		for child := range e.Children() {
			name := path.Join(dir, child.Name)
			add(name, child)
			if !child.IsRegular() || child.Segments() != nil {
				continue
			}
			section := io.NewSectionReader(a.Data(), child.Offset, child.Size)
			files = append(files, &oldFile{path: name, size: child.Size, open: func() (io.ReaderAt, io.Closer, error) {
				return section, io.NopCloser(nil), nil
			}})
		}
	}
	add("", a.Tree.Root)
	b, err := newBase(ctx, name, files)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	b.archive = a
	return b, nil
}

func newBase(ctx context.Context, name string, files []*oldFile) (*Base, error) {
	b := &Base{Name: name, files: map[string]*oldFile{}, byPath: map[string]*oldFile{}, byName: map[string]*oldFile{}, whole: map[seekable.Sum]bool{}}
	var total int64
	for _, f := range files {
		total += f.size
	}
	step := progress.Reporter{}.Start("Reading "+redact.Printable(name), func() (files, bytes int64) { return 0, total })
	defer step.End()
	if err := hashAll(ctx, files, step); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	for _, f := range files {
		b.files[f.path] = f
		b.whole[f.sum] = true
		addOnce(b.byPath, withoutDigits(f.path), f)
		addOnce(b.byName, withoutDigits(path.Base(f.path)), f)
	}
	return b, nil
}

// addOnce adds a file under a key, or ambiguous if the key has a file already.
func addOnce(to map[string]*oldFile, key string, f *oldFile) {
	if to[key] != nil {
		f = ambiguous
	}
	to[key] = f
}

func withoutDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// find returns the older version of a file, nil if there is none.
func (b *Base) find(name string) *oldFile {
	if f := b.files[name]; f != nil {
		return f
	}
	if f := b.byPath[withoutDigits(name)]; f != nil && f != ambiguous {
		return f
	}
	if f := b.byName[withoutDigits(path.Base(name))]; f != nil && f != ambiguous {
		return f
	}
	return nil
}

// hashAll sets the digests of files, on all processors. It ends with the first error,
// or with ctx.
func hashAll(ctx context.Context, files []*oldFile, done *progress.Step) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var hashing sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		hashing.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(files)) {
					return
				}
				if err := files[i].hash(ctx); err != nil {
					cancel(err) // the first one counts
					return
				}
				done.AddBytes(files[i].size)
			}
		})
	}
	hashing.Wait()
	return context.Cause(ctx)
}

// hash sets the digest of the file.
func (f *oldFile) hash(ctx context.Context) error {
	sum := sha256.New()
	err := f.scan(ctx, func(b []byte) int {
		sum.Write(b)
		return len(b)
	})
	f.sum = seekable.Sum(sum.Sum(nil))
	return err
}

// chunks returns the digests of the chunks of the file.
func (f *oldFile) chunks(ctx context.Context) (map[seekable.Sum]bool, error) {
	chunks := map[seekable.Sum]bool{}
	err := f.scan(ctx, func(b []byte) int {
		n := seekable.Cut(b)
		chunks[seekable.SumOf(b[:n])] = true
		return n
	})
	return chunks, err
}

// scan calls take with the contents of the file from the start on, MaxChunk bytes at a
// time, or what is left of them. take returns how many of them it is done with.
func (f *oldFile) scan(ctx context.Context, take func([]byte) int) error {
	in, closer, err := f.open()
	if err != nil {
		return err
	}
	defer closer.Close()
	buf := make([]byte, min(f.size, seekable.MaxChunk))
	for offset := int64(0); offset < f.size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), f.size-offset)]
		if err := readAt(in, b, offset); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		offset += int64(take(b))
	}
	return nil
}
