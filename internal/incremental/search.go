package incremental

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// had is what an older tree has of what is wanted.
type had struct {
	root   *os.Root     // nil if there is no older tree
	budget atomic.Int64 // bytes that may still be hashed
	wanted map[seekable.Sum]bool
	bases  map[baseKey]bool // the older files that patches were made against

	mu     sync.Mutex
	places map[seekable.Sum]place // of wanted contents
	whole  map[baseKey]string     // the paths of bases
}

type baseKey struct {
	size int64
	sum  seekable.Sum
}

// place is where contents are in the older tree.
type place struct {
	path   string
	offset int64
}

// search looks for contents in an older tree.
func search(ctx context.Context, x *seekable.Index, files []file, older string) (*had, error) {
	// dest may have far more than what is deployed there: logs, uploads, databases.
	// To read all of it would take longer than any download.
	h := &had{wanted: map[seekable.Sum]bool{}, bases: map[baseKey]bool{}, places: map[seekable.Sum]place{}, whole: map[baseKey]string{}}
	h.budget.Store(2*x.TarSize + 16<<20)
	sizes := map[int64]bool{} // of files that are worth reading; larger ones than a chunk all are
	for _, p := range x.Pieces {
		h.wanted[p.Sum] = true
	}
	for _, f := range files {
		if f.first == f.last {
			sizes[x.Pieces[f.first].Size] = true
		}
	}
	candidates := make([]string, 0, len(files))
	for _, f := range files {
		candidates = append(candidates, f.path)
	}
	for _, p := range x.Patches {
		if p.Base == (seekable.Base{}) {
			continue
		}
		h.bases[baseKey{p.Base.FileSize, p.Base.FileSum}] = true
		sizes[p.Base.FileSize] = true
		if p.Base.Path != "" {
			candidates = append(candidates, p.Base.Path)
		}
	}
	root, err := os.OpenRoot(older)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	h.root = root
	seen := make(map[string]bool, len(candidates))
	var todo []string
	add := func(path string) {
		if !seen[path] {
			seen[path] = true
			todo = append(todo, path)
		}
	}
	for _, path := range candidates {
		add(path)
	}
	err = h.hashAll(ctx, todo, sizes)
	if err == nil && len(h.places) < len(h.wanted) {
		todo = todo[:0]
		if err = h.walk(ctx, sizes, add); err == nil {
			err = h.hashAll(ctx, todo, sizes)
		}
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// walk calls add with the paths of all files that are worth reading, until there are
// more of them than may be read. It does not enter other file systems. What cannot be
// read is not there.
func (h *had) walk(ctx context.Context, sizes map[int64]bool, add func(path string)) error {
	top, err := h.root.Stat(".")
	if err != nil {
		return err
	}
	left, visits := h.budget.Load(), maxVisits
	return unixfs.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if visits--; visits < 0 || left <= 0 {
			return fs.SkipAll
		}
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		switch {
		case err != nil:
		case d.IsDir() && deviceOf(info) != deviceOf(top):
			return fs.SkipDir
		case !d.IsDir() && worthReading(info.Size(), sizes):
			left -= info.Size()
			add(path)
		}
		return nil
	})
}

// maxVisits is how many files of the older tree are looked at, beyond those of the
// paths that the archive names.
const maxVisits = 1 << 20

func deviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}

// worthReading reports whether a file of a size may have wanted contents.
func worthReading(size int64, sizes map[int64]bool) bool {
	return size > seekable.MaxChunk || size > 0 && sizes[size]
}

func (h *had) close() {
	if h.root != nil {
		h.root.Close()
	}
}

// hashAll hashes files at paths where a regular file of one of the sizes, or a
// large one, is.
func (h *had) hashAll(ctx context.Context, paths []string, sizes map[int64]bool) error {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		wg.Go(func() {
			buf := make([]byte, seekable.MaxChunk)
			for i := worker; i < len(paths) && ctx.Err() == nil; i += workers {
				h.hashFile(ctx, paths[i], sizes, buf)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// hashFile hashes a file. One that cannot be read is of no use; another error will
// say so if it matters.
func (h *had) hashFile(ctx context.Context, path string, sizes map[int64]bool, buf []byte) {
	in, size, err := h.open(path)
	if err != nil {
		return
	}
	defer in.Close()
	if !worthReading(size, sizes) {
		return
	}
	if h.budget.Add(-size) < 0 {
		h.budget.Add(size) // a smaller one may still fit
		return
	}
	var whole hash.Hash
	if size > seekable.MaxChunk && sizes[size] {
		whole = sha256.New()
	}
	n := 0 // bytes in buf
	for offset := int64(0); offset < size && ctx.Err() == nil; {
		want := int(min(int64(len(buf)), size-offset))
		if _, err := io.ReadFull(in, buf[n:want]); err != nil {
			return // it has become shorter
		}
		chunk := buf[:seekable.Cut(buf[:want])]
		if size <= seekable.MaxChunk {
			chunk = buf[:size]
		}
		sum := seekable.SumOf(chunk)
		h.add(sum, place{path, offset})
		if size <= seekable.MaxChunk {
			h.addBase(baseKey{size, sum}, path)
		}
		if whole != nil {
			whole.Write(chunk)
		}
		offset += int64(len(chunk))
		n = copy(buf, buf[len(chunk):want])
	}
	if whole != nil && ctx.Err() == nil {
		h.addBase(baseKey{size, seekable.Sum(whole.Sum(nil))}, path)
	}
}

func (h *had) add(sum seekable.Sum, at place) {
	if !h.wanted[sum] {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.places[sum]; !ok {
		h.places[sum] = at
	}
}

func (h *had) addBase(key baseKey, path string) {
	if !h.bases[key] {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole[key] = path
}

// open opens a regular file of the older tree.
func (h *had) open(path string) (*os.File, int64, error) {
	info, err := h.root.Lstat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	in, err := h.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	if info, err = in.Stat(); err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		in.Close()
		return nil, 0, err
	}
	return in, info.Size(), nil
}

// write copies the contents that the older tree has to the tar.
func (h *had) write(ctx context.Context, x *seekable.Index, tar io.WriterAt) error {
	// By file, so that each is opened once.
	byPath := map[string][]seekable.Piece{}
	var paths []string
	for _, p := range x.Pieces {
		at, ok := h.places[p.Sum]
		if !ok {
			continue
		}
		if byPath[at.path] == nil {
			paths = append(paths, at.path)
		}
		byPath[at.path] = append(byPath[at.path], p)
	}
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			buf := make([]byte, seekable.MaxChunk)
			for i := worker; i < len(paths) && errs[worker] == nil; i += workers {
				if errs[worker] = context.Cause(ctx); errs[worker] == nil {
					errs[worker] = h.copy(paths[i], byPath[paths[i]], tar, buf)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// copy copies pieces from a file to the tar.
func (h *had) copy(path string, pieces []seekable.Piece, tar io.WriterAt, buf []byte) error {
	in, _, err := h.open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	for _, p := range pieces {
		b := buf[:p.Size]
		if _, err := in.ReadAt(b, h.places[p.Sum].offset); err != nil && err != io.EOF {
			return err
		}
		if err := writePiece(tar, p, b); err != nil {
			return fmt.Errorf("%s changed while it was read: %w", path, err)
		}
	}
	return nil
}

var errPiece = errors.New("contents do not have the digest that the archive's index says")

// writePiece writes a piece to the tar.
func writePiece(tar io.WriterAt, p seekable.Piece, contents []byte) error {
	if seekable.SumOf(contents) != p.Sum {
		return errPiece
	}
	_, err := tar.WriteAt(contents, p.Offset)
	return err
}
