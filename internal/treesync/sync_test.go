package treesync

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

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

var mtimePattern = regexp.MustCompile(` mtime \S+`)

// withoutTimes removes the times of directories without an entry in the archive
// from a snapshot. With rsync, they get the time at which tar(1) created them for
// it; Sync leaves them alone.
func withoutTimes(lines map[string]string, t *archive.Tree) map[string]string {
	var drop func(path string, e *archive.Entry)
	drop = func(path string, e *archive.Entry) {
		if e.Implicit() && lines[path] != "" {
			lines[path] = mtimePattern.ReplaceAllString(lines[path], "")
		}
		for child := range e.Children() {
			drop(filepath.Join(path, child.Name), child)
		}
	}
	drop(".", t.Root)
	return lines
}

// Each case is also done by tar(1) and rsync(1), and the results must be equal.
func TestSyncLikeRsync(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		archive []tartest.Member
		dest    []file
		options Options
	}{
		{"nothing there", []tartest.Member{{Name: "./", Type: tDir, Mode: 0o750}, {Name: "a", Body: "a"}, {Name: "d/", Type: tDir, Mode: 0o711}, {Name: "d/b", Body: "b"}, {Name: "l", Type: tSym, Body: "a"}, {Name: "p", Type: tFifo}}, nil, Options{}},
		{"no root entry", []tartest.Member{{Name: "a", Body: "a"}, {Name: "d/e/f", Body: "f"}}, []file{{path: "a", body: "b"}, {path: "x/y", body: "y"}}, Options{}},
		{"contents", []tartest.Member{{Name: "./", Type: tDir}, {Name: "same", Body: "1"}, {Name: "size", Body: "22"}, {Name: "bytes", Body: "3"}, {Name: "empty"}},
			[]file{{path: "same", body: "1"}, {path: "size", body: "2"}, {path: "bytes", body: "4"}, {path: "empty", body: "x"}}, Options{}},
		{"deletions", []tartest.Member{{Name: "./", Type: tDir}, {Name: "d/", Type: tDir}, {Name: "d/a"}},
			[]file{{path: "d/a"}, {path: "d/b"}, {path: "d/c/d"}, {path: "e/f/g/h"}, {path: "e/f/i"}, {path: "j", body: "-> e"}, {path: "k", body: "fifo"}, {path: "m/"}}, Options{}},
		{"types", []tartest.Member{{Name: "./", Type: tDir}, {Name: "dirToFile", Body: "x"}, {Name: "fileToDir/", Type: tDir}, {Name: "fileToDir/x"}, {Name: "linkToDir/", Type: tDir}, {Name: "linkToDir/y"}, {Name: "dirToLink", Type: tSym, Body: "."},
			{Name: "fileToLink", Type: tSym, Body: "t"}, {Name: "linkToFile", Body: "f"}, {Name: "linkToLink", Type: tSym, Body: "new"}, {Name: "fifoToFile"}, {Name: "fileToFifo", Type: tFifo}, {Name: "emptyDirToFile"}, {Name: "keepsDir/", Type: tDir}},
			[]file{{path: "dirToFile/a/b"}, {path: "dirToFile/c"}, {path: "fileToDir"}, {path: "linkToDir", body: "-> ../outside"}, {path: "dirToLink/a"}, {path: "fileToLink"}, {path: "linkToFile", body: "-> fileToLink"}, {path: "linkToLink", body: "-> old"},
				{path: "fifoToFile", body: "fifo"}, {path: "fileToFifo"}, {path: "emptyDirToFile/"}, {path: "keepsDir/", mode: 0o700}}, Options{}},
		{"attributes", []tartest.Member{{Name: "./", Type: tDir, Mode: 0o711}, {Name: "a", Body: "a", Mode: 0o711}, {Name: "b", Body: "b", Mode: 0o600}, {Name: "d/", Type: tDir, Mode: 0o1777}, {Name: "l", Type: tSym, Body: "x"}, {Name: "p", Type: tFifo, Mode: 0o600}},
			[]file{{path: "a", body: "a", mode: 0o600}, {path: "b", body: "b"}, {path: "d/", mode: 0o700}, {path: "l", body: "-> x"}, {path: "p", body: "fifo"}}, Options{}},
		{"read-only directories", []tartest.Member{{Name: "./", Type: tDir, Mode: 0o555}, {Name: "d/", Type: tDir, Mode: 0o555}, {Name: "d/new", Body: "n"}, {Name: "n/", Type: tDir, Mode: 0o500}, {Name: "n/m/", Type: tDir, Mode: 0o500}, {Name: "n/m/o", Mode: 0o400}, {Name: "wasFile/", Type: tDir, Mode: 0o555}},
			[]file{{path: "d/old"}, {path: "gone/x"}, {path: "gone/", mode: 0o555}, {path: "d/", mode: 0o555}, {path: "wasFile"}}, Options{}},
		{"excludes", []tartest.Member{{Name: "./", Type: tDir}, {Name: "a.pid", Body: "new"}, {Name: "b", Body: "new"}, {Name: "logs/", Type: tDir}, {Name: "logs/x", Body: "new"}},
			[]file{{path: "a.pid", body: "old"}, {path: "c.pid", body: "old"}, {path: "b", body: "old"}, {path: "logs/y", body: "old"}, {path: "gone/d.pid"}, {path: "gone/e"}, {path: "gone/f/g"}, {path: "gone/h/i.pid"}}, Options{Excludes: []string{"*.pid", "/logs/"}}},
		{"exclude_from", []tartest.Member{{Name: "./", Type: tDir}, {Name: "etc/rules", Body: "# rules\n+ keep.pid\n*.pid\n"}, {Name: "keep.pid"}, {Name: "drop.pid"}},
			[]file{{path: "drop.pid", body: "old"}, {path: "keep.pid", body: "old"}, {path: "x/keep.pid"}, {path: "x/other.pid"}}, Options{ExcludeFrom: "etc/rules", Excludes: []string{"keep.pid"}}},
		{"protected in the way", []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}, {Name: "b", Body: "new"}}, []file{{path: "a/x.pid"}, {path: "b", body: "old"}}, Options{Excludes: []string{"*.pid"}}},
		{"protected directory in the way", []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}}, []file{{path: "a/x"}}, Options{Excludes: []string{"a/"}}},
		{"hard links of the archive", []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "a"}, {Name: "b", Type: tar.TypeLink, Body: "a"}, {Name: "d/", Type: tDir}, {Name: "d/c", Type: tar.TypeLink, Body: "a"}}, []file{{path: "b", body: "a"}}, Options{}},
		{"deep and long", []tartest.Member{{Name: "./", Type: tDir}, {Name: strings.Repeat("d/", 100) + strings.Repeat("f", 255), Body: "x"}}, []file{{path: strings.Repeat("d/", 90) + "g"}}, Options{}},
		{"odd names", []tartest.Member{{Name: "./", Type: tDir}, {Name: "new\nline\x7f"}, {Name: "\\#012", Body: "x"}, {Name: "l", Type: tSym, Body: "\x01"}}, []file{{path: "tab\there/-n"}, {path: " "}}, Options{}},
		{"our temporary names deeper down", []tartest.Member{{Name: "./", Type: tDir}, {Name: "d/", Type: tDir}}, []file{{path: "d/.stretcher-12/x"}, {path: "d/.stretcher-13"}}, Options{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base := t.TempDir()
			t.Cleanup(func() { unixfs.RemoveTree(base) })
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			if test.dest != nil {
				makeFiles(t, want, test.dest...)
				copyTree(t, want, got)
			}
			data := tartest.Make(t, test.archive...)
			if test.dest == nil {
				os.Mkdir(want, 0o755)
			}
			before := tartest.Snapshot(t, want)
			listed, wantErr := syncByTools(t, test.options, data, want)
			logged, err := syncBytes(t, test.options, data, got)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%v; rsync: %v", err, wantErr)
			}
			if err != nil {
				tartest.CompareSnapshots(t, before, tartest.Snapshot(t, got))
				return
			}
			a := mustIndex(t, data)
			tartest.CompareSnapshots(t, withoutTimes(tartest.Snapshot(t, want), a.Tree), withoutTimes(tartest.Snapshot(t, got), a.Tree))
			if !strings.HasPrefix(test.name, "no ") && test.dest != nil && test.name != "deep and long" && test.name != "exclude_from" {
				compareLists(t, listed, logged)
			}
			// Again: there is nothing to do.
			before = tartest.Snapshot(t, got)
			logged, err = syncBytes(t, test.options, data, got)
			if err != nil || !strings.Contains(logged, " 0 created, 0 changed, 0 deleted,") || strings.Count(logged, "\n") != 1 {
				t.Errorf("again: %v: %s", err, logged)
			}
			tartest.CompareSnapshots(t, before, tartest.Snapshot(t, got))
		})
	}
}

