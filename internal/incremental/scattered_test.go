package incremental

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// The time to read a file does not grow with the number of new files after it: to
// deploy 200,000 new files took seven minutes.
func TestManyNewFiles(t *testing.T) {
	t.Parallel()
	const n = 200_000
	tar, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tar.Truncate(n * 1024); err != nil {
		t.Fatal(err)
	}
	s := &scattered{index: &seekable.Index{TarSize: n * 1024}, tar: tar}
	defer s.Close()
	for i := range int32(n) {
		s.index.Pieces = append(s.index.Pieces, seekable.Piece{Offset: 512 + 1024*int64(i), Size: 1})
		s.files = append(s.files, file{first: i, last: i})
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration { // of a processor, which other tests may keep busy
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start, b := used(), make([]byte, 1)
	for i := range n / 10 {
		if m, err := s.ReadAt(b, s.start(&s.files[i])); m != 1 || err != nil {
			t.Fatalf("%d bytes, %v", m, err)
		}
		if took := used() - start; took > 3*time.Second {
			t.Fatalf("%s for %d of %d files", took, i+1, n)
		}
	}
}

// An error that has nothing to do with a change of the older tree is not taken for one:
// to download the whole archive would not help. The test must not run in parallel with
// others, which could open no file.
func TestReadErrorIsNoChange(t *testing.T) {
	older := t.TempDir()
	tartest.WriteFile(t, older, "file", tartest.Text(rand.New(rand.NewPCG(7, 7)), 5000))
	v := packed(t, older)
	a, _, err := Open(t.Context(), v.index, Options{Older: older, Size: 1 << 20}, v.fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	e, err := a.Tree.LookUp("file")
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = a.Data().ReadAt(make([]byte, e.Size), e.Offset)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrChanged) || !strings.HasPrefix(err.Error(), "read file: ") {
		t.Errorf("too many open files: %v", err)
	}
	for _, errno := range []unix.Errno{unix.EIO, unix.ENFILE, unix.ENOMEM} {
		if err := readError("file", &os.PathError{Op: "open", Path: "dest", Err: errno}); errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	}
}

// A temporary file that is too short is not taken for a change of the older tree.
func TestTempFileIsNotOlder(t *testing.T) {
	t.Parallel()
	x := &seekable.Index{TarSize: 1024, Pieces: []seekable.Piece{{Offset: 512, Size: 8}}}
	s := scatteredOver(t, t.TempDir(), x, file{path: "file"})
	var err error
	if s.tar, err = unixfs.TempFile(); err != nil { // it is empty
		t.Fatal(err)
	}
	defer s.tar.Close()
	err = s.writeTar(t.Context(), bytes.NewReader(make([]byte, 1024)), io.Discard)
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrChanged) {
		t.Error(err)
	}
}

// The error of a full TMPDIR says how much space is needed there, before anything is
// fetched.
func TestNoRoom(t *testing.T) {
	dir := tartest.MountTmpfs(t, "size=64k")
	t.Setenv("TMPDIR", dir)
	tree := t.TempDir()
	contents := tartest.Text(rand.New(rand.NewPCG(8, 8)), 1<<20)
	tartest.WriteFile(t, tree, "file", contents)
	v := packed(t, tree)
	_, _, err := Open(t.Context(), v.index, Options{Older: t.TempDir(), Size: 1 << 30}, nil)
	want := "what is fetched or copied from dest needs at least 1.0 MiB in " + dir + ", which has 64 KiB left (free some, or set TMPDIR"
	if !errors.Is(err, unix.ENOSPC) || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
}
