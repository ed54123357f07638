package treesync

import (
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/tartest"
)

const immutable, appendOnly = 0x10, 0x20 // FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h

// setFlag does what chattr(1) does, until the test ends.
func setFlag(t *testing.T, path string, flag int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	set := func(flag int) error { return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag) }
	t.Cleanup(func() { set(0); f.Close() })
	if err := set(flag); err != nil {
		t.Skipf("chattr %s: %v", path, err)
	}
}

func bindMount(t *testing.T, path string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "mounted")
	if err := os.WriteFile(source, []byte("mounted"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
}

// What cannot be deleted, replaced or changed fails the sync before it changes
// anything, and does so each time. The error says what it is and why.
func TestSyncOfWhatIsDenied(t *testing.T) {
	t.Parallel()
	set := func(path string, flag int) func(*testing.T, string) {
		return func(t *testing.T, dest string) { setFlag(t, filepath.Join(dest, path), flag) }
	}
	mount := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dest string) { bindMount(t, filepath.Join(dest, path)) }
	}
	const isImmutable, isAppendOnly = "is immutable: remove that by chattr -i)", "is append-only: remove that by chattr -a)"
	for _, test := range []struct {
		name  string
		set   func(t *testing.T, dest string)
		other *tartest.Member // in the archive, beside app
		want  []string        // in the error
	}{
		{"immutable file in a deleted directory", set("up/er/photo", immutable), nil, []string{"up/er/photo: operation not permitted (the file ", isImmutable}},
		{"immutable file where the archive has a file", set("up/er/photo", immutable), &tartest.Member{Name: "up"}, []string{"up/er/photo: operation not permitted (the file ", isImmutable}},
		{"immutable file where the archive has a symlink", set("up/er/photo", immutable), &tartest.Member{Name: "up/er", Type: tSym, Body: "x"}, []string{"up/er/photo: operation not permitted (the file ", isImmutable}},
		{"immutable file at the top", set("ini", immutable), nil, []string{" ini: operation not permitted (the file ", isImmutable}},
		{"immutable file to replace", set("ini", immutable), &tartest.Member{Name: "ini", Body: "new"}, []string{" ini: operation not permitted (the file ", isImmutable}},
		{"immutable file to replace by a directory", set("ini", immutable), &tartest.Member{Name: "ini/x", Body: "new"}, []string{" ini: operation not permitted (the file ", isImmutable}},
		{"immutable file with another time", set("ini", immutable), &tartest.Member{Name: "ini", Body: "old"}, []string{" ini: operation not permitted (the file ", isImmutable}},
		{"append-only file", set("up/log", appendOnly), nil, []string{"up/log: operation not permitted (the file ", isAppendOnly}},
		{"immutable directory", set("up/er", immutable), nil, []string{"up/er/photo: operation not permitted (the directory that it is in ", isImmutable}},
		{"append-only directory", set("up/er", appendOnly), nil, []string{"up/er/photo: operation not permitted (the directory that it is in ", isAppendOnly}},
		{"empty immutable directory", set("up/empty", immutable), nil, []string{"up/empty: operation not permitted (the directory ", isImmutable}},
		{"new name in an immutable directory", set("up/empty", immutable), &tartest.Member{Name: "up/empty/new"}, []string{"up/empty/new: operation not permitted (the directory that it is in ", isImmutable}},
		{"mode of an immutable directory", set("up/empty", immutable), &tartest.Member{Name: "up/empty/", Type: tDir, Mode: 0o700}, []string{"up/empty: operation not permitted (the directory ", isImmutable}},
		{"immutable dest", set(".", immutable), nil, []string{"/dest: operation not permitted (the directory ", isImmutable}},
		{"append-only dest", set(".", appendOnly), &tartest.Member{Name: "new"}, []string{"operation not permitted (the directory ", isAppendOnly}},
		{"mounted file", mount("ini"), nil, []string{" ini: is a mount point"}},
		{"mounted file to replace", mount("ini"), &tartest.Member{Name: "ini", Body: "new"}, []string{" ini: is a mount point"}},
		{"mounted file in a deleted directory", mount("up/er/photo"), nil, []string{" up/er/photo: is a mount point"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "dest")
			makeFiles(t, dest, file{path: "app", body: "old"}, file{path: "gone"}, file{path: "ini", body: "old"}, file{path: "up/er/photo"}, file{path: "up/log"}, file{path: "up/empty/"})
			test.set(t, dest)
			members := []tartest.Member{{Name: "app", Body: "new"}}
			if test.other != nil {
				members = append(members, *test.other)
			}
			data := tartest.Make(t, members...)
			before := tartest.Snapshot(t, dest)
			for range 2 {
				_, err := syncBytes(t, Options{}, data, dest)
				for _, want := range test.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v, want %q", err, want)
					}
				}
				tartest.CompareSnapshots(t, before, tartest.Snapshot(t, dest))
			}
		})
	}
}

