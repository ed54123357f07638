package incremental

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// readHeaders returns the archive that the index describes, with the contents data.
func readHeaders(ctx context.Context, x *seekable.Index, data io.ReaderAt, limits archive.Limits) (*archive.Archive, error) {
	between, err := x.Between()
	if err != nil {
		return nil, err
	}
	defer between.Close()
	a, err := archive.IndexTar(ctx, &skeleton{between: between, pieces: x.Pieces, size: x.TarSize}, data, limits)
	if err != nil {
		return nil, fmt.Errorf("index of the archive: %w", err)
	}
	return a, nil
}

// skeleton reads a tar with zeros in the place of the pieces.
type skeleton struct {
	between io.Reader
	pieces  []seekable.Piece // not read yet
	offset  int64
	size    int64
}

func (s *skeleton) Read(p []byte) (int, error) {
	if s.offset == s.size {
		return 0, io.EOF
	}
	next := seekable.Piece{Offset: s.size}
	if len(s.pieces) > 0 {
		next = s.pieces[0]
	}
	if s.offset < next.Offset {
		n, err := s.between.Read(p[:min(int64(len(p)), next.Offset-s.offset)])
		s.offset += int64(n)
		if err == io.EOF && s.offset < s.size {
			err = io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			err = nil
		}
		return n, err
	}
	n := int(min(int64(len(p)), next.Offset+next.Size-s.offset))
	clear(p[:n])
	if s.offset += int64(n); s.offset == next.Offset+next.Size {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

// file is a file of the tar that has contents.
type file struct {
	path        string
	first, last int32  // of the pieces
	kept        bool   // the contents are to be read from the file of the older tree at this path
	mark        uint64 // of that file, see unchanging
}

// filesOf returns the files that have contents, in the order of the tar. It is an
// error if the contents of a file do not consist of pieces, or if a piece is anywhere
// else: the tar could then have other headers than those that were read. maxPaths
// limits the bytes of all paths together, which may be many times those of the index.
func filesOf(x *seekable.Index, tree *archive.Tree, maxPaths int64) ([]file, error) {
	type span struct {
		path       string
		start, end int64
	}
	var spans []span
	length := int64(0) // of all paths
	var walk func(dir string, e *archive.Entry)
	walk = func(dir string, e *archive.Entry) {
		for child := range e.Children() {
			if length > maxPaths {
				return
			}
			name := path.Join(dir, child.Name)
			length += int64(len(name))
			if child.IsDir() {
				walk(name, child)
			}
			if child.IsRegular() && child.StoredSize() > 0 {
				spans = append(spans, span{name, child.Offset, child.Offset + child.StoredSize()})
			}
		}
	}
	walk("", tree.Root)
	if length > maxPaths {
		return nil, fmt.Errorf("index of the archive: the paths of its files have more than %d bytes together", maxPaths)
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.path, b.path)) })
	files := make([]file, 0, len(spans))
	i, end := 0, int64(0)
	for n, s := range spans {
		if n > 0 && s.start == spans[n-1].start && s.end == end {
			continue // another name of the same file
		}
		first := i
		for end = s.start; i < len(x.Pieces) && x.Pieces[i].Offset == end && end+x.Pieces[i].Size <= s.end; i++ {
			end += x.Pieces[i].Size
		}
		if end != s.end {
			return nil, fmt.Errorf("index of the archive: it lacks pieces of %q", s.path)
		}
		files = append(files, file{path: s.path, first: int32(first), last: int32(i - 1)})
	}
	if i < len(x.Pieces) {
		return nil, errors.New("index of the archive: a piece is not in the contents of a file")
	}
	return files, nil
}