// compareLists compares the paths that rsync lists with those in the log.
func compareLists(t *testing.T, listed, logged string) {
	t.Helper()
	sorted := func(lines []string) string {
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	// The order of rsync's lines depends on which of its processes is faster.
	// rsync also names some directories that protected names keep.
	want := slices.DeleteFunc(strings.Split(strings.TrimSpace(listed), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "cannot delete non-empty directory")
	})
	lines := strings.Split(strings.TrimSpace(logged), "\n")
	if got, want := sorted(lines[:len(lines)-1]), sorted(want); got != want {
		t.Errorf("listed:\n%s\nwant:\n%s", got, want)
	}
}

// The archives, the old contents of dest and the rules are random. A failure
// prints the seed; STRETCHER_TEST_SEED set to it repeats the round.
func TestSyncLikeRsyncAtRandom(t *testing.T) {
	t.Parallel()
	rounds := 60
	first := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRETCHER_TEST_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, rounds = seed, 1
	}
	if s := os.Getenv("STRETCHER_TEST_ROUNDS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	failed := 0
	for i := range rounds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			base := t.TempDir()
			t.Cleanup(func() { unixfs.RemoveTree(base) })
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			// The old dest is an older archive, of mostly the same names.
			older := randomMembers(r, 0)
			if err := os.Mkdir(want, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := Extract(t.Context(), mustIndex(t, tartest.Make(t, older...)), want); err != nil {
				t.Fatal(err)
			}
			copyTree(t, want, got)
			newer := randomMembers(r, 1)
			if r.IntN(2) == 0 {
				newer = mutate(r, older, newer)
			}
			data := tartest.Make(t, newer...)
			o := Options{Excludes: randomRules(r)}
			before := tartest.Snapshot(t, got)
			_, wantErr := syncByTools(t, o, data, want, "--checksum")
			_, err := syncBytes(t, o, data, got)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%v; rsync: %v\nrules %q\nold %v\nnew %v", err, wantErr, o.Excludes, older, newer)
			}
			if err != nil {
				failed++
				tartest.CompareSnapshots(t, before, tartest.Snapshot(t, got))
				return
			}
			a := mustIndex(t, data)
			if tartest.CompareSnapshots(t, withoutTimes(tartest.Snapshot(t, want), a.Tree), withoutTimes(tartest.Snapshot(t, got), a.Tree)); t.Failed() {
				t.Fatalf("rules %q\nold %v\nnew %v", o.Excludes, older, newer)
			}
		})
		if t.Failed() {
			t.Fatalf("repeat with STRETCHER_TEST_SEED=%d", seed)
		}
	}
	t.Logf("%d of %d rounds ended with an error, as by rsync", failed, rounds)
}

