package treesync

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

func TestSyncDest(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "a", Body: "new"})
	t.Run("symlink", func(t *testing.T) {
		base := t.TempDir()
		makeFiles(t, base, file{path: "real/old"}, file{path: "dest", body: "-> real"})
		if _, err := syncBytes(t, Options{}, data, filepath.Join(base, "dest")); err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(filepath.Join(base, "dest")); err != nil || target != "real" {
			t.Errorf("dest is %q, %v", target, err)
		}
		if got := slices.Sorted(maps.Keys(tartest.Snapshot(t, filepath.Join(base, "real")))); !slices.Equal(got, []string{".", "a"}) {
			t.Errorf("dest has %q", got)
		}
	})
	t.Run("dangling symlink", func(t *testing.T) {
		base := t.TempDir()
		makeFiles(t, base, file{path: "dest", body: "-> real"})
		if _, err := syncBytes(t, Options{}, data, filepath.Join(base, "dest")); err == nil {
			t.Error("no error")
		}
	})
	t.Run("missing", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		var logged bytes.Buffer
		if err := Sync(t.Context(), mustIndex(t, data), dest, Options{Mode: 0o2711, log: log.New(&logged, "", 0)}); err != nil {
			t.Fatal(err)
		}
		// Without a list, the log tells nothing but the summary.
		if want := fmt.Sprintf("Synced to %s: 1 created, 0 changed, 0 deleted, 0 unchanged, 3 B written, put in place within ", dest); !strings.HasPrefix(logged.String(), want) {
			t.Errorf("logged %q, expected %q", logged.String(), want)
		}
		if info, err := os.Stat(dest); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o711 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	t.Run("two levels missing", func(t *testing.T) {
		base := t.TempDir()
		if _, err := syncBytes(t, Options{}, data, filepath.Join(base, "two", "dest")); err == nil || !strings.Contains(err.Error(), "its parent directory "+base+"/two does not exist: create it") {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(base, "two")); err == nil {
			t.Error("the parent was made")
		}
	})
	t.Run("file", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		if err := os.WriteFile(dest, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := syncBytes(t, Options{}, data, dest); err == nil {
			t.Error("no error")
		}
		if got, err := os.ReadFile(dest); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestSyncExcludeFrom(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		from string
		want string // of the error; "" for none
	}{
		{"rules", ""}, {"/rules", ""}, {"./d/../rules", ""}, {"inside", ""}, {"d/rules", ""}, {"all/rules", ""}, {"d/up", ""},
		{"missing", "does not exist"}, {"d", "not a regular file"}, {".", "not a regular file"}, {"outside", "symbolic link"}, {"absolute", "symbolic link"},
		{"loop", "too many levels"}, {"bad", "no pattern"}, {"rules/x", "not a directory"},
	} {
		data := tartest.Make(t, tartest.Member{Name: "rules", Body: "*.pid\n"}, tartest.Member{Name: "d/rules", Body: "*.pid\n"}, tartest.Member{Name: "bad", Body: "x\n+ \n"},
			tartest.Member{Name: "inside", Type: tSym, Body: "d/rules"}, tartest.Member{Name: "all", Type: tSym, Body: "d"}, tartest.Member{Name: "outside", Type: tSym, Body: "../x"}, tartest.Member{Name: "d/up", Type: tSym, Body: "../all/../rules"},
			tartest.Member{Name: "absolute", Type: tSym, Body: "/etc/passwd"}, tartest.Member{Name: "loop", Type: tSym, Body: "loop"})
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, file{path: "x.pid"}, file{path: "y"})
		before := tartest.Snapshot(t, dest)
		_, err := syncBytes(t, Options{ExcludeFrom: test.from}, data, dest)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "exclude_from") {
				t.Errorf("%s: %v", test.from, err)
			}
			tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.from, err)
		}
		if _, err := os.Stat(filepath.Join(dest, "x.pid")); err != nil {
			t.Errorf("%s: %v", test.from, err)
		}
		if _, err := os.Stat(filepath.Join(dest, "y")); err == nil {
			t.Errorf("%s: y is still there", test.from)
		}
	}
}

