// Package tartest helps tests to make trees and tar archives, and to compare what
// archives are extracted to, with tar(1) as the oracle.
package tartest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Time is the modification time of members. It is far in the past, so that it
// differs from the times of files that the test creates without setting a time.
var Time = time.Unix(1000000000, 123456789)

// Member describes a tar entry in short. A Type of 0 is a regular file.
type Member struct {
	Name string
	Type byte
	Body string // a regular file's contents, or a link's target
	Mode int64  // 0 is 0644, for directories 0755
}

// Header returns the tar header of the member.
func (m Member) Header() *tar.Header {
	hdr := &tar.Header{Name: m.Name, Typeflag: m.Type, Mode: m.Mode, ModTime: Time}
	switch m.Type {
	case 0, tar.TypeReg, tar.TypeCont:
		hdr.Size = int64(len(m.Body))
	case tar.TypeLink, tar.TypeSymlink:
		hdr.Linkname = m.Body
	}
	if m.Mode == 0 {
		hdr.Mode = 0o644
		if m.Type == tar.TypeDir {
			hdr.Mode = 0o755
		}
	}
	return hdr
}

// Make returns a tar of the members.
func Make(t testing.TB, members ...Member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		hdr := m.Header()
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if hdr.Size > 0 {
			if _, err := io.WriteString(w, m.Body); err != nil {
				t.Fatalf("%+v: %v", m, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// MakeHeaders returns a tar of the headers, without data for any of them.
func MakeHeaders(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, hdr := range headers {
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // an error: the data is missing
	return b.Bytes()
}

// Text returns size bytes that compress about as well as text does.
func Text(rng *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		b = fmt.Appendf(b, "%x and %x, ", rng.IntN(1e6), rng.IntN(1e6))
	}
	return b[:size]
}

// WriteFile writes a file at a path below dir, and makes its directories.
func WriteFile(t testing.TB, dir, name string, contents []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, contents, 0o644); err != nil {
		t.Fatal(err)
	}
}

// NamesIn returns the names in a directory, in their order.
func NamesIn(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// PipeThrough returns what a command writes to its standard output when it reads
// data from its standard input.
func PipeThrough(t testing.TB, data []byte, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return out
}

// Extract extracts an archive to dir by tar(1). The error has what tar wrote.
func Extract(t testing.TB, data []byte, dir string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "xf", file, "-C", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// MountTmpfs mounts a tmpfs with the options of mount(8), such as "size=256k", until
// the test ends, and returns the directory. It skips the test without root.
func MountTmpfs(t testing.TB, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("only root can mount a small file system: %v", err)
	}
	unmountAfter(t, dir)
	return dir
}

// BindMount makes the directory to show what is in the directory from, until the test
// ends. It skips the test without root.
func BindMount(t testing.TB, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("only root can mount a directory: %v", err)
	}
	unmountAfter(t, to)
}

// MountXFS mounts a new file system on which files can share blocks, until the test
// ends, and returns the directory. It skips the test without root, mkfs.xfs or loop
// devices.
func MountXFS(t testing.TB) string {
	t.Helper()
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for _, command := range [][]string{
		{"truncate", "-s", "320M", image}, // the least that mkfs.xfs takes is 300M
		{"mkfs.xfs", "-q", "-m", "reflink=1", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("only root can mount an image, and mkfs.xfs makes it: %v: %v %s", command, err, out)
		}
	}
	unmountAfter(t, dir)
	return dir
}

// unmountAfter unmounts what is mounted on dir when the test has ended.
func unmountAfter(t testing.TB, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// RawHeader returns a ustar header block whose type and size need not make sense,
// for headers that archive/tar refuses to write.
func RawHeader(name string, typ byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, Time.Unix()))
	h[156] = typ
	copy(h[257:], "ustar\x0000")
	setHeaderSum(h)
	return h
}

// WithLink sets the link target of a header block, and returns the block.
func WithLink(h []byte, target string) []byte {
	copy(h[157:], target)
	setHeaderSum(h)
	return h
}

// WithField sets a field of a header block that begins at an offset, and returns the
// block, with what follows it.
func WithField(h []byte, offset int, field string) []byte {
	copy(h[offset:512], field)
	setHeaderSum(h[:512])
	return h
}

// WithSignedSum sets the checksum of a header block as old programs do that add
// up signed bytes, and returns the block, with what follows it.
func WithSignedSum(h []byte) []byte {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h[:512] {
		sum += int(int8(c))
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// WithGNUSparse makes a header block the one of a sparse file in the old format
// of GNU tar: with size bytes, of which length are stored that begin at offset.
func WithGNUSparse(h []byte, size, offset, length int64) []byte {
	copy(h[257:], "ustar  \x00")
	copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", offset, length))
	copy(h[483:], fmt.Sprintf("%011o\x00", size))
	setHeaderSum(h)
	return h
}

// setHeaderSum sets the checksum of a header block, which counts itself as
// spaces.
func setHeaderSum(h []byte) {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// PAXRecord returns a record of a PAX header: its length, the key and the value.
func PAXRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for len(strconv.Itoa(n))+len(key)+len(value)+3 != n {
		n++
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// Snapshot describes dir and all files below it, with a line for each name. All
// times of the last day are the same to it, because these are the times of files that
// the test has created without setting one.
func Snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	inodes := map[uint64]string{}
	lines := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		mtime := time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano)
		if time.Since(time.Unix(st.Mtim.Unix())) < 24*time.Hour {
			mtime = "now"
		}
		line := fmt.Sprintf("mode %o owner %d:%d mtime %s", st.Mode, st.Uid, st.Gid, mtime)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data := []byte("(large)")
			if st.Size < 64<<20 {
				if data, err = os.ReadFile(path); err != nil {
					return err
				}
			}
			line += fmt.Sprintf(" size %d sum %x", st.Size, sha256.Sum256(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %x", st.Rdev)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if inodes[st.Ino] == "" {
				inodes[st.Ino] = name
			}
			line += fmt.Sprintf(" links %d with %s", st.Nlink, inodes[st.Ino])
		}
		lines[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// CompareTrees fails the test for every name below two directories whose
// Snapshot differs.
func CompareTrees(t testing.TB, want, got string) {
	t.Helper()
	CompareSnapshots(t, Snapshot(t, want), Snapshot(t, got))
}

// CompareSnapshots fails the test for every name that differs between two
// Snapshots.
func CompareSnapshots(t testing.TB, want, got map[string]string) {
	t.Helper()
	names := maps.Clone(want)
	maps.Copy(names, got)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if want[name] != got[name] {
			t.Errorf("%s:\n want %s\n got  %s", name, want[name], got[name])
		}
	}
}