var randomNames = []string{"a", "b", "c.pid", "d", "e.log", "f"}

// randomMembers returns the members of a random archive that tar(1) accepts: each
// name occurs once, and a directory comes before what is in it.
func randomMembers(r *rand.Rand, generation int) []tartest.Member {
	var members []tartest.Member
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range randomNames {
			m := tartest.Member{Name: dir + name, Mode: int64(0o600 | r.IntN(0o200))}
			switch n := r.IntN(12); {
			case n < 4:
				continue
			case n < 7 && depth < 3:
				m.Type, m.Mode = tDir, int64(0o700|r.IntN(0o100))
				if r.IntN(5) > 0 {
					members = append(members, m)
				}
				fill(m.Name+"/", depth+1)
				continue
			case n == 7:
				m.Type, m.Body = tSym, []string{"a", "/etc", "../x", "b"}[r.IntN(4)]
			case n == 8 && r.IntN(3) == 0:
				m.Type = tFifo
			default:
				m.Body = fmt.Sprint("contents ", r.IntN(2+generation))
			}
			members = append(members, m)
		}
	}
	if r.IntN(3) > 0 {
		members = append(members, tartest.Member{Name: "./", Type: tDir, Mode: int64(0o700 | r.IntN(0o100))})
	}
	fill("", 0)
	if len(members) == 0 {
		members = append(members, tartest.Member{Name: "only"})
	}
	return members
}

// mutate returns older with some members changed and others dropped, or newer if
// all are dropped.
func mutate(r *rand.Rand, older, newer []tartest.Member) []tartest.Member {
	var members []tartest.Member
	for _, m := range older {
		switch n := r.IntN(10); {
		case n == 0 && m.Type != tDir:
			continue
		case n == 1 && m.Type == 0:
			m.Body += "!"
		case n == 2 && m.Type != tSym:
			m.Mode ^= 0o011
		}
		members = append(members, m)
	}
	if len(members) == 0 {
		return newer
	}
	return members
}

