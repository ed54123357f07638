package treesync

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// sameAsByTar extracts an archive by Extract and by tar(1), and compares the
// results.
func sameAsByTar(t testing.TB, data []byte) {
	t.Helper()
	want, got := t.TempDir(), t.TempDir()
	if err := tartest.Extract(t, data, want); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), mustIndex(t, data), got); err != nil {
		t.Fatal(err)
	}
	tartest.CompareTrees(t, want, got)
}

// Each archive is also extracted by tar(1). The results must be equal, or both
// must fail.
func TestExtractLikeTar(t *testing.T) {
	t.Parallel()
	const (
		dir, sym, hard, fifo = tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo
	)
	tests := map[string][]tartest.Member{
		"odd names":              {{Name: "a//b/./c/", Type: dir}, {Name: "./x"}, {Name: "./", Type: dir, Mode: 0o711}, {Name: ".//z", Body: "z"}},
		"leading slashes":        {{Name: "/a/b"}, {Name: "//c"}, {Name: "/", Type: dir}},
		"implicit directories":   {{Name: "q/w/e"}},
		"explicit afterwards":    {{Name: "q/w/e"}, {Name: "q", Type: dir, Mode: 0o700}},
		"read-only directory":    {{Name: "q", Type: dir, Mode: 0o500}, {Name: "q/w", Body: "w"}, {Name: "q/d", Type: dir, Mode: 0}, {Name: "q/d/e"}},
		"modes":                  {{Name: "a", Mode: 0o4755}, {Name: "b", Mode: 0o2755}, {Name: "c", Type: dir, Mode: 0o1777}, {Name: "d", Mode: 0}, {Name: "e", Mode: 0o666}, {Name: "f", Mode: 0o444}},
		"fifo":                   {{Name: "p", Type: fifo, Mode: 0o622}},
		"symlinks":               {{Name: "s", Type: sym, Body: "t"}, {Name: "u", Type: sym, Body: "../../etc"}, {Name: "v", Type: sym, Body: "/etc/passwd"}, {Name: "w", Type: sym, Body: "."}},
		"no link target":         {{Name: "s", Type: sym}},
		"hard links":             {{Name: "a/b", Body: "x"}, {Name: "b", Type: hard, Body: "a/b"}, {Name: "c", Type: hard, Body: "b"}, {Name: "a", Type: dir}, {Name: "z/d", Type: hard, Body: "./c"}, {Name: "z", Type: dir, Mode: 0o555}},
		"absolute hard link":     {{Name: "a"}, {Name: "b", Type: hard, Body: "/a"}},
		"hard link to symlink":   {{Name: "s", Type: sym, Body: "t"}, {Name: "h", Type: hard, Body: "s"}, {Name: "u", Type: sym, Body: "../t"}, {Name: "i", Type: hard, Body: "u"}},
		"hard link to fifo":      {{Name: "p", Type: fifo}, {Name: "h", Type: hard, Body: "p"}},
		"hard link to itself":    {{Name: "a", Body: "x"}, {Name: "a", Type: hard, Body: "a"}},
		"hard link to directory": {{Name: "d", Type: dir}, {Name: "h", Type: hard, Body: "d"}},
		"hard link to nothing":   {{Name: "h", Type: hard, Body: "d"}},
		"hard link to root":      {{Name: "h", Type: hard, Body: "."}},
		"hard link outside":      {{Name: "h", Type: hard, Body: "../../../../../../../../etc/passwd"}},
		"hard link before file":  {{Name: "h", Type: hard, Body: "f"}, {Name: "f"}},
		"hard link, then file":   {{Name: "a", Body: "1"}, {Name: "b", Type: hard, Body: "a"}, {Name: "a", Body: "2"}},
		"hard link by a link":    {{Name: "d/f"}, {Name: "a", Type: sym, Body: "d"}, {Name: "h", Type: hard, Body: "a/f"}},
		"hard link by escape":    {{Name: "d/f"}, {Name: "a", Type: sym, Body: "../x/d"}, {Name: "h", Type: hard, Body: "a/f"}},
		"dot dot":                {{Name: "a/../b"}},
		"dot dot first":          {{Name: "../b"}},
		"dot dot directory":      {{Name: "..", Type: dir}},
		"file as parent":         {{Name: "a"}, {Name: "a/b"}},
		"full directory to file": {{Name: "a", Type: dir}, {Name: "a/b"}, {Name: "a"}},
		"full directory to link": {{Name: "a", Type: dir}, {Name: "a/b"}, {Name: "a", Type: sym, Body: "c"}},
		"root is a file":         {{Name: "."}},
		"root is a link":         {{Name: ".", Type: sym, Body: "x"}},
		"parent link":            {{Name: "d/x"}, {Name: "a", Type: sym, Body: "d"}, {Name: "a/f"}, {Name: "a/g/h"}},
		"parent link replaced":   {{Name: "d", Type: dir}, {Name: "a", Type: sym, Body: "d"}, {Name: "a/", Type: dir}, {Name: "a/f"}},
		"parent link chain":      {{Name: "d/e/x"}, {Name: "x", Type: sym, Body: "d"}, {Name: "a", Type: sym, Body: "x/e"}, {Name: "a/f/g"}},
		"parent link to .":       {{Name: "a", Type: sym, Body: "."}, {Name: "a/f"}, {Name: "a/a/a/g"}},
		"parent link in a dir":   {{Name: "d/e/x"}, {Name: "d/l", Type: sym, Body: "e"}, {Name: "d/l/f"}},
		"parent link dangles":    {{Name: "a", Type: sym, Body: "d"}, {Name: "a/f"}},
		"parent link to file":    {{Name: "d"}, {Name: "a", Type: sym, Body: "d"}, {Name: "a/f"}},
		"parent link loops":      {{Name: "a", Type: sym, Body: "b"}, {Name: "b", Type: sym, Body: "a"}, {Name: "a/f"}},
		"parent link to itself":  {{Name: "a", Type: sym, Body: "a"}, {Name: "a/f"}},
		"parent link escapes":    {{Name: "a", Type: sym, Body: "../x"}, {Name: "a/f"}},
		"parent link absolute":   {{Name: "a", Type: sym, Body: "/tmp"}, {Name: "a/f"}},
		"parent link dot dot":    {{Name: "d", Type: dir}, {Name: "a", Type: sym, Body: "d/../d"}, {Name: "a/f"}},
		"long names":             {{Name: strings.Repeat("d/", 300) + strings.Repeat("n", 200), Body: "x"}, {Name: "l", Type: sym, Body: strings.Repeat("t", 300)}},
		"too long component":     {{Name: strings.Repeat("n", 256)}},
		"too long path":          {{Name: strings.Repeat("nn/", 1400) + "x"}},
		"contiguous file":        {{Name: "a", Type: tar.TypeCont, Body: "x"}},
		"times":                  {{Name: "d", Type: dir}, {Name: "d/e", Type: dir}, {Name: "d/e/f"}, {Name: "d/g"}},
	}
	kinds := map[string]tartest.Member{
		"file": {Body: "file"}, "dir": {Type: dir}, "link": {Type: sym, Body: "t"}, "dirlink": {Type: sym, Body: "dd"},
		"hard": {Type: hard, Body: "hh"}, "fifo": {Type: fifo},
	}
	for first, a := range kinds {
		for second, b := range kinds {
			a.Name, b.Name = "a", "a"
			tests[first+" then "+second] = []tartest.Member{{Name: "dd", Type: dir}, {Name: "hh", Body: "hh"}, a, b}
		}
	}
	for name, members := range tests {
		t.Run(name, func(t *testing.T) {
			data := tartest.Make(t, members...)
			want, got := t.TempDir(), t.TempDir()
			t.Cleanup(func() { unixfs.RemoveTree(want); unixfs.RemoveTree(got) })
			tarErr := tartest.Extract(t, data, want)
			a, err := index(t, data)
			if err == nil {
				err = Extract(t.Context(), a, got)
			}
			if tarErr != nil || err != nil {
				if tarErr == nil || err == nil {
					t.Fatalf("%v; tar: %v", err, tarErr)
				}
				return
			}
			tartest.CompareTrees(t, want, got)
		})
	}
}

