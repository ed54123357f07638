package stretcher

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
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
)

// builtin syncs an archive to dest and returns what it logged.
func builtin(t testing.TB, m *Manifest, data []byte, dest string) (string, error) {
	t.Helper()
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	defer log.SetFlags(log.Flags())
	log.SetOutput(&logged)
	log.SetFlags(0)
	err := (&builtinStrategy{m}).syncArchive(t.Context(), mustIndex(t, data), dest, 0o755)
	if left, _ := filepath.Glob(filepath.Join(dest, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return logged.String(), err
}

// byTools syncs an archive to dest by tar(1) and rsync(1), and returns the
// paths that rsync lists. Options may tell it to compare contents.
func byTools(t testing.TB, m *Manifest, data []byte, dest string, options ...string) (string, error) {
	t.Helper()
	staging := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(staging, 0o755); err != nil {
		t.Fatal(err)
	}
	defer removeTree(staging)
	if err := extractByTar(t, data, staging); err != nil {
		t.Fatal(err)
	}
	args := append(options, "-a", "--delete", "--out-format=%n%L")
	if m.ExcludeFrom != "" {
		args = append(args, "--exclude-from="+filepath.Join(staging, m.ExcludeFrom))
	}
	for _, pattern := range m.Excludes {
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

// file is one of a tree that a test makes on disk.
type file struct {
	path string // with a slash at the end for a directory
	body string // "-> target" for a link, "fifo" for that
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

// setOldTimes gives all below dir the time 2000-01-01, so that what a test
// changes can be told by its time.
func setOldTimes(t testing.TB, dir string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(snapshot(t, dir)))
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

// withoutTimes drops the times of directories that the archive has no entry
// for. rsync gives them the time at which tar(1) made them in staging; builtin
// leaves them alone.
func withoutTimes(lines map[string]string, t *tree) map[string]string {
	var drop func(path string, e *entry)
	drop = func(path string, e *entry) {
		if e.implicit && lines[path] != "" {
			lines[path] = mtimePattern.ReplaceAllString(lines[path], "")
		}
		for name, child := range e.children {
			drop(filepath.Join(path, name), child)
		}
	}
	drop(".", t.root)
	return lines
}

const (
	tDir, tSym, tFifo = tar.TypeDir, tar.TypeSymlink, tar.TypeFifo
)

// Each case is done by rsync(1) too.
func TestBuiltinLikeRsync(t *testing.T) {
	tests := []struct {
		name     string
		archive  []member
		dest     []file
		manifest Manifest
	}{
		{"nothing there", []member{{name: "./", typ: tDir, mode: 0o750}, {name: "a", body: "a"}, {name: "d/", typ: tDir, mode: 0o711}, {name: "d/b", body: "b"}, {name: "l", typ: tSym, body: "a"}, {name: "p", typ: tFifo}}, nil, Manifest{}},
		{"no root entry", []member{{name: "a", body: "a"}, {name: "d/e/f", body: "f"}}, []file{{path: "a", body: "b"}, {path: "x/y", body: "y"}}, Manifest{}},
		{"contents", []member{{name: "./", typ: tDir}, {name: "same", body: "1"}, {name: "size", body: "22"}, {name: "bytes", body: "3"}, {name: "empty"}},
			[]file{{path: "same", body: "1"}, {path: "size", body: "2"}, {path: "bytes", body: "4"}, {path: "empty", body: "x"}}, Manifest{}},
		{"deletions", []member{{name: "./", typ: tDir}, {name: "d/", typ: tDir}, {name: "d/a"}},
			[]file{{path: "d/a"}, {path: "d/b"}, {path: "d/c/d"}, {path: "e/f/g/h"}, {path: "e/f/i"}, {path: "j", body: "-> e"}, {path: "k", body: "fifo"}, {path: "m/"}}, Manifest{}},
		{"types", []member{{name: "./", typ: tDir}, {name: "dirToFile", body: "x"}, {name: "fileToDir/", typ: tDir}, {name: "fileToDir/x"}, {name: "linkToDir/", typ: tDir}, {name: "linkToDir/y"}, {name: "dirToLink", typ: tSym, body: "."},
			{name: "fileToLink", typ: tSym, body: "t"}, {name: "linkToFile", body: "f"}, {name: "linkToLink", typ: tSym, body: "new"}, {name: "fifoToFile"}, {name: "fileToFifo", typ: tFifo}, {name: "emptyDirToFile"}, {name: "keepsDir/", typ: tDir}},
			[]file{{path: "dirToFile/a/b"}, {path: "dirToFile/c"}, {path: "fileToDir"}, {path: "linkToDir", body: "-> ../outside"}, {path: "dirToLink/a"}, {path: "fileToLink"}, {path: "linkToFile", body: "-> fileToLink"}, {path: "linkToLink", body: "-> old"},
				{path: "fifoToFile", body: "fifo"}, {path: "fileToFifo"}, {path: "emptyDirToFile/"}, {path: "keepsDir/", mode: 0o700}}, Manifest{}},
		{"attributes", []member{{name: "./", typ: tDir, mode: 0o711}, {name: "a", body: "a", mode: 0o711}, {name: "b", body: "b", mode: 0o600}, {name: "d/", typ: tDir, mode: 0o1777}, {name: "l", typ: tSym, body: "x"}, {name: "p", typ: tFifo, mode: 0o600}},
			[]file{{path: "a", body: "a", mode: 0o600}, {path: "b", body: "b"}, {path: "d/", mode: 0o700}, {path: "l", body: "-> x"}, {path: "p", body: "fifo"}}, Manifest{}},
		{"read-only directories", []member{{name: "./", typ: tDir, mode: 0o555}, {name: "d/", typ: tDir, mode: 0o555}, {name: "d/new", body: "n"}, {name: "n/", typ: tDir, mode: 0o500}, {name: "n/m/", typ: tDir, mode: 0o500}, {name: "n/m/o", mode: 0o400}, {name: "wasFile/", typ: tDir, mode: 0o555}},
			[]file{{path: "d/old"}, {path: "gone/x"}, {path: "gone/", mode: 0o555}, {path: "d/", mode: 0o555}, {path: "wasFile"}}, Manifest{}},
		{"excludes", []member{{name: "./", typ: tDir}, {name: "a.pid", body: "new"}, {name: "b", body: "new"}, {name: "logs/", typ: tDir}, {name: "logs/x", body: "new"}},
			[]file{{path: "a.pid", body: "old"}, {path: "c.pid", body: "old"}, {path: "b", body: "old"}, {path: "logs/y", body: "old"}, {path: "gone/d.pid"}, {path: "gone/e"}, {path: "gone/f/g"}, {path: "gone/h/i.pid"}}, Manifest{Excludes: []string{"*.pid", "/logs/"}}},
		{"exclude_from", []member{{name: "./", typ: tDir}, {name: "etc/rules", body: "# rules\n+ keep.pid\n*.pid\n"}, {name: "keep.pid"}, {name: "drop.pid"}},
			[]file{{path: "drop.pid", body: "old"}, {path: "keep.pid", body: "old"}, {path: "x/keep.pid"}, {path: "x/other.pid"}}, Manifest{ExcludeFrom: "etc/rules", Excludes: []string{"keep.pid"}}},
		{"protected in the way", []member{{name: "./", typ: tDir}, {name: "a", body: "new"}, {name: "b", body: "new"}}, []file{{path: "a/x.pid"}, {path: "b", body: "old"}}, Manifest{Excludes: []string{"*.pid"}}},
		{"protected directory in the way", []member{{name: "./", typ: tDir}, {name: "a", body: "new"}}, []file{{path: "a/x"}}, Manifest{Excludes: []string{"a/"}}},
		{"hard links of the archive", []member{{name: "./", typ: tDir}, {name: "a", body: "a"}, {name: "b", typ: tar.TypeLink, body: "a"}, {name: "d/", typ: tDir}, {name: "d/c", typ: tar.TypeLink, body: "a"}}, []file{{path: "b", body: "a"}}, Manifest{}},
		{"deep and long", []member{{name: "./", typ: tDir}, {name: strings.Repeat("d/", 100) + strings.Repeat("f", 255), body: "x"}}, []file{{path: strings.Repeat("d/", 90) + "g"}}, Manifest{}},
		{"odd names", []member{{name: "./", typ: tDir}, {name: "new\nline\x7f"}, {name: "\\#012", body: "x"}, {name: "l", typ: tSym, body: "\x01"}}, []file{{path: "tab\there/-n"}, {path: " "}}, Manifest{}},
		{"our temporary names deeper down", []member{{name: "./", typ: tDir}, {name: "d/", typ: tDir}}, []file{{path: "d/.stretcher-12/x"}, {path: "d/.stretcher-13"}}, Manifest{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base := t.TempDir()
			t.Cleanup(func() { removeTree(base) })
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			if test.dest != nil {
				makeFiles(t, want, test.dest...)
				copyTree(t, want, got)
			}
			data := makeTar(t, test.archive...)
			if test.dest == nil {
				os.Mkdir(want, 0o755)
			}
			before := snapshot(t, want)
			listed, wantErr := byTools(t, &test.manifest, data, want)
			logged, err := builtin(t, &test.manifest, data, got)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%v; rsync: %v", err, wantErr)
			}
			if err != nil {
				compareSnapshots(t, before, snapshot(t, got))
				return
			}
			index := mustIndex(t, data)
			compareSnapshots(t, withoutTimes(snapshot(t, want), index.tree), withoutTimes(snapshot(t, got), index.tree))
			if !strings.HasPrefix(test.name, "no ") && test.dest != nil && test.name != "deep and long" && test.name != "exclude_from" {
				compareLists(t, listed, logged)
			}
			// Again: there is nothing to do.
			before = snapshot(t, got)
			logged, err = builtin(t, &test.manifest, data, got)
			if err != nil || !strings.Contains(logged, " 0 created, 0 changed, 0 deleted,") || strings.Count(logged, "\n") != 1 {
				t.Errorf("again: %v: %s", err, logged)
			}
			compareSnapshots(t, before, snapshot(t, got))
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
	// rsync's order depends on which of its processes is faster, and it tells
	// of some directories that stay for protected names.
	want := slices.DeleteFunc(strings.Split(strings.TrimSpace(listed), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "cannot delete non-empty directory")
	})
	lines := strings.Split(strings.TrimSpace(logged), "\n")
	if got, want := sorted(lines[:len(lines)-1]), sorted(want); got != want {
		t.Errorf("listed:\n%s\nwant:\n%s", got, want)
	}
}

// Random archives, random old dests and random rules. A failure prints the
// seed, which STRETCHER_TEST_SEED repeats.
func TestBuiltinLikeRsyncAtRandom(t *testing.T) {
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
			t.Cleanup(func() { removeTree(base) })
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			// The old dest is an older archive, of mostly the same names.
			older := randomMembers(r, 0)
			if err := os.Mkdir(want, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := mustIndex(t, makeTar(t, older...)).extract(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			copyTree(t, want, got)
			newer := randomMembers(r, 1)
			if r.IntN(2) == 0 {
				newer = mutate(r, older, newer)
			}
			data := makeTar(t, newer...)
			m := &Manifest{Excludes: randomRules(r)}
			before := snapshot(t, got)
			_, wantErr := byTools(t, m, data, want, "--checksum")
			_, err := builtin(t, m, data, got)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%v; rsync: %v\nrules %q\nold %v\nnew %v", err, wantErr, m.Excludes, older, newer)
			}
			if err != nil {
				failed++
				compareSnapshots(t, before, snapshot(t, got))
				return
			}
			index := mustIndex(t, data)
			if compareSnapshots(t, withoutTimes(snapshot(t, want), index.tree), withoutTimes(snapshot(t, got), index.tree)); t.Failed() {
				t.Fatalf("rules %q\nold %v\nnew %v", m.Excludes, older, newer)
			}
		})
		if t.Failed() {
			t.Fatalf("repeat with STRETCHER_TEST_SEED=%d", seed)
		}
	}
	t.Logf("%d of %d rounds ended with an error, as by rsync", failed, rounds)
}

var randomNames = []string{"a", "b", "c.pid", "d", "e.log", "f"}

// randomMembers makes an archive that tar(1) takes: names are of one type, and
// directories come before what they hold.
func randomMembers(r *rand.Rand, generation int) []member {
	var members []member
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range randomNames {
			m := member{name: dir + name, mode: int64(0o600 | r.IntN(0o200))}
			switch n := r.IntN(12); {
			case n < 4:
				continue
			case n < 7 && depth < 3:
				m.typ, m.mode = tDir, int64(0o700|r.IntN(0o100))
				if r.IntN(5) > 0 {
					members = append(members, m)
				}
				fill(m.name+"/", depth+1)
				continue
			case n == 7:
				m.typ, m.body = tSym, []string{"a", "/etc", "../x", "b"}[r.IntN(4)]
			case n == 8 && r.IntN(3) == 0:
				m.typ = tFifo
			default:
				m.body = fmt.Sprint("contents ", r.IntN(2+generation))
			}
			members = append(members, m)
		}
	}
	if r.IntN(3) > 0 {
		members = append(members, member{name: "./", typ: tDir, mode: int64(0o700 | r.IntN(0o100))})
	}
	fill("", 0)
	if len(members) == 0 {
		members = append(members, member{name: "only"})
	}
	return members
}

// mutate takes most of the older archive, and changes and drops the rest.
func mutate(r *rand.Rand, older, newer []member) []member {
	var members []member
	for _, m := range older {
		switch n := r.IntN(10); {
		case n == 0 && m.typ != tDir:
			continue
		case n == 1 && m.typ == 0:
			m.body += "!"
		case n == 2 && m.typ != tSym:
			m.mode ^= 0o011
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

func TestBuiltinDest(t *testing.T) {
	data := makeTar(t, member{name: "a", body: "new"})
	t.Run("symlink", func(t *testing.T) {
		base := t.TempDir()
		makeFiles(t, base, file{path: "real/old"}, file{path: "dest", body: "-> real"})
		if _, err := builtin(t, &Manifest{}, data, filepath.Join(base, "dest")); err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(filepath.Join(base, "dest")); err != nil || target != "real" {
			t.Errorf("dest is %q, %v", target, err)
		}
		if got := slices.Sorted(maps.Keys(snapshot(t, filepath.Join(base, "real")))); !slices.Equal(got, []string{".", "a"}) {
			t.Errorf("dest has %q", got)
		}
	})
	t.Run("dangling symlink", func(t *testing.T) {
		base := t.TempDir()
		makeFiles(t, base, file{path: "dest", body: "-> real"})
		if _, err := builtin(t, &Manifest{}, data, filepath.Join(base, "dest")); err == nil {
			t.Error("no error")
		}
	})
	t.Run("missing", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		if err := (&builtinStrategy{&Manifest{}}).syncArchive(t.Context(), mustIndex(t, data), dest, 0o2711); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dest); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o711 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	t.Run("two levels missing", func(t *testing.T) {
		base := t.TempDir()
		if _, err := builtin(t, &Manifest{}, data, filepath.Join(base, "two", "dest")); !errors.Is(err, os.ErrNotExist) {
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
		if _, err := builtin(t, &Manifest{}, data, dest); err == nil {
			t.Error("no error")
		}
		if got, err := os.ReadFile(dest); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestBuiltinExcludeFrom(t *testing.T) {
	for _, test := range []struct {
		from string
		want string // of the error; "" for none
	}{
		{"rules", ""}, {"/rules", ""}, {"./d/../rules", ""}, {"inside", ""}, {"d/rules", ""}, {"all/rules", ""}, {"d/up", ""},
		{"missing", "does not exist"}, {"d", "not a regular file"}, {".", "not a regular file"}, {"outside", "symbolic link"}, {"absolute", "symbolic link"},
		{"loop", "too many levels"}, {"bad", "no pattern"}, {"rules/x", "not a directory"},
	} {
		data := makeTar(t, member{name: "rules", body: "*.pid\n"}, member{name: "d/rules", body: "*.pid\n"}, member{name: "bad", body: "x\n+ \n"},
			member{name: "inside", typ: tSym, body: "d/rules"}, member{name: "all", typ: tSym, body: "d"}, member{name: "outside", typ: tSym, body: "../x"}, member{name: "d/up", typ: tSym, body: "../all/../rules"},
			member{name: "absolute", typ: tSym, body: "/etc/passwd"}, member{name: "loop", typ: tSym, body: "loop"})
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, file{path: "x.pid"}, file{path: "y"})
		before := snapshot(t, dest)
		_, err := builtin(t, &Manifest{ExcludeFrom: test.from}, data, dest)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "exclude_from") {
				t.Errorf("%s: %v", test.from, err)
			}
			compareSnapshots(t, before, snapshot(t, dest))
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

// What is only to be deleted takes no room: not even a staging directory.
func TestBuiltinDeletesOnFullDisk(t *testing.T) {
	dest := mountTmpfs(t, "nr_inodes=6") // its root, one more and those below
	makeFiles(t, dest, file{path: "keep", body: "x", mode: 0o600}, file{path: "junk"}, file{path: "more/junk"})
	for i := 0; os.Mkdir(filepath.Join(dest, fmt.Sprint(i)), 0o755) == nil; i++ {
	}
	if _, err := builtin(t, &Manifest{}, makeTar(t, member{name: "keep", body: "x"}), dest); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dest); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// A default ACL takes the place of the umask; the archive's modes hold anyway.
func TestBuiltinUnderDefaultACL(t *testing.T) {
	for name, perms := range map[string][3]byte{"strict": {7, 5, 0}, "wide": {7, 7, 7}} {
		dest := filepath.Join(t.TempDir(), "dest")
		if err := os.Mkdir(dest, 0o755); err != nil {
			t.Fatal(err)
		}
		// struct posix_acl_xattr of the kernel: version 2; then tag,
		// permissions and id of the owner, the group and the others
		acl := []byte{2, 0, 0, 0}
		for i, tag := range []byte{0x01, 0x04, 0x20} {
			acl = append(acl, tag, 0, perms[i], 0, 0xff, 0xff, 0xff, 0xff)
		}
		if err := unix.Setxattr(dest, "system.posix_acl_default", acl, 0); err == unix.EOPNOTSUPP {
			t.Skip("no ACLs in the directory for temporary files")
		} else if err != nil {
			t.Fatal(err)
		}
		want := map[string]os.FileMode{"f": 0o644, "x": 0o755, "secret": 0o600, "d": 0o755, "d/g": 0o644, "implicit/h": 0o644, "implicit": 0o777 &^ os.FileMode(umask)}
		data := makeTar(t, member{name: "f", mode: 0o644}, member{name: "x", mode: 0o755}, member{name: "secret", mode: 0o600},
			member{name: "d/", typ: tDir, mode: 0o755}, member{name: "d/g", mode: 0o644}, member{name: "implicit/h", mode: 0o644})
		check := func(dir string) {
			t.Helper()
			for path, mode := range want {
				if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %s: %v, %v, want %v", name, path, info.Mode(), err, mode)
				}
			}
		}
		if _, err := builtin(t, &Manifest{}, data, dest); err != nil {
			t.Fatal(err)
		}
		check(dest)
		logged, err := builtin(t, &Manifest{}, data, dest)
		if err != nil || !strings.Contains(logged, "0 created, 0 changed") {
			t.Errorf("%s: again: %v\n%s", name, err, logged)
		}
		staging := filepath.Join(dest, "staging") // for mv, it is beside dest
		if err := os.Mkdir(staging, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := mustIndex(t, data).extract(t.Context(), staging); err != nil {
			t.Fatal(err)
		}
		check(staging)
	}
}

func TestBuiltinKeepsInodes(t *testing.T) {
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
	data := makeTar(t, member{name: "same", body: "1"}, member{name: "other mode", body: "1"}, member{name: "changed", body: "2"}, member{name: "link", typ: tSym, body: "x"}, member{name: "d/", typ: tDir}, member{name: "d/same", body: "1"})
	logged, err := builtin(t, &Manifest{}, data, dest)
	if err != nil {
		t.Fatal(err)
	}
	for name, inode := range inodes() {
		if (inode == before[name]) != (name != "changed" && name != "same") {
			t.Errorf("%s: inode %d, before %d", name, inode, before[name])
		}
	}
	// What shares an inode with a file of dest gets neither its new contents nor
	// its new time.
	for _, name := range []string{"linked changed", "linked same"} {
		path := filepath.Join(base, name)
		if got, err := os.ReadFile(path); err != nil || string(got) != "1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if info, err := os.Stat(path); err != nil || info.ModTime().Equal(tarTime) {
			t.Errorf("%s: time %v, %v", name, info.ModTime(), err)
		}
	}
	if !strings.Contains(logged, "0 created, 6 changed, 0 deleted, 0 unchanged, 2 B written") {
		t.Error(logged) // the times of all differ
	}
}

// The same size and the same time, but not the same bytes: rsync would pass
// this by.
func TestBuiltinComparesContents(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	for _, body := range []string{"one", "two"} {
		if _, err := builtin(t, &Manifest{}, makeTar(t, member{name: "a", body: body}), dest); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dest, "a")); err != nil || string(got) != body {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A failure while staging leaves dest as it was, times included.
func TestBuiltinStagingFails(t *testing.T) {
	members := []member{{name: "./", typ: tDir}, {name: "a", body: "new"}, {name: "b", body: "new"}, {name: "d/", typ: tDir}}
	for i := range 200 {
		members = append(members, member{name: fmt.Sprintf("d/%d", i), body: strings.Repeat("x", 4096)})
	}
	old := []file{{path: "a", body: "old"}, {path: "gone"}, {path: "d/1", body: "old"}}
	check := func(t *testing.T, before map[string]string, dest string) {
		t.Helper()
		compareSnapshots(t, before, snapshot(t, dest))
	}
	t.Run("no room", func(t *testing.T) {
		dest := filepath.Join(mountTmpfs(t, "size=512k"), "dest")
		makeFiles(t, dest, old...)
		before := snapshot(t, dest)
		if _, err := builtin(t, &Manifest{}, makeTar(t, members...), dest); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("cancelled", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		makeFiles(t, dest, old...)
		before := snapshot(t, dest)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		a := mustIndex(t, makeTar(t, members...))
		s := &builtinStrategy{&Manifest{}}
		attrs, err := newAttributes(a.tree)
		if err != nil {
			t.Fatal(err)
		}
		err = s.sync(ctx, a.tree, failAfter(spooled{a.data}, func() error { cancel(stopped); return nil }), attrs, dest)
		if !errors.Is(err, stopped) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
	t.Run("unreadable, dest missing", func(t *testing.T) {
		dest := filepath.Join(t.TempDir(), "dest")
		broken := errors.New("broken disk")
		a := mustIndex(t, makeTar(t, members...))
		attrs, err := newAttributes(a.tree)
		if err != nil {
			t.Fatal(err)
		}
		err = (&builtinStrategy{&Manifest{}}).sync(t.Context(), a.tree, failAfter(spooled{a.data}, func() error { return broken }), attrs, dest)
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
		before := snapshot(t, dest)
		data := makeTarHeaders(t, &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
		if _, err := builtin(t, &Manifest{}, data, dest); !errors.Is(err, unix.EPERM) {
			t.Errorf("%v", err)
		}
		check(t, before, dest)
	})
}

// failingContents calls fail when it has been opened a number of times.
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

func (c *failingContents) open(e *entry) (*window, error) {
	if c.left.Add(-1) == 0 {
		if err := c.fail(); err != nil {
			return nil, err
		}
	}
	return c.contents.open(e)
}

// A mount below dest gets its own staging directory.
func TestBuiltinAcrossMounts(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	makeFiles(t, dest, file{path: "a", body: "old"}, file{path: "m/"})
	mounted := filepath.Join(dest, "m")
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "mode=0755"); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) })
	makeFiles(t, mounted, file{path: "changed", body: "old"}, file{path: "gone/x"}, file{path: "d/changed", body: "old"}, file{path: "toDir"}, file{path: ".stretcher-7/left"})
	members := []member{{name: "./", typ: tDir}, {name: "a", body: "new"}, {name: "m/", typ: tDir, mode: 0o711}, {name: "m/changed", body: "new"}, {name: "m/new/", typ: tDir}, {name: "m/new/x"}, {name: "m/d/", typ: tDir}, {name: "m/d/changed", body: "new"}, {name: "m/toDir/", typ: tDir}}
	data := makeTar(t, members...)
	if _, err := builtin(t, &Manifest{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "want")
	if _, err := builtin(t, &Manifest{}, data, want); err != nil {
		t.Fatal(err)
	}
	compareTrees(t, want, dest)
	// Without it in the archive, it would have to go, and cannot.
	before := snapshot(t, dest)
	if _, err := builtin(t, &Manifest{}, makeTar(t, member{name: "a", body: "newer"}), dest); err == nil || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("%v", err)
	}
	compareSnapshots(t, before, snapshot(t, dest))
}

// On an overlay, a directory of a lower layer cannot be renamed.
func TestBuiltinOnOverlay(t *testing.T) {
	base := mountTmpfs(t, "mode=0755")
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
	data := makeTar(t, member{name: "./", typ: tDir}, member{name: "dirToFile", body: "x"}, member{name: "kept/", typ: tDir}, member{name: "kept/a", body: "a"},
		member{name: "changed", body: "new"}, member{name: "linkToDir/", typ: tDir}, member{name: "linkToDir/b"})
	if _, err := builtin(t, &Manifest{}, data, dest); err != nil {
		t.Fatal(err)
	}
	want := t.TempDir()
	if err := mustIndex(t, data).extract(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	compareTrees(t, want, dest)
}

// Devices and owners, which only root can give.
func TestBuiltinAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make devices and give files away")
	}
	header := func(name string, typ byte, mode int64, uid, gid int) *tar.Header {
		return &tar.Header{Name: name, Typeflag: typ, Mode: mode, ModTime: tarTime, Uid: uid, Gid: gid, Devmajor: 1, Devminor: 3, Linkname: "t"}
	}
	older := makeTarHeaders(t, header("./", '5', 0o755, 1, 1), header("dev", '3', 0o600, 1, 1), header("same", '3', 0o600, 1, 1),
		header("file", '0', 0o644, 1, 1), header("link", '2', 0o777, 1, 1), header("d/", '5', 0o755, 1, 1), header("suid", '0', 0o4755, 1, 1))
	newer := makeTarHeaders(t, header("./", '5', 0o755, 2, 1), header("dev", '3', 0o640, 2, 3), header("same", '3', 0o600, 1, 1),
		header("file", '0', 0o644, 2, 3), header("link", '2', 0o777, 2, 3), header("d/", '5', 0o2755, 2, 3), header("suid", '0', 0o4755, 2, 3))
	base := t.TempDir()
	want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
	for _, data := range [][]byte{older, newer, older} {
		if _, err := byTools(t, &Manifest{}, data, want, "--checksum"); err != nil {
			t.Fatal(err)
		}
		if _, err := builtin(t, &Manifest{}, data, got); err != nil {
			t.Fatal(err)
		}
		compareTrees(t, want, got)
	}
}

func TestBuiltinSparse(t *testing.T) {
	for _, sparse := range sparseArchives(t, sparseFiles) {
		dest := filepath.Join(t.TempDir(), "dest")
		if _, err := builtin(t, &Manifest{}, sparse.data, dest); err != nil {
			t.Fatal(err)
		}
		want := t.TempDir()
		if err := extractByTar(t, sparse.data, want); err != nil {
			t.Fatal(err)
		}
		compareTrees(t, want, dest)
		if logged, err := builtin(t, &Manifest{}, sparse.data, dest); err != nil || !strings.Contains(logged, "0 created, 0 changed, 0 deleted") {
			t.Errorf("%s again: %v: %s", sparse.name, err, logged)
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
		if logged, err := builtin(t, &Manifest{}, sparse.data, dest); err != nil || !strings.Contains(logged, "0 created, 1 changed, 0 deleted") {
			t.Errorf("%s with a hole filled: %v: %s", sparse.name, err, logged)
		}
	}
}

// The exported method, from a directory.
func TestBuiltinSync(t *testing.T) {
	base := t.TempDir()
	t.Cleanup(func() { removeTree(base) })
	from, want, got := filepath.Join(base, "from"), filepath.Join(base, "want"), filepath.Join(base, "got")
	makeFiles(t, from, file{path: "a", body: "new", mode: 0o666}, file{path: "d/b", body: "b"}, file{path: "d/", mode: 0o2577}, file{path: "l", body: "-> /etc"}, file{path: "p", body: "fifo"}, file{path: "x.pid"}, file{path: "rules", body: "*.pid\n"})
	makeFiles(t, want, file{path: "a", body: "old"}, file{path: "gone/x"}, file{path: "y.pid"})
	copyTree(t, want, got)
	m := &Manifest{ExcludeFrom: "rules"}
	if out, err := exec.Command("rsync", "-a", "--delete", "--checksum", "--exclude-from="+from+"/rules", from+"/", want+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := (&builtinStrategy{m}).Sync(from, got); err != nil {
		t.Fatal(err)
	}
	compareTrees(t, want, got)
	if err := (&builtinStrategy{&Manifest{}}).Sync(filepath.Join(base, "missing"), got); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Somebody who may write to dest swaps its directories for links, while root
// deploys.
func TestBuiltinAgainstSwaps(t *testing.T) {
	base := t.TempDir()
	canary, dest := filepath.Join(base, "canary"), filepath.Join(base, "dest")
	makeFiles(t, canary, file{path: "e/f0", body: "canary"}, file{path: "other", body: "canary"})
	before := snapshot(t, canary)
	archives := [2][]byte{}
	for generation := range archives {
		var members []member
		for i := range 20 {
			for j := range 10 {
				members = append(members, member{name: fmt.Sprintf("d%d/e/f%d", i, j+generation), body: fmt.Sprint(generation), mode: 0o666})
			}
		}
		archives[generation] = makeTar(t, members...)
	}
	if _, err := builtin(t, &Manifest{}, archives[1], dest); err != nil {
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
				// Away and back again, so that the next round has a victim too.
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
		if err := (&builtinStrategy{&Manifest{}}).syncArchive(t.Context(), mustIndex(t, archives[round%2]), dest, 0o755); err != nil {
			refused++
		}
	}
	cancel()
	swapped := <-done
	compareSnapshots(t, before, snapshot(t, canary))
	if swapped == 0 {
		t.Error("nothing was swapped: the test shows nothing")
	}
	t.Logf("%d swaps, %d of 40 syncs failed", swapped, refused)
}
