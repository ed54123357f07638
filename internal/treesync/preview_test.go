package treesync

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// exact describes all that stat(2) tells of the files below dir, access times aside.
func exact(t testing.TB, dir string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		lines[path] = fmt.Sprintf("inode %d mode %o owner %d:%d links %d size %d mtime %v ctime %v", st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// listed returns the items by their paths, in the words of the difference between
// two snapshots. The items have to be sorted.
func listed(t *testing.T, items []preview.Item) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, i := range items {
		if list[i.Path] != "" {
			t.Errorf("%s is listed twice", i.Path)
		}
		list[i.Path] = [...]string{"created", "changed", "deleted"}[i.Kind]
		if i.Kind == preview.Change && len(i.Differs) == 0 {
			t.Errorf("%s: nothing differs", i.Path)
		}
	}
	if !slices.IsSortedFunc(items, func(a, b preview.Item) int { return preview.ComparePaths(a.Path, b.Path) }) {
		t.Errorf("not sorted: %v", items)
	}
	return list
}

var (
	mtimeAt = regexp.MustCompile(` mtime \S+`)
	linksAt = regexp.MustCompile(` links .*`)
)

// difference returns what differs between two snapshots. The times of directories
// that the tree does not set are not compared, and neither are further names.
func difference(before, after map[string]string, tree *archive.Tree) map[string]string {
	plain := func(path, line string) string {
		line = linksAt.ReplaceAllString(line, "")
		e := tree.Root
		for name := range strings.SplitSeq(strings.TrimPrefix(path, "."), "/") {
			if name != "" && e != nil {
				e = e.Child(name)
			}
		}
		if e == nil || e.Implicit() {
			line = mtimeAt.ReplaceAllString(line, "")
		}
		return line
	}
	list := map[string]string{}
	for path, line := range after {
		switch old := before[path]; {
		case old == "":
			list[path] = "created"
		case plain(path, old) != plain(path, line):
			list[path] = "changed"
		}
	}
	for path := range before {
		if after[path] == "" {
			list[path] = "deleted"
		}
	}
	return list
}

// A preview lists what a sync then changes, for random archives, rules, and contents
// of dest, and it changes nothing itself.
func TestPreviewAtRandom(t *testing.T) {
	t.Parallel()
	first := uint64(time.Now().UnixNano())
	for i := range 80 {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			base := t.TempDir()
			t.Cleanup(func() { unixfs.RemoveTree(base) })
			dest := filepath.Join(base, "parent", "dest")
			older := randomMembers(r, 0)
			makeFiles(t, base, file{path: "parent/"})
			if r.IntN(8) > 0 {
				if err := os.Mkdir(dest, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := Extract(t.Context(), mustIndex(t, tartest.Make(t, older...)), dest); err != nil {
					t.Fatal(err)
				}
				disturb(t, r, dest)
			}
			newer := randomMembers(r, 1)
			if r.IntN(2) == 0 {
				newer = mutate(r, older, newer)
			}
			for n := range r.IntN(3) { // hard links
				for _, m := range newer {
					if m.Type == 0 && r.IntN(4) == 0 {
						newer = append(newer, tartest.Member{Name: fmt.Sprintf("link%d", n), Type: '1', Body: m.Name})
						break
					}
				}
			}
			data := tartest.Make(t, newer...)
			o := Options{Mode: 0o755, Excludes: randomRules(r)}
			was := exact(t, base)
			a := mustIndex(t, data)
			items, previewErr := Preview(t.Context(), a, dest, o)
			got := listed(t, slices.Collect(items))
			tartest.CompareSnapshots(t, was, exact(t, base))
			before := map[string]string{}
			if _, err := os.Lstat(dest); err == nil {
				before = tartest.Snapshot(t, dest)
			}
			_, err := syncBytes(t, o, data, dest)
			if fmt.Sprint(err) != fmt.Sprint(previewErr) && !(err != nil && previewErr != nil && strings.Contains(previewErr.Error(), "more)")) {
				t.Fatalf("sync: %v, preview: %v", err, previewErr)
			}
			if err == nil {
				tartest.CompareSnapshots(t, difference(before, tartest.Snapshot(t, dest), a.Tree), got)
			}
			if t.Failed() {
				t.Logf("rules %q\nold %v\nnew %v", o.Excludes, older, newer)
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// disturb gives files other times, owners and further names.
func disturb(t *testing.T, r *rand.Rand, dest string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(exact(t, dest))) {
		var err error
		switch r.IntN(8) {
		case 0:
			err = unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{{Sec: 1}, {Sec: tartest.Time.Unix(), Nsec: int64(r.IntN(2))}}, unix.AT_SYMLINK_NOFOLLOW)
		case 1:
			if os.Geteuid() == 0 {
				err = os.Lchown(name, r.IntN(2), r.IntN(2))
			}
		case 2:
			if info, statErr := os.Lstat(name); statErr == nil && !info.IsDir() {
				err = os.Link(name, name+"+")
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