func randomRules(r *rand.Rand) []string {
	pool := []string{"*.pid", "*.log", "a", "/a", "b/", "/d/", "a/b", "d/**", "d/***", "/b/*", "+ a/", "+ /d/a", "+ *.pid", "- *", "!", "[ab]", "?", "f/"}
	var rules []string
	for range r.IntN(4) {
		rules = append(rules, pool[r.IntN(len(pool))])
	}
	return rules
}

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

// Deleting files must work without any free space or inode, which a staging
// directory would need.
func TestSyncDeletesOnFullDisk(t *testing.T) {
	t.Parallel()
	dest := tartest.MountTmpfs(t, "nr_inodes=6") // its root, one more and those below
	makeFiles(t, dest, file{path: "keep", body: "x", mode: 0o600}, file{path: "junk"}, file{path: "more/junk"})
	for i := 0; os.Mkdir(filepath.Join(dest, fmt.Sprint(i)), 0o755) == nil; i++ {
	}
	if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "keep", Body: "x"}), dest); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dest); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
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

// A failure while staging leaves dest as it was, with its times.
func TestSyncStagingFails(t *testing.T) {
	t.Parallel()
	members := []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}, {Name: "b", Body: "new"}, {Name: "d/", Type: tDir}}
	for i := range 200 {
		members = append(members, tartest.Member{Name: fmt.Sprintf("d/%d", i), Body: strings.Repeat("x", 4096)})
	}
	old := []file{{path: "a", body: "old"}, {path: "gone"}, {path: "d/1", body: "old"}}
	check := func(t *testing.T, before map[string]string, dest string) {
		t.Helper()
		tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
	}
	t.Run("no room", func(t *testing.T) {
		dest := filepath.Join(tartest.MountTmpfs(t, "size=512k"), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		if _, err := syncBytes(t, Options{}, tartest.Make(t, members...), dest); !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^sync to \S+: no space left \(needs [0-9.]+ [KM]iB more, [0-9.]+ [KM]iB free\) while writing (?:b|d/[0-9]+); dest is unchanged: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("no inodes", func(t *testing.T) {
		dest := filepath.Join(tartest.MountTmpfs(t, "size=16m,nr_inodes=50"), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		if _, err := syncBytes(t, Options{}, tartest.Make(t, members...), dest); !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^sync to \S+: no space left \(needs [0-9.]+ [KM]iB more, [0-9.]+ [KM]iB free; inodes or a quota may be used up\) while writing (?:b|d/[0-9]+); dest is unchanged: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("no room to extract", func(t *testing.T) {
		dir := tartest.MountTmpfs(t, "size=512k")
		err := Extract(t.Context(), mustIndex(t, tartest.Make(t, members...)), dir)
		if !errors.Is(err, unix.ENOSPC) || !regexp.MustCompile(`^/\S+: no space left \(needs 800 KiB more, 512 KiB free\) while writing d/[0-9]+: no space left on device$`).MatchString(err.Error()) {
			t.Errorf("%v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		a := mustIndex(t, tartest.Make(t, members...))
		attrs, err := newAttributes(t.Context(), a.Tree)
		if err != nil {
			t.Fatal(err)
		}
		err = syncTree(ctx, a.Tree, failAfter(archiveContents{a.Data()}, func() error { cancel(stopped); return nil }), attrs, dest, Options{})
		if !errors.Is(err, stopped) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("unreadable, dest missing", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		broken := errors.New("broken disk")
		a := mustIndex(t, tartest.Make(t, members...))
		attrs, err := newAttributes(t.Context(), a.Tree)
		if err != nil {
			t.Fatal(err)
		}
		err = syncTree(t.Context(), a.Tree, failAfter(archiveContents{a.Data()}, func() error { return broken }), attrs, dest, Options{})
		if !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if _, err := os.Lstat(dest); err == nil {
			t.Error("dest was left behind")
		}
	})
	t.Run("device", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may make devices")
		}
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, old...)
		before := tartest.Snapshot(t, dest)
		data := tartest.MakeHeaders(t, &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
		if _, err := syncBytes(t, Options{}, data, dest); !errors.Is(err, unix.EPERM) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
}

// failingContents are contents that call fail when they are opened for the 100th
// time.
type failingContents struct {
	contents
	left atomic.Int64
	fail func() error
}

func failAfter(c contents, fail func() error) *failingContents {
	f := &failingContents{contents: c, fail: fail}
	f.left.Store(100)
	return f
}

func (c *failingContents) open(e *archive.Entry) (*window, error) {
	if c.left.Add(-1) == 0 {
		if err := c.fail(); err != nil {
			return nil, err
		}
	}
	return c.contents.open(e)
}

// A mount below dest gets its own staging directory.
func TestSyncAcrossMounts(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	makeFiles(t, dest, file{path: "a", body: "old"}, file{path: "m/"})
	mounted := filepath.Join(dest, "m")
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "mode=0755"); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) })
	makeFiles(t, mounted, file{path: "changed", body: "old"}, file{path: "gone/x"}, file{path: "d/changed", body: "old"}, file{path: "toDir"}, file{path: ".stretcher-7/left"})
	members := []tartest.Member{{Name: "./", Type: tDir}, {Name: "a", Body: "new"}, {Name: "m/", Type: tDir, Mode: 0o711}, {Name: "m/changed", Body: "new"}, {Name: "m/new/", Type: tDir}, {Name: "m/new/x"}, {Name: "m/d/", Type: tDir}, {Name: "m/d/changed", Body: "new"}, {Name: "m/toDir/", Type: tDir}}
	data := tartest.Make(t, members...)
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "want")
	if _, err := syncBytes(t, Options{}, data, want); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, dest)
	// An archive without m would require m to be deleted, and a mount point cannot be.
	before := tartest.Snapshot(t, dest)
	if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "a", Body: "newer"}), dest); err == nil || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("%v", err)
	}
	tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
}