// What is not to change may be as immutable as it wants.
func TestSyncKeepsImmutable(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	data := tartest.Make(t, tartest.Member{Name: "app", Body: "new"}, tartest.Member{Name: "ini", Body: "same"}, tartest.Member{Name: "d/x", Body: "x"})
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	makeFiles(t, filepath.Join(dest, "excluded"), file{path: "photo"})
	if err := os.WriteFile(filepath.Join(dest, "app"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ini", "d", "excluded/photo", "excluded"} {
		setFlag(t, filepath.Join(dest, name), immutable)
	}
	if logged, err := syncBytes(t, Options{Excludes: []string{"/excluded"}}, data, dest); err != nil || !strings.Contains(logged, " 0 created, 1 changed, 0 deleted") {
		t.Errorf("%v: %s", err, logged)
	}
}

// newSync opens dest and prepares the sync of an archive to it, so that a test
// can go through its steps.
func newSync(t *testing.T, a *archive.Archive, dest string) (fd int, c *comparison) {
	t.Helper()
	attrs, err := newAttributes(t.Context(), a.Tree)
	if err != nil {
		t.Fatal(err)
	}
	fd, _, err = openDest(dest)
	if err != nil {
		t.Fatal(err)
	}
	s := &staging{attrs: attrs}
	t.Cleanup(func() { s.close(); unix.Close(fd) })
	return fd, &comparison{rules: &rsyncfilter.List{}, attrs: attrs, contents: archiveContents{a.Data()}, staging: s}
}

// newCommitter is newSync up to the comparison: the commit is the next step.
func newCommitter(t *testing.T, a *archive.Archive, dest string) (fd int, c *committer) {
	t.Helper()
	fd, compared := newSync(t, a, dest)
	p, err := compared.compare(t.Context(), a.Tree.Root, fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, &committer{plan: p, attrs: compared.attrs, staging: compared.staging}
}

// A file that becomes undeletable only after the comparison stands for what the
// kernel does not tell before. It goes back to where it was, and all else is
// synced.
func TestSyncPutsBackWhatCannotBeDeleted(t *testing.T) {
	t.Parallel()
	for name, member := range map[string]tartest.Member{
		"deleted":               {Name: "app", Body: "new"},
		"replaced by a file":    {Name: "up", Body: "new"},
		"replaced by a symlink": {Name: "up/er", Type: tSym, Body: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "dest")
			makeFiles(t, dest, file{path: "app", body: "old"}, file{path: "gone/x"}, file{path: "up/er/photo", body: "precious"}, file{path: "up/er/other"})
			a := mustIndex(t, tartest.Make(t, member, tartest.Member{Name: "last", Body: "last"}))
			fd, c := newCommitter(t, a, dest)
			if err := c.commit(fd); err != nil {
				t.Fatal(err)
			}
			for path := range tartest.Snapshot(t, dest) { // it is in the staging directory
				if got, _ := os.ReadFile(filepath.Join(dest, path)); string(got) == "precious" {
					setFlag(t, filepath.Join(dest, path), immutable)
				}
			}
			if err := c.clear(fd); err == nil || err.Error() != "up/er/photo: operation not permitted (it is immutable: remove that by chattr -i)" {
				t.Errorf("%v", err)
			}
			found := tartest.Snapshot(t, dest)
			for _, path := range []string{".", "last", "up", "up/er"} {
				if found[path] == "" {
					t.Errorf("%s is missing", path)
				}
				delete(found, path)
			}
			delete(found, "app") // which only one of the archives has
			delete(found, "up/er/other")
			if got, err := os.ReadFile(filepath.Join(dest, "up/er/photo")); err != nil || string(got) != "precious" || len(found) != 1 {
				t.Errorf("%q, %v, left: %v", got, err, found)
			}
		})
	}
}

