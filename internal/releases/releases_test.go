package releases

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/treesync"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// tree returns the tree of an archive with a file.
func tree(t testing.TB, body string) *treesync.Fresh {
	t.Helper()
	return treeOf(t, tartest.Member{Name: "file", Body: body})
}

func treeOf(t testing.TB, members ...tartest.Member) *treesync.Fresh {
	t.Helper()
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	data := tartest.Make(t, members...)
	if _, err := file.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Index(t.Context(), strings.NewReader(string(data)), file, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	a.TakeOver(file)
	t.Cleanup(func() { a.Close() })
	f, err := treesync.FreshArchive(t.Context(), a, treesync.Options{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t testing.TB, dest string) *Store {
	t.Helper()
	s, err := Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// id returns the ID of a release with a file of these contents.
func id(body string) ID { return NewID(fmt.Sprintf("%064x", body)) }

// deployed makes a release with a file, and switches to it.
func deployed(t testing.TB, dest, body string) string {
	t.Helper()
	s := open(t, dest)
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	manifest := []byte("manifest of " + body)
	name, err := s.Make(t.Context(), tree(t, body), id(body), nil, manifest)
	if err == nil {
		err = s.Switch(name, manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func wantFile(t testing.TB, dest, want string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dest, "file")); string(got) != want || err != nil {
		t.Errorf("dest has %q, expected %q: %v", got, want, err)
	}
}

// names lists the directories of the releases.
func names(t testing.TB, dest string) []string {
	t.Helper()
	list, err := filepath.Glob(dest + Suffix + "/*Z-*[^l]")
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = filepath.Base(list[i])
	}
	return list
}

func TestNewID(t *testing.T) {
	t.Parallel()
	const sum = "0123456789abcdef0123456789abcdef"
	seen := map[ID]string{}
	for _, options := range [][]any{
		{}, {"0755"}, {"0700"}, {"0755", []string{"a", "b"}}, {"0755", []string{"a b"}}, {"0755", []string{"a"}, "b"}, {"0755", []string{"a"}, []string{"b"}}, {"0755", []string{`a" "b`}}, {"\xff"}, {"\xfe"},
	} {
		got := NewID(strings.ToUpper(sum), options...)
		if other, ok := seen[got]; ok {
			t.Errorf("%q has the ID of %s", options, other)
		}
		seen[got] = fmt.Sprintf("%q", options)
		if got != NewID(sum, options...) || !isReleaseName("20260101T000000.000Z-"+string(got)) {
			t.Errorf("%q has the ID %s", options, got)
		}
	}
	if NewID(sum) == NewID(sum[:31]+"e") {
		t.Error("the end of the checksum does not count")
	}
	if got := NewID(""); !isReleaseName("20260101T000000.000Z-" + string(got)) {
		t.Errorf("without a checksum, the ID is %s", got)
	}
}

// Only names that this package makes are those of releases: what has another name
// is never removed.
func TestParseName(t *testing.T) {
	t.Parallel()
	const name = "20260801T101500.250Z-0123456789ab-ba9876543210"
	made, id, ok := parseName(name)
	if want := time.Date(2026, 8, 1, 10, 15, 0, 250_000_000, time.UTC); !ok || !made.Equal(want) || id != "0123456789ab-ba9876543210" {
		t.Errorf("got %v, %s, %v", made, id, ok)
	}
	for _, other := range []string{
		"", "-", "before", name + "-", name + "0", " " + name, strings.ToUpper(name), strings.TrimSuffix(name, "0"), strings.Replace(name, ".250", ",250", 1),
		"20261301T101500.250Z-0123456789ab-ba9876543210", "20260801T101500Z-0123456789ab-ba9876543210", "20260801T101500.250Z-0123456789ab-ba987654321g", "20260801T101500.250Z-0123456789abba9876543210",
	} {
		if isReleaseName(other) {
			t.Errorf("%q is the name of a release", other)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("20260801T101500.250Z-0123456789ab-ba9876543210")
	f.Add("20260801T101500,250Z-0123456789ab-ba9876543210")
	f.Fuzz(func(t *testing.T, name string) {
		if made, id, ok := parseName(name); ok && made.Format(timeLayout)+"-"+string(id) != name {
			t.Errorf("%q is read as %v, %q", name, made, id)
		}
	})
}

// Names sort in the order in which the releases were made, even if one was made in
// the future.
func TestOrder(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	deployed(t, dest, "0")
	future := "22220101T000000.000Z-0123456789ab-0123456789ab"
	if err := os.Rename(filepath.Join(dest+Suffix, names(t, dest)[0]), filepath.Join(dest+Suffix, future)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dest+Suffix, future+".yml"), nil, 0o600), os.Remove(dest)); err != nil {
		t.Fatal(err)
	}
	made := []string{future}
	for i := range 5 {
		made = append(made, deployed(t, dest, fmt.Sprint(i)))
	}
	if got := names(t, dest); !slices.Equal(got, made) {
		t.Errorf("got %v, expected %v", got, made)
	}
	s := open(t, dest)
	if name, manifest, err := s.Before(); name != made[4] || string(manifest) != "manifest of 3" || err != nil {
		t.Errorf("before the current one: %s, %q, %v", name, manifest, err)
	}
	// The current one stays, and so do the newest of the others.
	if err := s.Switch(made[1], []byte("manifest of 0")); err != nil {
		t.Fatal(err)
	}
	s.Prune(2)
	if got, want := names(t, dest), []string{made[1], made[5]}; !slices.Equal(got, want) {
		t.Errorf("left %v, expected %v", got, want)
	}
	wantFile(t, dest, "0")
	if _, _, err := s.Before(); err == nil || !strings.Contains(err.Error(), "no finished release that is older than the current one, "+made[1]) {
		t.Errorf("before the oldest one: %v", err)
	}
}

// A process can be killed after any of the steps. dest is whole, and the next run
// removes what is left.
func TestKilled(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(s *Store, name string) error{
		"before the mark": func(s *Store, name string) error {
			return os.Rename(filepath.Join(s.dest+Suffix, name+".yml"), filepath.Join(s.dest+Suffix, "."+name+".yml"))
		},
		"before the manifest": func(s *Store, name string) error {
			return os.Remove(filepath.Join(s.dest+Suffix, name+".yml"))
		},
		"before the rename of the link": func(s *Store, name string) error {
			return errors.Join(os.Symlink("dest.releases/"+name, filepath.Join(filepath.Dir(s.dest), ".dest.new")),
				os.Remove(filepath.Join(s.dest+Suffix, name+".yml")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "dest")
			old := deployed(t, dest, "old")
			s := open(t, dest)
			unfinished, err := s.Make(t.Context(), tree(t, "new"), id("new"), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := kill(s, unfinished); err != nil {
				t.Fatal(err)
			}
			wantFile(t, dest, "old")
			if found, err := s.Find(id("new")); found != "" || err != nil {
				t.Errorf("found the release %q, %v", found, err)
			}
			if err := open(t, dest).Clean(); err != nil {
				t.Fatal(err)
			}
			list, err := os.ReadDir(dest + Suffix)
			if err != nil || len(list) != 2 || list[0].Name() != old || list[1].Name() != old+".yml" {
				t.Errorf("left %v, %v", list, err)
			}
			if list, err := os.ReadDir(filepath.Dir(dest)); err != nil || len(list) != 2 {
				t.Errorf("left beside dest %v, %v", list, err)
			}
		})
	}
}

// The current release is never removed, not even if it has lost its mark.
func TestCleanKeepsCurrent(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	name := deployed(t, dest, "x")
	if err := os.Remove(filepath.Join(dest+Suffix, name+".yml")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dest)
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	s.Prune(0)
	wantFile(t, dest, "x")
}

// A release that cannot be made leaves nothing, and dest stays.
func TestMakeFails(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	deployed(t, dest, "x")
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := open(t, dest).Make(ctx, tree(t, "y"), id("y"), nil, nil); !errors.Is(err, cause) {
		t.Errorf("got error %v", err)
	}
	if got := names(t, dest); len(got) != 1 {
		t.Errorf("left %v", got)
	}
	wantFile(t, dest, "x")

	full := tartest.MountTmpfs(t, "size=256k")
	dest = filepath.Join(full, "dest")
	deployed(t, dest, "x")
	_, err := open(t, dest).Make(t.Context(), tree(t, strings.Repeat("x", 300<<10)), id("y"), nil, nil)
	if err == nil || !regexp.MustCompile(`no space left \(needs 300 KiB more, [0-9.]+ KiB free\) while writing file; dest is unchanged: `).MatchString(err.Error()) {
		t.Errorf("got error %v", err)
	}
	// Each file takes a block.
	var small []tartest.Member
	for i := range 100 {
		small = append(small, tartest.Member{Name: fmt.Sprint(i), Body: "x"})
	}
	_, err = open(t, dest).Make(t.Context(), treeOf(t, small...), id("y"), nil, nil)
	if err == nil || !regexp.MustCompile(`no space left \(needs 100 B more, [0-9.]+ KiB free\) while writing [0-9]+; dest is unchanged: `).MatchString(err.Error()) {
		t.Errorf("got error %v", err)
	}
	if got, err := os.ReadDir(dest + Suffix); len(got) != 2 || err != nil {
		t.Errorf("left %v, %v", got, err)
	}
	wantFile(t, dest, "x")
}

// What a command has mounted into a release is not deleted with that.
func TestPruneKeepsMounts(t *testing.T) {
	t.Parallel()
	data := tartest.MountTmpfs(t, "size=1m")
	if err := os.WriteFile(filepath.Join(data, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "dest")
	first := deployed(t, dest, "1")
	mounted := filepath.Join(dest+Suffix, first, "data")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	tartest.BindMount(t, data, mounted)
	deployed(t, dest, "2")
	s := open(t, dest)
	s.Prune(1)
	if err := s.Clean(); err != nil { // since its mark is gone
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, "precious")); err != nil {
		t.Error(err)
	}
}

// Commands of a manifest that another user could have written are not run.
func TestForeignManifest(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	first := deployed(t, dest, "1")
	deployed(t, dest, "2")
	manifest := filepath.Join(dest+Suffix, first+".yml")
	if err := os.Chmod(manifest, 0o622); err != nil {
		t.Fatal(err)
	}
	s := open(t, dest)
	if _, _, err := s.Before(); err == nil || !strings.Contains(err.Error(), "can be written by another user") {
		t.Errorf("writable by others: %v", err)
	}
	if err := errors.Join(os.Rename(manifest, dest+"-other"), os.Symlink(dest+"-other", manifest)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Before(); err == nil {
		t.Error("a symbolic link is a manifest")
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's file")
	}
	if err := errors.Join(os.WriteFile(manifest, nil, 0o600), os.Chown(manifest, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Before(); err == nil {
		t.Error("another user's file is a manifest")
	}
	s.Prune(1)
	if err := s.Clean(); err != nil || len(names(t, dest)) != 2 {
		t.Errorf("another user's release was removed: %v", err)
	}
}

// A failing rename leaves what dest was.
func TestSwitchFails(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	deployed(t, dest, "1")
	s := open(t, dest)
	name, err := s.Make(t.Context(), tree(t, "2"), id("2"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(filepath.Dir(dest), ".dest.new")
	if err := os.WriteFile(inTheWay, []byte("of somebody else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Switch(name, nil); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "create the link .dest.new") {
		t.Errorf("got error %v", err)
	}
	s.Undo()
	wantFile(t, dest, "1")
	if got := names(t, dest); len(got) != 1 {
		t.Errorf("left %v", got)
	}
	if data, err := os.ReadFile(inTheWay); string(data) != "of somebody else" || err != nil {
		t.Errorf("it has %q, %v", data, err)
	}
}

// If post fails because the disk is full, dest goes back to what it was: the mark of
// the release, which goes first, leaves room for the link.
func TestUndoOnFullDisk(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(tartest.MountTmpfs(t, "nr_inodes=32"), "dest")
	old := deployed(t, dest, "old")
	s := open(t, dest)
	name, err := s.Make(t.Context(), tree(t, "new"), id("new"), nil, nil)
	if err == nil {
		err = s.Switch(name, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(filepath.Dir(dest), fmt.Sprint(i)), nil, 0o600)
	}
	s.Undo()
	wantFile(t, dest, "old")
	if got := names(t, dest); len(got) != 1 || got[0] != old {
		t.Errorf("left %v", got)
	}
}

// A release that could not be switched to is removed, whatever dest has become.
func TestUndoWithoutSwitch(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	s := open(t, dest)
	name, err := s.Make(t.Context(), tree(t, "x"), id("x"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Switch(name, nil); !errors.Is(err, ErrForeign) {
		t.Errorf("got error %v", err)
	}
	s.Undo()
	if left, err := os.ReadDir(dest + Suffix); len(left) > 0 || err != nil {
		t.Errorf("left %v, %v", left, err)
	}
}

// The manifest of a release is the one with which it was deployed last, so that a
// rollback to it runs the commands that were mended since it was made. A deployment
// that fails changes nothing of that.
func TestKeepManifest(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	first := deployed(t, dest, "1")
	for _, succeeds := range []bool{false, true} {
		s := open(t, dest)
		if err := s.Switch(first, []byte("mended")); err != nil {
			t.Fatal(err)
		}
		if succeeds {
			s.Prune(5)
		} else {
			s.Undo()
		}
		want := map[bool]string{false: "manifest of 1", true: "mended"}[succeeds]
		path := s.ManifestPath(first)
		if got, err := os.ReadFile(path); string(got) != want || err != nil {
			t.Errorf("the manifest is %q, %v, expected %q", got, err, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("its mode is %v, %v", info.Mode(), err)
		}
	}
	if list, err := os.ReadDir(dest + Suffix); len(list) != 2 || err != nil {
		t.Errorf("there are %v, %v", list, err)
	}
}

// A manifest that cannot be replaced stays, and leaves nothing beside it.
func TestKeepManifestOnFullDisk(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(tartest.MountTmpfs(t, "size=128k"), "dest")
	first := deployed(t, dest, "1")
	s := open(t, dest)
	if err := s.Switch(first, []byte("mended")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(dest), "fill"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	s.Prune(5)
	if got, err := os.ReadFile(s.ManifestPath(first)); string(got) != "manifest of 1" || err != nil {
		t.Errorf("the manifest is %q, %v", got, err)
	}
	if list, err := os.ReadDir(dest + Suffix); len(list) != 2 || err != nil {
		t.Errorf("there are %v, %v", list, err)
	}
}
