package stretcher

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)





// sameAsByTar extracts an archive, and by tar(1) too, and compares the results.
func sameAsByTar(t testing.TB, data []byte) {
	t.Helper()
	want, got := t.TempDir(), t.TempDir()
	if err := extractByTar(t, data, want); err != nil {
		t.Fatal(err)
	}
	if err := mustIndex(t, data).extract(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	compareTrees(t, want, got)
}


// Each archive is extracted by tar(1) too, and the results must be equal, or
// both must fail.
func TestExtractLikeTar(t *testing.T) {
	const (
		dir, sym, hard, fifo = tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo
	)
	tests := map[string][]member{
		"odd names":              {{name: "a//b/./c/", typ: dir}, {name: "./x"}, {name: "./", typ: dir, mode: 0o711}, {name: ".//z", body: "z"}},
		"leading slashes":        {{name: "/a/b"}, {name: "//c"}, {name: "/", typ: dir}},
		"implicit directories":   {{name: "q/w/e"}},
		"explicit afterwards":    {{name: "q/w/e"}, {name: "q", typ: dir, mode: 0o700}},
		"read-only directory":    {{name: "q", typ: dir, mode: 0o500}, {name: "q/w", body: "w"}, {name: "q/d", typ: dir, mode: 0}, {name: "q/d/e"}},
		"modes":                  {{name: "a", mode: 0o4755}, {name: "b", mode: 0o2755}, {name: "c", typ: dir, mode: 0o1777}, {name: "d", mode: 0}, {name: "e", mode: 0o666}, {name: "f", mode: 0o444}},
		"fifo":                   {{name: "p", typ: fifo, mode: 0o622}},
		"symlinks":               {{name: "s", typ: sym, body: "t"}, {name: "u", typ: sym, body: "../../etc"}, {name: "v", typ: sym, body: "/etc/passwd"}, {name: "w", typ: sym, body: "."}},
		"no link target":         {{name: "s", typ: sym}},
		"hard links":             {{name: "a/b", body: "x"}, {name: "b", typ: hard, body: "a/b"}, {name: "c", typ: hard, body: "b"}, {name: "a", typ: dir}, {name: "z/d", typ: hard, body: "./c"}, {name: "z", typ: dir, mode: 0o555}},
		"absolute hard link":     {{name: "a"}, {name: "b", typ: hard, body: "/a"}},
		"hard link to symlink":   {{name: "s", typ: sym, body: "t"}, {name: "h", typ: hard, body: "s"}, {name: "u", typ: sym, body: "../t"}, {name: "i", typ: hard, body: "u"}},
		"hard link to fifo":      {{name: "p", typ: fifo}, {name: "h", typ: hard, body: "p"}},
		"hard link to itself":    {{name: "a", body: "x"}, {name: "a", typ: hard, body: "a"}},
		"hard link to directory": {{name: "d", typ: dir}, {name: "h", typ: hard, body: "d"}},
		"hard link to nothing":   {{name: "h", typ: hard, body: "d"}},
		"hard link to root":      {{name: "h", typ: hard, body: "."}},
		"hard link outside":      {{name: "h", typ: hard, body: "../../../../../../../../etc/passwd"}},
		"hard link before file":  {{name: "h", typ: hard, body: "f"}, {name: "f"}},
		"hard link, then file":   {{name: "a", body: "1"}, {name: "b", typ: hard, body: "a"}, {name: "a", body: "2"}},
		"hard link by a link":    {{name: "d/f"}, {name: "a", typ: sym, body: "d"}, {name: "h", typ: hard, body: "a/f"}},
		"hard link by escape":    {{name: "d/f"}, {name: "a", typ: sym, body: "../x/d"}, {name: "h", typ: hard, body: "a/f"}},
		"dot dot":                {{name: "a/../b"}},
		"dot dot first":          {{name: "../b"}},
		"dot dot directory":      {{name: "..", typ: dir}},
		"file as parent":         {{name: "a"}, {name: "a/b"}},
		"full directory to file": {{name: "a", typ: dir}, {name: "a/b"}, {name: "a"}},
		"full directory to link": {{name: "a", typ: dir}, {name: "a/b"}, {name: "a", typ: sym, body: "c"}},
		"root is a file":         {{name: "."}},
		"root is a link":         {{name: ".", typ: sym, body: "x"}},
		"parent link":            {{name: "d/x"}, {name: "a", typ: sym, body: "d"}, {name: "a/f"}, {name: "a/g/h"}},
		"parent link replaced":   {{name: "d", typ: dir}, {name: "a", typ: sym, body: "d"}, {name: "a/", typ: dir}, {name: "a/f"}},
		"parent link chain":      {{name: "d/e/x"}, {name: "x", typ: sym, body: "d"}, {name: "a", typ: sym, body: "x/e"}, {name: "a/f/g"}},
		"parent link to .":       {{name: "a", typ: sym, body: "."}, {name: "a/f"}, {name: "a/a/a/g"}},
		"parent link in a dir":   {{name: "d/e/x"}, {name: "d/l", typ: sym, body: "e"}, {name: "d/l/f"}},
		"parent link dangles":    {{name: "a", typ: sym, body: "d"}, {name: "a/f"}},
		"parent link to file":    {{name: "d"}, {name: "a", typ: sym, body: "d"}, {name: "a/f"}},
		"parent link loops":      {{name: "a", typ: sym, body: "b"}, {name: "b", typ: sym, body: "a"}, {name: "a/f"}},
		"parent link to itself":  {{name: "a", typ: sym, body: "a"}, {name: "a/f"}},
		"parent link escapes":    {{name: "a", typ: sym, body: "../x"}, {name: "a/f"}},
		"parent link absolute":   {{name: "a", typ: sym, body: "/tmp"}, {name: "a/f"}},
		"parent link dot dot":    {{name: "d", typ: dir}, {name: "a", typ: sym, body: "d/../d"}, {name: "a/f"}},
		"long names":             {{name: strings.Repeat("d/", 300) + strings.Repeat("n", 200), body: "x"}, {name: "l", typ: sym, body: strings.Repeat("t", 300)}},
		"too long component":     {{name: strings.Repeat("n", 256)}},
		"too long path":          {{name: strings.Repeat("nn/", 1400) + "x"}},
		"contiguous file":        {{name: "a", typ: tar.TypeCont, body: "x"}},
		"times":                  {{name: "d", typ: dir}, {name: "d/e", typ: dir}, {name: "d/e/f"}, {name: "d/g"}},
	}
	kinds := map[string]member{
		"file": {body: "file"}, "dir": {typ: dir}, "link": {typ: sym, body: "t"}, "dirlink": {typ: sym, body: "dd"},
		"hard": {typ: hard, body: "hh"}, "fifo": {typ: fifo},
	}
	for first, a := range kinds {
		for second, b := range kinds {
			a.name, b.name = "a", "a"
			tests[first+" then "+second] = []member{{name: "dd", typ: dir}, {name: "hh", body: "hh"}, a, b}
		}
	}
	for name, members := range tests {
		t.Run(name, func(t *testing.T) {
			data := makeTar(t, members...)
			want, got := t.TempDir(), t.TempDir()
			t.Cleanup(func() { removeTree(want); removeTree(got) })
			tarErr := extractByTar(t, data, want)
			a, err := indexBytes(t, data, 0)
			if err == nil {
				err = a.extract(t.Context(), got)
			}
			if tarErr != nil || err != nil {
				if tarErr == nil || err == nil {
					t.Fatalf("%v; tar: %v", err, tarErr)
				}
				return
			}
			compareTrees(t, want, got)
		})
	}
}

// tar(1) puts an empty file in the place of a symbolic link out of the tree,
// makes the link last, and trips over that where the name comes again. The
// later entry wins here, as it does for every other type.
func TestExtractReplacesEscapingLink(t *testing.T) {
	for _, target := range []string{"../x", "/etc"} {
		link := member{name: "a", typ: tar.TypeSymlink, body: target}
		for _, m := range []member{{body: "x"}, {typ: tar.TypeDir}, {typ: tar.TypeSymlink, body: "/dev"}, {typ: tar.TypeFifo}} {
			m.name = "a"
			want, got := t.TempDir(), t.TempDir()
			if err := mustIndex(t, makeTar(t, m)).extract(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			if err := mustIndex(t, makeTar(t, link, m)).extract(t.Context(), got); err != nil {
				t.Fatal(err)
			}
			compareTrees(t, want, got)
		}
	}
}

// git archive begins with a global header, as do others.
func TestExtractGlobalHeaders(t *testing.T) {
	block := func(typ byte, records string) []byte {
		h := append(rawHeader("pax_global_header", typ, int64(len(records))), records...)
		return append(h, make([]byte, -len(records)&511)...)
	}
	data := bytes.Join([][]byte{
		block('g', paxRecord("comment", strings.Repeat("c", 40))),
		rawHeader("first", '0', 3), append([]byte("abc"), make([]byte, 509)...),
		block('g', paxRecord("mtime", "77.25")+paxRecord("uid", "3")+paxRecord("gid", "4")),
		rawHeader("second", '0', 0),
		block('x', paxRecord("mtime", "99")),
		rawHeader("third", '0', 0),
		block('g', paxRecord("mtime", "-1.5")+paxRecord("uid", "5")),
		rawHeader("last", '0', 0), make([]byte, 1024),
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
	if err := mustIndex(t, data).extract(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(got, "file")); string(content) != "x" || err != nil {
		t.Errorf("%q, %v", content, err)
	}
}

// Types that archive/tar does not write.
func TestExtractRareTypesLikeTar(t *testing.T) {
	body := bytes.Repeat([]byte{'x'}, 512)
	for name, parts := range map[string][][]byte{
		"unknown":         {rawHeader("a", 'Q', 512), body},
		"label":           {rawHeader("label", 'V', 0)},
		"continued":       {rawHeader("a", 'M', 512), body},
		"dump":            {rawHeader("a", 'D', 512), append([]byte("Yfoo\x00\x00"), body[6:]...)},
		"old directory":   {rawHeader("b/", 0, 0)},
		"named directory": {rawHeader("b/", '0', 0)},
		"link with size":  {rawHeader("b", '0', 512), body, func() []byte { h := rawHeader("c", '1', 512); return withLink(h, "b") }()},
	} {
		data := append(bytes.Join(parts, nil), rawHeader("last", '0', 0)...)
		data = append(data, make([]byte, 1024)...)
		want, got := t.TempDir(), t.TempDir()
		tarErr := extractByTar(t, data, want)
		a, err := indexBytes(t, data, 0)
		if err == nil {
			err = a.extract(t.Context(), got)
		}
		if tarErr == nil && err == nil {
			compareTrees(t, want, got)
		} else if tarErr == nil || err == nil {
			t.Errorf("%s: %v; tar: %v", name, err, tarErr)
		}
	}
}


// A tree with one of everything, packed by tar(1) in each of its formats.
func TestExtractTarFormats(t *testing.T) {
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
	names := slices.Sorted(maps.Keys(snapshot(t, src)))
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
			t.Cleanup(func() { removeTree(want); removeTree(got) })
			if err := extractByTar(t, data, want); err != nil {
				t.Fatal(err)
			}
			if err := mustIndex(t, data).extract(t.Context(), got); err != nil {
				t.Fatal(err)
			}
			compareTrees(t, want, got)
		})
	}
}

func TestExtractOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	file := func(name, user, group string, uid, gid int) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: tarTime, Uname: user, Gname: group, Uid: uid, Gid: gid}
	}
	data := makeTarHeaders(t,
		file("names win", "daemon", "bin", 4711, 4712),
		file("unknown names", "no such user", "no such group", 4711, 4712),
		file("no names", "", "", 4711, 4712),
		file("half known", "daemon", "no such group", 4711, 4712))
	sameAsByTar(t, data)
}