// A commit that fails is undone.
func TestSyncRollsBack(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"d/swap", "d/e/gone/x", "z/gone", "z/dir/x", "e", "d"} {
		t.Run(strings.ReplaceAll(victim, "/", " "), func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "dest")
			makeFiles(t, dest, file{path: "a", body: "old"}, file{path: "d/swap", body: "old"}, file{path: "d/swap2", body: "old"}, file{path: "d/e/gone/x"}, file{path: "d/e/gone/"}, file{path: "z/gone"}, file{path: "z/dir/x"}, file{path: "e/same"}, file{path: "d/", mode: 0o700}, file{path: "gone/x/y"}, file{path: "link", body: "-> a"})
			a := mustIndex(t, tartest.Make(t, tartest.Member{Name: "./", Type: tDir, Mode: 0o711}, tartest.Member{Name: "a", Body: "new"}, tartest.Member{Name: "d/", Type: tDir}, tartest.Member{Name: "d/swap", Body: "new"}, tartest.Member{Name: "d/swap2", Body: "new"},
				tartest.Member{Name: "d/added"}, tartest.Member{Name: "d/addeddir/x"}, tartest.Member{Name: "d/e/", Type: tDir}, tartest.Member{Name: "d/e/new"}, tartest.Member{Name: "z/", Type: tDir}, tartest.Member{Name: "z/dir", Body: "was a directory"}, tartest.Member{Name: "e/", Type: tDir}, tartest.Member{Name: "link/x"}))
			before := tartest.Snapshot(t, dest)
			fd, c := newCommitter(t, a, dest)
			// What is immutable cannot be moved; if it is in a directory that was
			// moved as a whole, only clear finds it.
			setFlag(t, filepath.Join(dest, victim), immutable)
			_, err := c.run(fd)
			if err == nil || !strings.Contains(err.Error(), victim) && victim != "d" && victim != "e" {
				t.Errorf("%v", err)
			}
			after := tartest.Snapshot(t, dest)
			if victim == "d/e/gone/x" || victim == "z/dir/x" {
				if after[victim] == "" || after["d/added"] == "" {
					t.Errorf("%v: %v", err, after)
				}
				return
			}
			tartest.CompareSnapshots(t, before, after)
		})
	}
}

// What cannot be moved back after a failure is not deleted either: the staging
// directory has the only copy of it.
func TestSyncKeepsWhatIsNotRolledBack(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dest := filepath.Join(base, "dest")
	makeFiles(t, dest, file{path: "a", body: "old"}, file{path: "d/gone", body: "precious"})
	a := mustIndex(t, tartest.Make(t, tartest.Member{Name: "a", Body: "new"}, tartest.Member{Name: "d/new"}))
	fd, c := newCommitter(t, a, dest)
	if err := c.commit(fd); err != nil {
		t.Fatal(err)
	}
	// Another program moves the directory that the file was in.
	if err := os.Rename(filepath.Join(dest, "d"), filepath.Join(base, "moved")); err != nil {
		t.Fatal(err)
	}
	c.undo(fd)
	c.plan.root.staging.temp.Leave() // as when the process ends
	if got, err := os.ReadFile(filepath.Join(dest, "a")); string(got) != "old" || err != nil {
		t.Errorf("a is %q, %v", got, err)
	}
	kept := 0
	for path := range tartest.Snapshot(t, dest) {
		if got, _ := os.ReadFile(filepath.Join(dest, path)); string(got) == "precious" {
			kept++
		}
	}
	if kept != 1 {
		t.Errorf("there are %d copies of the old file", kept)
	}
	// The next run removes it.
	if _, err := syncBytes(t, Options{}, tartest.Make(t, tartest.Member{Name: "a", Body: "new"}), dest); err != nil {
		t.Error(err)
	}
}

// What a killed run had moved to its staging directory was in dest. If it cannot
// be deleted, dest does not equal the archive.
func TestSyncFailsOnLeftover(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	makeFiles(t, dest, file{path: "app", body: "old"}, file{path: ".stretcher-7/2/photo"}, file{path: ".stretcher-8/x"})
	setFlag(t, filepath.Join(dest, ".stretcher-7/2/photo"), immutable)
	data := tartest.Make(t, tartest.Member{Name: "app", Body: "new"})
	for range 2 {
		err := Sync(t.Context(), mustIndex(t, data), dest, Options{Mode: 0o755})
		if err == nil || !strings.Contains(err.Error(), "remove what an earlier run left: .stretcher-7/2/photo: operation not permitted (it is immutable") {
			t.Errorf("%v", err)
		}
		if got, _ := os.ReadFile(filepath.Join(dest, "app")); string(got) != "old" {
			t.Errorf("app is %q", got)
		}
	}
}

