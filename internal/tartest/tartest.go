// Package tartest helps tests to make tar archives and to compare what becomes of
// them on disk, with tar(1) as the reference.
package tartest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Time is the modification time of members. It lies far in the past, so that it
// can be told from the time of the test.
var Time = time.Unix(1000000000, 123456789)

// Member is a tar entry in brief; the zero type is a regular file.
type Member struct {
	Name string
	Type byte
	Body string // a regular file's contents, or a link's target
	Mode int64  // 0 is 0644, for directories 0755
}

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
			io.WriteString(w, m.Body)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func MakeHeaders(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, hdr := range headers {
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

// PipeThrough is what a command writes when it reads data.
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

// Extract runs tar(1) in dir and returns its error, with what it said.
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

// MountTmpfs mounts a small file system of the test's own.
func MountTmpfs(t testing.TB, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("only root can mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// RawHeader is a header block as archive/tar would not write it.
func RawHeader(name string, typ byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, Time.Unix()))
	copy(h[148:], "        ")
	h[156] = typ
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func PAXRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for len(strconv.Itoa(n))+len(key)+len(value)+3 != n {
		n++
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

func WithLink(h []byte, target string) []byte {
	copy(h[157:], target)
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// Snapshot describes the files below dir, a line each. Times of the test
// itself are all the same to it: those of directories that no entry describes.
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

func CompareTrees(t testing.TB, want, got string) {
	t.Helper()
	CompareSnapshots(t, Snapshot(t, want), Snapshot(t, got))
}

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