// With a default ACL the kernel ignores the umask. The archive's modes apply
// nevertheless.
func TestSyncUnderDefaultACL(t *testing.T) {
	t.Parallel()
	for name, perms := range map[string][3]byte{"strict": {7, 5, 0}, "wide": {7, 7, 7}} {
		dest := filepath.Join(t.TempDir(), "dest")
		if err := os.Mkdir(dest, 0o755); err != nil {
			t.Fatal(err)
		}
		// This is the kernel's struct posix_acl_xattr_header, with version 2, and
		// for the owner, the group and the others a posix_acl_xattr_entry: tag,
		// permissions and ID.
		acl := []byte{2, 0, 0, 0}
		for i, tag := range []byte{0x01, 0x04, 0x20} {
			acl = append(acl, tag, 0, perms[i], 0, 0xff, 0xff, 0xff, 0xff)
		}
		if err := unix.Setxattr(dest, "system.posix_acl_default", acl, 0); err == unix.EOPNOTSUPP {
			t.Skip("no ACLs in the directory for temporary files")
		} else if err != nil {
			t.Fatal(err)
		}
		want := map[string]os.FileMode{"f": 0o644, "x": 0o755, "secret": 0o600, "d": 0o755, "d/g": 0o644, "implicit/h": 0o644, "implicit": 0o777 &^ os.FileMode(unixfs.Umask())}
		data := tartest.Make(t, tartest.Member{Name: "f", Mode: 0o644}, tartest.Member{Name: "x", Mode: 0o755}, tartest.Member{Name: "secret", Mode: 0o600},
			tartest.Member{Name: "d/", Type: tDir, Mode: 0o755}, tartest.Member{Name: "d/g", Mode: 0o644}, tartest.Member{Name: "implicit/h", Mode: 0o644})
		check := func(dir string) {
			t.Helper()
			for path, mode := range want {
				if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %s: %v, %v, want %v", name, path, info.Mode(), err, mode)
				}
			}
		}
		if _, err := syncBytes(t, Options{}, data, dest); err != nil {
			t.Fatal(err)
		}
		check(dest)
		logged, err := syncBytes(t, Options{}, data, dest)
		if err != nil || !strings.Contains(logged, "0 created, 0 changed") {
			t.Errorf("%s: again: %v\n%s", name, err, logged)
		}
		staging := filepath.Join(dest, "staging") // the strategy mv extracts to such a directory
		if err := os.Mkdir(staging, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Extract(t.Context(), mustIndex(t, data), staging); err != nil {
			t.Fatal(err)
		}
		check(staging)
	}
}

func TestSyncKeepsInodes(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dest := filepath.Join(base, "dest")
	makeFiles(t, dest, file{path: "same", body: "1"}, file{path: "other mode", body: "1", mode: 0o600}, file{path: "changed", body: "1"}, file{path: "link", body: "-> x"}, file{path: "d/same", body: "1"})
	for _, name := range []string{"changed", "same"} {
		if err := os.Link(filepath.Join(dest, name), filepath.Join(base, "linked "+name)); err != nil {
			t.Fatal(err)
		}
	}
	inodes := func() map[string]uint64 {
		m := map[string]uint64{}
		for _, name := range []string{"same", "other mode", "changed", "link", "d", "d/same", "."} {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dest, name), &st); err != nil {
				t.Fatal(err)
			}
			m[name] = st.Ino
		}
		return m
	}
	before := inodes()
	data := tartest.Make(t, tartest.Member{Name: "same", Body: "1"}, tartest.Member{Name: "other mode", Body: "1"}, tartest.Member{Name: "changed", Body: "2"}, tartest.Member{Name: "link", Type: tSym, Body: "x"}, tartest.Member{Name: "d/", Type: tDir}, tartest.Member{Name: "d/same", Body: "1"})
	logged, err := syncBytes(t, Options{}, data, dest)
	if err != nil {
		t.Fatal(err)
	}
	for name, inode := range inodes() {
		if (inode == before[name]) != (name != "changed" && name != "same") {
			t.Errorf("%s: inode %d, before %d", name, inode, before[name])
		}
	}
	// Files outside dest that share an inode with one in dest get neither its new
	// contents nor its new time.
	for _, name := range []string{"linked changed", "linked same"} {
		path := filepath.Join(base, name)
		if got, err := os.ReadFile(path); err != nil || string(got) != "1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if info, err := os.Stat(path); err != nil || info.ModTime().Equal(tartest.Time) {
			t.Errorf("%s: time %v, %v", name, info.ModTime(), err)
		}
	}
	if !strings.Contains(logged, "0 created, 6 changed, 0 deleted, 0 unchanged, 2 B written") {
		t.Error(logged) // the times of all differ
	}
}