// dest may be a symbolic link. If it is made to lead elsewhere while it is
// synced, nothing is staged there.
func TestSyncStagesInOpenDest(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	makeFiles(t, base, file{path: "real/"}, file{path: "other/"}, file{path: "dest", body: "-> real"})
	dest := filepath.Join(base, "dest")
	a := mustIndex(t, tartest.Make(t, tartest.Member{Name: "app"}))
	fd, compared := newSync(t, a, dest)
	if err := errors.Join(os.Remove(dest), os.Symlink("other", dest)); err != nil {
		t.Fatal(err)
	}
	if _, err := compared.compare(t.Context(), a.Tree.Root, fd); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"real": 1, "other": 0} {
		if list, err := os.ReadDir(filepath.Join(base, name)); err != nil || len(list) != want {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	compared.staging.undo()
}

const asUser = "STRETCHER_TEST_AS_USER"

// An ordinary user cannot delete what is in other users' directories. The test
// runs itself once more as that user.
func TestSyncOfOtherUsersFiles(t *testing.T) {
	cases := []struct {
		name  string
		files []file
		owner map[string]int // 1500 is the user
		mode  map[string]os.FileMode
		want  string // in the error; "" for none
	}{
		{"file in a foreign directory", []file{{path: "up/er/u"}}, map[string]int{"up/er": 1600, "up/er/u": 1500},
			nil, "up/er/u: permission denied (the directory that it is in belongs to the user with uid 1600)"},
		{"foreign directory", []file{{path: "up/er/"}}, map[string]int{"up": 1600, "up/er": 1500},
			nil, "up/er: permission denied (the directory that it is in belongs to the user with uid 1600)"},
		{"closed foreign directory", []file{{path: "up/er/u"}}, map[string]int{"up/er": 1600}, map[string]os.FileMode{"up/er": 0o700}, "up/er: permission denied"},
		{"sticky directory", []file{{path: "up/u"}}, map[string]int{"up": 1600, "up/u": 1700}, map[string]os.FileMode{"up": os.ModeSticky | 0o777},
			"up/u: operation not permitted (the file belongs to the user with uid 1700, and the directory that it is in is sticky)"},
		{"leftover of another user", []file{{path: ".stretcher-9/x"}}, map[string]int{".stretcher-9": 1600}, map[string]os.FileMode{".stretcher-9": 0o700},
			"remove what an earlier run left: .stretcher-9: permission denied"},
		{"foreign dest", nil, map[string]int{".": 1600}, nil, " is not writable by uid 1500"},
		{"own sticky directory", []file{{path: "up/u"}}, map[string]int{"up": 1500, "up/u": 1700}, map[string]os.FileMode{"up": os.ModeSticky | 0o777}, ""},
		{"empty foreign directory", []file{{path: "up/"}, {path: "gone/"}}, map[string]int{"up": 1600, "gone": 1600}, nil, ""},
		{"foreign files", []file{{path: "a"}, {path: "own/a"}}, map[string]int{"a": 1600, "own": 1500, "own/a": 1600, "app": 1600}, nil, ""},
		{"own read-only directories", []file{{path: "up/er/u"}}, map[string]int{"up": 1500, "up/er": 1500}, map[string]os.FileMode{"up/er": 0o555, "up": 0o555}, ""},
	}
	base := os.Getenv(asUser)
	if base == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can make other users' files")
		}
		base = t.TempDir()
		for _, test := range cases {
			dest := filepath.Join(base, test.name)
			makeFiles(t, dest, append(test.files, file{path: "app", body: "old"})...)
			for path, uid := range test.owner {
				if err := os.Lchown(filepath.Join(dest, path), uid, uid); err != nil {
					t.Fatal(err)
				}
			}
			if test.owner["."] == 0 {
				if err := os.Lchown(dest, 1500, 1500); err != nil {
					t.Fatal(err)
				}
			}
			for path, mode := range test.mode {
				if err := os.Chmod(filepath.Join(dest, path), mode); err != nil {
					t.Fatal(err)
				}
			}
		}
		temp := t.TempDir() // the user may have none
		if err := errors.Join(os.Lchown(temp, 1500, 1500), os.Chmod(filepath.Dir(base), 0o755)); err != nil {
			t.Fatal(err)
		}
		again := exec.Command("/proc/self/exe", "-test.run=^TestSyncOfOtherUsersFiles$") // which the user could not reach by its path
		again.Dir, again.Env = "/", append(os.Environ(), asUser+"="+base, "TMPDIR="+temp)
		again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1500, Gid: 1500}}
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("as an ordinary user: %v\n%s", err, out)
		}
		return
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			dest := filepath.Join(base, test.name)
			for range 2 {
				err := Sync(t.Context(), mustIndex(t, tartest.Make(t, tartest.Member{Name: "app", Body: "new"})), dest, Options{Mode: 0o755, log: log.New(io.Discard, "", 0)})
				got, _ := os.ReadFile(filepath.Join(dest, "app"))
				list, _ := os.ReadDir(dest)
				if test.want == "" {
					if err != nil || string(got) != "new" || len(list) != 1 {
						t.Errorf("%v, app is %q in %v", err, got, list)
					}
				} else if err == nil || !strings.Contains(err.Error(), test.want) || string(got) != "old" || len(list) != 1+len(test.files) {
					t.Errorf("%v, want %q; app is %q in %v", err, test.want, got, list)
				}
			}
		})
	}
}