// Where a symbolic link leads out of the tree, tar(1) first creates an empty
// file and replaces it by the link at the end, which fails if the name occurs
// again in the archive. Here the later entry wins, as with every other type.
func TestExtractReplacesEscapingLink(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"../x", "/etc"} {
		link := tartest.Member{Name: "a", Type: tar.TypeSymlink, Body: target}
		for _, m := range []tartest.Member{{Body: "x"}, {Type: tar.TypeDir}, {Type: tar.TypeSymlink, Body: "/dev"}, {Type: tar.TypeFifo}} {
			m.Name = "a"
			want, got := t.TempDir(), t.TempDir()
			if err := Extract(t.Context(), mustIndex(t, tartest.Make(t, m)), want); err != nil {
				t.Fatal(err)
			}
			if err := Extract(t.Context(), mustIndex(t, tartest.Make(t, link, m)), got); err != nil {
				t.Fatal(err)
			}
			tartest.CompareTrees(t, want, got)
		}
	}
}

// Archives may begin with a global header, as those of git archive do.
func TestExtractGlobalHeaders(t *testing.T) {
	t.Parallel()
	block := func(typ byte, records string) []byte {
		h := append(tartest.RawHeader("pax_global_header", typ, int64(len(records))), records...)
		return append(h, make([]byte, -len(records)&511)...)
	}
	data := bytes.Join([][]byte{
		block('g', tartest.PAXRecord("comment", strings.Repeat("c", 40))),
		tartest.RawHeader("first", '0', 3), append([]byte("abc"), make([]byte, 509)...),
		block('g', tartest.PAXRecord("mtime", "77.25")+tartest.PAXRecord("uid", "3")+tartest.PAXRecord("gid", "4")),
		tartest.RawHeader("second", '0', 0),
		block('x', tartest.PAXRecord("mtime", "99")),
		tartest.RawHeader("third", '0', 0),
		block('g', tartest.PAXRecord("mtime", "-1.5")+tartest.PAXRecord("uid", "5")),
		tartest.RawHeader("last", '0', 0), make([]byte, 1024),
	}, nil)
	sameAsByTar(t, data)

	repository := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"}} {
		if out, err := exec.Command("git", append([]string{"-C", repository}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(repository, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := exec.Command("git", "-C", repository, "archive", "--format=tar.gz", "--add-file="+filepath.Join(repository, "file"), "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := t.TempDir()
	if err := Extract(t.Context(), mustIndex(t, data), got); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(got, "file")); string(content) != "x" || err != nil {
		t.Errorf("%q, %v", content, err)
	}
}

// These are types that archive/tar cannot write.
func TestExtractRareTypesLikeTar(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte{'x'}, 512)
	for name, parts := range map[string][][]byte{
		"unknown":         {tartest.RawHeader("a", 'Q', 512), body},
		"label":           {tartest.RawHeader("label", 'V', 0)},
		"continued":       {tartest.RawHeader("a", 'M', 512), body},
		"dump":            {tartest.RawHeader("a", 'D', 512), append([]byte("Yfoo\x00\x00"), body[6:]...)},
		"old directory":   {tartest.RawHeader("b/", 0, 0)},
		"named directory": {tartest.RawHeader("b/", '0', 0)},
		"link with size":  {tartest.RawHeader("b", '0', 512), body, func() []byte { h := tartest.RawHeader("c", '1', 512); return tartest.WithLink(h, "b") }()},
	} {
		data := append(bytes.Join(parts, nil), tartest.RawHeader("last", '0', 0)...)
		data = append(data, make([]byte, 1024)...)
		want, got := t.TempDir(), t.TempDir()
		tarErr := tartest.Extract(t, data, want)
		a, err := index(t, data)
		if err == nil {
			err = Extract(t.Context(), a, got)
		}
		if tarErr == nil && err == nil {
			tartest.CompareTrees(t, want, got)
		} else if tarErr == nil || err == nil {
			t.Errorf("%s: %v; tar: %v", name, err, tarErr)
		}
	}
}

// The tree has a file of every type, and tar(1) packs it in each of its formats.
func TestExtractTarFormats(t *testing.T) {
	t.Parallel()
	root := os.Geteuid() == 0
	src := t.TempDir()
	mk := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long name ", 15)
	mk(os.MkdirAll(filepath.Join(src, "d", "e", long, long), 0o755))
	mk(os.Mkdir(filepath.Join(src, "empty"), 0o2750))
	for name, size := range map[string]int{"a": 0, "d/b": 1, "d/e/c": 511, "d/e/f": 512, "d/e/g": 513, "d/e/" + long + "/h": 300_000, "日本 語": 7} {
		mk(os.WriteFile(filepath.Join(src, name), bytes.Repeat([]byte{'x'}, size), 0o640))
	}
	mk(os.Link(filepath.Join(src, "d/b"), filepath.Join(src, "d/e/hard")))
	mk(os.Link(filepath.Join(src, "d/b"), filepath.Join(src, "hard")))
	mk(os.Symlink("d/b", filepath.Join(src, "link")))
	mk(os.Symlink("../../"+long+long, filepath.Join(src, "d", "far link")))
	mk(unix.Mkfifo(filepath.Join(src, "fifo"), 0o622))
	mk(os.Chmod(filepath.Join(src, "d/e/c"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	if root {
		mk(unix.Mknod(filepath.Join(src, "char"), unix.S_IFCHR|0o660, int(unix.Mkdev(1, 3))))
		mk(unix.Mknod(filepath.Join(src, "block"), unix.S_IFBLK|0o602, int(unix.Mkdev(7, 300))))
		mk(os.Lchown(filepath.Join(src, "a"), 1, 65534))
		mk(os.Lchown(filepath.Join(src, "link"), 12345, 54321))
		mk(os.Lchown(filepath.Join(src, "d/e"), 2_000_000, 3_000_000)) // more than a ustar field holds
		mk(os.Lchown(filepath.Join(src, "fifo"), 2, 3))
		mk(os.Lchown(filepath.Join(src, "d/e/c"), 2, 3))
		mk(os.Chmod(filepath.Join(src, "d/e/c"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	}
	names := slices.Sorted(maps.Keys(tartest.Snapshot(t, src)))
	slices.Reverse(names) // files before the directories that hold them
	for i, name := range names {
		ts := unix.Timespec{Sec: 1_000_000_000 + int64(i), Nsec: 123_456_789 + int64(i)}
		if name == "a" {
			ts.Sec = -1000
		}
		mk(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	mk(os.Chmod(filepath.Join(src, "d"), 0o555))
	t.Cleanup(func() { os.Chmod(filepath.Join(src, "d"), 0o755) })
	for _, options := range []string{"gnu", "oldgnu", "pax", "ustar", "v7", "gnu -V label", "pax -V label",
		"pax --pax-option=comment=x,uname=bin,gname=sys,uid=7,gid=8"} {
		t.Run(options, func(t *testing.T) {
			format, rest, _ := strings.Cut(options, " ")
			args := append(strings.Fields(rest), "-C", src, "--format="+format, "-cf", "-", ".")
			if format == "ustar" || format == "v7" {
				// What the format cannot hold.
				args = slices.Insert(args, 0, "--exclude=long*", "--exclude=far*", "--exclude=a", "--mode=u+rw", "--owner=bin:2", "--group=sys:3")
				if format == "v7" {
					args = slices.Insert(args, 0, "--exclude=char", "--exclude=block", "--exclude=fifo")
				}
			}
			data, err := exec.Command("tar", args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			want, got := t.TempDir(), t.TempDir()
			t.Cleanup(func() { unixfs.RemoveTree(want); unixfs.RemoveTree(got) })
			if err := tartest.Extract(t, data, want); err != nil {
				t.Fatal(err)
			}
			if err := Extract(t.Context(), mustIndex(t, data), got); err != nil {
				t.Fatal(err)
			}
			tartest.CompareTrees(t, want, got)
		})
	}
}

func TestExtractOwners(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	file := func(name, user, group string, uid, gid int) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: tartest.Time, Uname: user, Gname: group, Uid: uid, Gid: gid}
	}
	data := tartest.MakeHeaders(t,
		file("names win", "daemon", "bin", 4711, 4712),
		file("unknown names", "no such user", "no such group", 4711, 4712),
		file("no names", "", "", 4711, 4712),
		file("half known", "daemon", "no such group", 4711, 4712))
	sameAsByTar(t, data)
}

// childEnv is the environment variable that tells TestExtractChild, which runs in
// a process of its own, the archive and the directory to extract it to.
const childEnv = "STRETCHER_TEST_EXTRACT"

func TestExtractChild(t *testing.T) {
	archiveFile, dir, ok := strings.Cut(os.Getenv(childEnv), ":")
	if !ok {
		t.Skip("runs in the processes that TestExtractUnderUmask starts")
	}
	spool, err := os.Open(archiveFile)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Index(t.Context(), spool, spool, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STRETCHER_TEST_USER") != "" {
		// Only now, since the user may have no access to the path of the archive.
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Extract(t.Context(), a, "."); err != nil {
		t.Fatal(err)
	}
}

// The test runs tar(1) and Extract as root and as an ordinary user, under several
// umasks.
func TestExtractUnderUmask(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t,
		tartest.Member{Name: "./", Type: tar.TypeDir, Mode: 0o1775},
		tartest.Member{Name: "a", Mode: 0o4777}, tartest.Member{Name: "b", Mode: 0o666}, tartest.Member{Name: "c", Mode: 0o2755},
		tartest.Member{Name: "d", Type: tar.TypeDir, Mode: 0o1777}, tartest.Member{Name: "d/e", Type: tar.TypeDir, Mode: 0o555}, tartest.Member{Name: "d/e/f", Mode: 0o444},
		tartest.Member{Name: "implicit/x", Body: "x"}, tartest.Member{Name: "p", Type: tar.TypeFifo, Mode: 0o666},
		tartest.Member{Name: "s", Type: tar.TypeSymlink, Body: "a"}, tartest.Member{Name: "h", Type: tar.TypeLink, Body: "a"})
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	users := []string{""}
	if os.Geteuid() == 0 {
		users = append(users, "nobody")
	}
	for _, user := range users {
		for _, mask := range []string{"000", "002", "022", "077"} {
			run := func(dir, command string, env ...string) {
				t.Helper()
				if user != "" {
					if err := os.Chown(dir, 65534, 65534); err != nil {
						t.Fatal(err)
					}
				}
				cmd := exec.Command("sh", "-c", "umask "+mask+"; "+command)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), env...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", command, err, out)
				}
			}
			base := t.TempDir()
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			for _, dir := range []string{want, got} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { unixfs.RemoveTree(base) })
			if user == "" {
				run(want, "tar xf "+file)
			} else {
				run(want, "setpriv --reuid=65534 --regid=65534 --clear-groups tar xf - <"+file)
			}
			run(got, self+" -test.run='^TestExtractChild$'", childEnv+"="+file+":"+got, "STRETCHER_TEST_USER="+user)
			if tartest.CompareTrees(t, want, got); t.Failed() {
				t.Fatalf("as user %q under umask %s", user, mask)
			}
		}
	}
}

func TestExtractDeviceNeedsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may make devices")
	}
	data := tartest.MakeHeaders(t, &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
	if err := Extract(t.Context(), mustIndex(t, data), t.TempDir()); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "null") {
		t.Error(err)
	}
}

// The result does not depend on where in the archive the entry of a directory is.
// tar(1) loses the time of d here.
func TestExtractDirectoryEntryFirst(t *testing.T) {
	t.Parallel()
	data := tartest.Make(t, tartest.Member{Name: "d", Type: tar.TypeDir, Mode: 0o555}, tartest.Member{Name: "e"}, tartest.Member{Name: "d/f"}, tartest.Member{Name: "d/g", Type: tar.TypeLink, Body: "e"})
	dir := t.TempDir()
	t.Cleanup(func() { unixfs.RemoveTree(dir) })
	if err := Extract(t.Context(), mustIndex(t, data), dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "d"))
	if err != nil || info.ModTime().Unix() != tartest.Time.Unix() || info.Mode().Perm() != 0o555 {
		t.Errorf("%v, %v, %v", info.ModTime(), info.Mode(), err)
	}
}

func TestExtractKeepsRootWithoutEntry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), mustIndex(t, tartest.Make(t, tartest.Member{Name: "a"})), dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info, err)
	}
}