// childEnv tells TestExtractChild, in a process of its own, the archive and
// where to extract it.
const childEnv = "STRETCHER_TEST_EXTRACT"

func TestExtractChild(t *testing.T) {
	archive, dir, ok := strings.Cut(os.Getenv(childEnv), ":")
	if !ok {
		t.Skip("runs in the processes that TestExtractUnderUmask starts")
	}
	spool, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	a, err := indexArchive(t.Context(), spool, spool, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STRETCHER_TEST_USER") != "" {
		// After all is open: the user need not see the way to here.
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.extract(t.Context(), "."); err != nil {
		t.Fatal(err)
	}
}

// As root and as an ordinary user, under several umasks.
func TestExtractUnderUmask(t *testing.T) {
	data := makeTar(t,
		member{name: "./", typ: tar.TypeDir, mode: 0o1775},
		member{name: "a", mode: 0o4777}, member{name: "b", mode: 0o666}, member{name: "c", mode: 0o2755},
		member{name: "d", typ: tar.TypeDir, mode: 0o1777}, member{name: "d/e", typ: tar.TypeDir, mode: 0o555}, member{name: "d/e/f", mode: 0o444},
		member{name: "implicit/x", body: "x"}, member{name: "p", typ: tar.TypeFifo, mode: 0o666},
		member{name: "s", typ: tar.TypeSymlink, body: "a"}, member{name: "h", typ: tar.TypeLink, body: "a"})
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
			t.Cleanup(func() { removeTree(base) })
			if user == "" {
				run(want, "tar xf "+file)
			} else {
				run(want, "setpriv --reuid=65534 --regid=65534 --clear-groups tar xf - <"+file)
			}
			run(got, self+" -test.run='^TestExtractChild$'", childEnv+"="+file+":"+got, "STRETCHER_TEST_USER="+user)
			if compareTrees(t, want, got); t.Failed() {
				t.Fatalf("as user %q under umask %s", user, mask)
			}
		}
	}
}

func TestExtractDeviceNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may make devices")
	}
	data := makeTarHeaders(t, &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
	if err := mustIndex(t, data).extract(t.Context(), t.TempDir()); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "null") {
		t.Error(err)
	}
}

// An archive's times and modes do not depend on where a directory's entry
// stands. tar(1) loses the time of d here.
func TestExtractDirectoryEntryFirst(t *testing.T) {
	data := makeTar(t, member{name: "d", typ: tar.TypeDir, mode: 0o555}, member{name: "e"}, member{name: "d/f"}, member{name: "d/g", typ: tar.TypeLink, body: "e"})
	dir := t.TempDir()
	t.Cleanup(func() { removeTree(dir) })
	if err := mustIndex(t, data).extract(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "d"))
	if err != nil || info.ModTime().Unix() != tarTime.Unix() || info.Mode().Perm() != 0o555 {
		t.Errorf("%v, %v, %v", info.ModTime(), info.Mode(), err)
	}
}

func TestExtractKeepsRootWithoutEntry(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := mustIndex(t, makeTar(t, member{name: "a"})).extract(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info, err)
	}
}

// Somebody who may write to the directory swaps those in it for links to
// another, as fast as he can. Nothing of the archive may get there.
func TestExtractAgainstSwaps(t *testing.T) {
	var members []member
	for i := range 20 {
		for j := range 20 {
			members = append(members, member{name: fmt.Sprintf("d%d/e/f%d", i, j), body: "x", mode: 0o666})
		}
		members = append(members, member{name: fmt.Sprintf("d%d/e/", i), typ: tar.TypeDir, mode: 0o777})
		members = append(members, member{name: fmt.Sprintf("d%d/h", i), typ: tar.TypeLink, body: "d0/e/f0"})
	}
	a := mustIndex(t, makeTar(t, members...))
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	if err := os.MkdirAll(filepath.Join(canary, "e"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "e", "f0"), []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, canary)
	var swapped, refused int
	for round := range 30 {
		dir := filepath.Join(base, "dir"+strconv.Itoa(round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int)
		go func() {
			n := 0
			for ctx.Err() == nil {
				for i := range 20 {
					// Either of the two, lest he goes through his own links.
					victim, target := filepath.Join(dir, "d"+strconv.Itoa(i)), canary
					if i%2 == 0 {
						victim, target = victim+"/e", canary+"/e"
					}
					if os.Rename(victim, victim+".away") == nil && os.Symlink(target, victim) == nil {
						n++
					}
				}
			}
			done <- n
		}()
		if err := a.extract(t.Context(), dir); err != nil {
			refused++
		}
		cancel()
		swapped += <-done
	}
	if after := snapshot(t, canary); !maps.Equal(before, after) {
		compareSnapshots(t, before, after)
	}
	if swapped == 0 {
		t.Error("nothing was swapped: the test shows nothing")
	}
	t.Logf("%d swaps, %d of 30 extractions failed", swapped, refused)
}