// On an overlay, rename(2) fails with EXDEV for a directory of a lower layer.
func TestSyncOnOverlay(t *testing.T) {
	t.Parallel()
	base := tartest.MountTmpfs(t, "mode=0755")
	lower, dest := filepath.Join(base, "lower"), filepath.Join(base, "dest")
	makeFiles(t, lower, file{path: "gone/x/y"}, file{path: "gone/z"}, file{path: "dirToFile/a/b"}, file{path: "kept/a", body: "a"}, file{path: "changed", body: "old"}, file{path: "linkToDir", body: "-> kept"})
	for _, name := range []string{"upper", "work", "dest"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=off", lower, base, base)
	if err := unix.Mount("overlay", dest, "overlay", 0, options); err != nil {
		t.Skipf("no overlays here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dest, unix.MNT_DETACH) })
	data := tartest.Make(t, tartest.Member{Name: "./", Type: tDir}, tartest.Member{Name: "dirToFile", Body: "x"}, tartest.Member{Name: "kept/", Type: tDir}, tartest.Member{Name: "kept/a", Body: "a"},
		tartest.Member{Name: "changed", Body: "new"}, tartest.Member{Name: "linkToDir/", Type: tDir}, tartest.Member{Name: "linkToDir/b"})
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := t.TempDir()
	if err := Extract(t.Context(), mustIndex(t, data), want); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, dest)
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

// While dest is synced, another process that may write to it keeps replacing its
// directories by symbolic links.
func TestSyncAgainstSwaps(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	canary, dest := filepath.Join(base, "canary"), filepath.Join(base, "dest")
	makeFiles(t, canary, file{path: "e/f0", body: "canary"}, file{path: "other", body: "canary"})
	before := tartest.Snapshot(t, canary)
	archives := [2][]byte{}
	for generation := range archives {
		var members []tartest.Member
		for i := range 20 {
			for j := range 10 {
				members = append(members, tartest.Member{Name: fmt.Sprintf("d%d/e/f%d", i, j+generation), Body: fmt.Sprint(generation), Mode: 0o666})
			}
		}
		archives[generation] = tartest.Make(t, members...)
	}
	if _, err := syncBytes(t, Options{}, archives[1], dest); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			for i := range 20 {
				victim, target := filepath.Join(dest, "d"+strconv.Itoa(i)), canary
				if i%2 == 0 {
					victim, target = victim+"/e", canary+"/e"
				}
				// The directory comes back, so that the next round can replace it again.
				if os.Rename(victim, victim+".away") == nil && os.Symlink(target, victim) == nil {
					n++
					os.Remove(victim)
					os.Rename(victim+".away", victim)
				}
			}
		}
		done <- n
	}()
	refused := 0
	for round := range 40 {
		if err := Sync(t.Context(), mustIndex(t, archives[round%2]), dest, Options{Mode: 0o755, log: log.New(io.Discard, "", 0)}); err != nil {
			refused++
		}
	}
	cancel()
	swapped := <-done
	tartest.CompareSnapshots(t, before, tartest.Snapshot(t, canary))
	if swapped == 0 {
		t.Error("nothing was swapped: the test shows nothing")
	}
	t.Logf("%d swaps, %d of 40 syncs failed", swapped, refused)
}
