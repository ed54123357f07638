package treesync

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	tDir, tSym, tFifo = tar.TypeDir, tar.TypeSymlink, tar.TypeFifo
)

// index indexes an archive.
func index(t testing.TB, data []byte) (*archive.Archive, error) {
	t.Helper()
	spool, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	if _, err := spool.Write(data); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Index(t.Context(), bytes.NewReader(data), spool, archive.Limits{})
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

func mustIndex(t testing.TB, data []byte) *archive.Archive {
	t.Helper()
	a, err := index(t, data)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// syncBytes syncs an archive to dest, and returns what that listed and logged.
func syncBytes(t testing.TB, o Options, data []byte, dest string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	o.Mode, o.List, o.log = 0o755, &out, log.New(&out, "", 0)
	err := Sync(t.Context(), mustIndex(t, data), dest, o)
	if left, _ := filepath.Glob(filepath.Join(dest, unixfs.TempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return out.String(), err
}

// syncByTools syncs an archive to dest by tar(1) and rsync(1), and returns the
// paths that rsync lists. args are further arguments of rsync.
func syncByTools(t testing.TB, o Options, data []byte, dest string, args ...string) (string, error) {
	t.Helper()
	staging := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(staging, 0o755); err != nil {
		t.Fatal(err)
	}
	defer unixfs.RemoveTree(staging)
	if err := tartest.Extract(t, data, staging); err != nil {
		t.Fatal(err)
	}
	args = append(args, "-a", "--delete", "--out-format=%n%L")
	if o.ExcludeFrom != "" {
		args = append(args, "--exclude-from="+filepath.Join(staging, o.ExcludeFrom))
	}
	for _, pattern := range o.Excludes {
		args = append(args, "--exclude="+pattern)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("rsync", append(args, staging+"/", dest+"/")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

// sparseArchive is an archive of sparse files, in the format that tar(1) makes
// with options.
type sparseArchive struct {
	options string
	data    []byte
}

// sparseArchives packs sparse files by tar(1) in each of its formats.
func sparseArchives(t testing.TB) []sparseArchive {
	t.Helper()
	dir := t.TempDir()
	many := []archive.Segment{}
	for i := range int64(300) {
		many = append(many, archive.Segment{Offset: i << 14, Length: 1 + i})
	}
	// A segment of length 0 at the end sets the size.
	for name, segments := range map[string][]archive.Segment{
		"hole":       {{Offset: 1 << 16}},
		"end":        {{Offset: 1 << 20, Length: 5}},
		"start":      {{Length: 5}, {Offset: 3 << 20}},
		"some":       {{Offset: 4096, Length: 4096}, {Offset: 65536, Length: 100}, {Offset: 1 << 30, Length: 7}, {Offset: 2 << 30}},
		"many":       many,
		"more names": {{Offset: 8192, Length: 8192}},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, seg := range segments {
			if _, err := f.WriteAt(bytes.Repeat([]byte{'x'}, int(seg.Length)), seg.Offset); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(seg.Offset + seg.Length); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	var made []sparseArchive
	for _, options := range [][]string{
		{"--format=gnu"}, {"--format=oldgnu"},
		{"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"},
	} {
		args := append([]string{"-C", dir, "-S", "--mtime=@1000000000", "-cf", "-"}, options...)
		data, err := exec.Command("tar", append(args, ".")...).Output()
		if err != nil {
			t.Fatalf("tar %v: %v", args, err)
		}
		made = append(made, sparseArchive{options[len(options)-1], data})
	}
	return made
}

// file is a file that makeFiles creates.
type file struct {
	path string // with a slash at the end for a directory
	body string // "-> target" for a symbolic link, "fifo" for a fifo
	mode os.FileMode
}

func makeFiles(t testing.TB, dir string, files ...file) {
	t.Helper()
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		parents := []string{filepath.Dir(path)}
		if strings.HasSuffix(f.path, "/") {
			parents = append(parents, path)
		}
		var err error
		for _, parent := range parents {
			err = errors.Join(err, os.MkdirAll(parent, 0o755))
		}
		mode := f.mode
		switch {
		case strings.HasSuffix(f.path, "/"):
			if mode != 0 {
				err = errors.Join(err, os.Chmod(path, mode))
			}
		case strings.HasPrefix(f.body, "-> "):
			err = errors.Join(err, os.Symlink(f.body[3:], path))
		case f.body == "fifo":
			err = errors.Join(err, unix.Mkfifo(path, 0o644))
		default:
			if mode == 0 {
				mode = 0o644
			}
			err = errors.Join(err, os.WriteFile(path, []byte(f.body), 0o644), os.Chmod(path, mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	setOldTimes(t, dir)
}

// setOldTimes sets the times of dir and of all files in it to 2000-01-01, so that
// a later change shows in the time.
func setOldTimes(t testing.TB, dir string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(tartest.Snapshot(t, dir)))
	ts := unix.Timespec{Sec: 946684800}
	for _, name := range slices.Backward(names) {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

// copyTree makes an exact copy, hard links and times included.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}