// The file has the same size and time, but other bytes. rsync would not notice.
func TestSyncComparesContents(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	for _, body := range []string{"one", "two"} {
		if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "a", Body: body}), dest); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dest, "a")); err != nil || string(got) != body {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Only root can create devices and set owners.
func TestSyncAsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make devices and give files away")
	}
	header := func(name string, typ byte, mode int64, uid, gid int) *tar.Header {
		return &tar.Header{Name: name, Typeflag: typ, Mode: mode, ModTime: tartest.Time, Uid: uid, Gid: gid, Devmajor: 1, Devminor: 3, Linkname: "t"}
	}
	older := tartest.MakeHeaders(t, header("./", '5', 0o755, 1, 1), header("dev", '3', 0o600, 1, 1), header("same", '3', 0o600, 1, 1),
		header("file", '0', 0o644, 1, 1), header("link", '2', 0o777, 1, 1), header("d/", '5', 0o755, 1, 1), header("suid", '0', 0o4755, 1, 1))
	newer := tartest.MakeHeaders(t, header("./", '5', 0o755, 2, 1), header("dev", '3', 0o640, 2, 3), header("same", '3', 0o600, 1, 1),
		header("file", '0', 0o644, 2, 3), header("link", '2', 0o777, 2, 3), header("d/", '5', 0o2755, 2, 3), header("suid", '0', 0o4755, 2, 3))
	base := t.TempDir()
	want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
	for _, data := range [][]byte{older, newer, older} {
		if _, err := syncByTools(t, Options{}, data, want, "--checksum"); err != nil {
			t.Fatal(err)
		}
		if _, err := syncBytes(t, Options{}, data, got); err != nil {
			t.Fatal(err)
		}
		tartest.CompareTrees(t, want, got)
	}
}

func TestSyncSparse(t *testing.T) {
	t.Parallel()
	for _, sparse := range sparseArchives(t) {
		dest := filepath.Join(t.TempDir(), "dest")
		if _, err := syncBytes(t, Options{}, sparse.data, dest); err != nil {
			t.Fatal(err)
		}
		want := t.TempDir()
		if err := tartest.Extract(t, sparse.data, want); err != nil {
			t.Fatal(err)
		}
		tartest.CompareTrees(t, want, dest)
		if logged, err := syncBytes(t, Options{}, sparse.data, dest); err != nil || !strings.Contains(logged, "0 created, 0 changed, 0 deleted") {
			t.Errorf("%s again: %v: %s", sparse.options, err, logged)
		}
		// A byte in a hole is a change.
		f, err := os.OpenFile(filepath.Join(dest, "some"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{1}, 1<<29)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if logged, err := syncBytes(t, Options{}, sparse.data, dest); err != nil || !strings.Contains(logged, "0 created, 1 changed, 0 deleted") {
			t.Errorf("%s with a hole filled: %v: %s", sparse.options, err, logged)
		}
	}
}

func TestSyncDir(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	t.Cleanup(func() { unixfs.RemoveTree(base) })
	from, want, got := filepath.Join(base, "from"), filepath.Join(base, "want"), filepath.Join(base, "got")
	makeFiles(t, from, file{path: "a", body: "new", mode: 0o666}, file{path: "d/b", body: "b"}, file{path: "d/", mode: 0o2577}, file{path: "l", body: "-> /etc"}, file{path: "p", body: "fifo"}, file{path: "x.pid"}, file{path: "rules", body: "*.pid\n"})
	makeFiles(t, want, file{path: "a", body: "old"}, file{path: "gone/x"}, file{path: "y.pid"})
	copyTree(t, want, got)
	if out, err := exec.Command("rsync", "-a", "--delete", "--checksum", "--exclude-from="+from+"/rules", from+"/", want+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := SyncDir(t.Context(), from, got, Options{ExcludeFrom: "rules", log: log.New(io.Discard, "", 0)}); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, got)
	if err := SyncDir(t.Context(), filepath.Join(base, "missing"), got, Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
