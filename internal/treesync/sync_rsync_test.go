package treesync

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

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
