package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// newTree creates the directory that is packed. It contains all types, modes, times
// and names that an ordinary user can create, and for root also owners, devices and
// setuid files.
const newTree = `
set -e
mkdir -p new/dir/sub new/empty new/sticky "new/a dir" new/was-file new/was-link
cd new
echo content > file
: > nothing
printf 'no newline' > dir/partial
echo same > dir/same
echo new > dir/changed
echo script > dir/run; chmod 755 dir/run
echo private > dir/private; chmod 600 dir/private
echo readonly > dir/readonly; chmod 444 dir/readonly
echo x > dir/sub/deep
echo x > was-file/now-below
echo x > was-link/now-below
echo 'was a directory' > was-dir
echo x > ' leading'
echo x > 'trailing '
echo x > -dash
echo x > --delete
echo x > '*'
echo x > 'a\b'
echo x > 'quo"te'"'"
echo x > "$(printf 'new\nline')"
echo x > "$(printf 'tab\there')"
echo x > "$(printf 'n\303\244me')"
echo x > "$(printf 'not\377utf8')"
echo x > .hidden
echo x > "$(printf '%0200d' 1)"
echo x > "a dir/$(printf '%0150d' 2)"
ln -s dir/run link
ln -s /nonexistent/absolute dangling
ln -s ../../outside escaping
ln -s dir linkdir
ln dir/same hard
ln dir/run 'hard too'
mkfifo fifo
echo kept > keep.log; echo dropped > drop.tmp; mkdir cache; echo x > cache/y
chmod 1777 sticky; chmod 2755 'a dir'; chmod 700 dir/sub
if [ $(id -u) = 0 ]; then
	echo x > setuid; chmod 4755 setuid
	echo x > owned; chown 12345:54321 owned
	mknod null c 1 3
fi
touch -d '2001-02-03 04:05:06.789' file
touch -d '2033-01-01 00:00:00' dir/run
touch -d '1970-01-01 00:00:01' nothing
touch -d '2011-11-11 11:11:11' dir/same
touch -h -d '2005-05-05 05:05:05' link
chmod 555 dir
touch -d '2010-10-10 10:10:10' dir empty
`

// oldTree creates the previous contents of dest: files with the same names but
// other types, contents or modes, equal files, and files that must be deleted.
const oldTree = `
set -e
mkdir -p old/dir old/was-dir/deep old/stale/deep old/cache old/log old/target
cd old
echo same > dir/same; touch -d '2011-11-11 11:11:11' dir/same
# The size differs, because rsync considers files with the same size and time equal.
echo 'of the old release' > dir/changed
echo script > dir/run; chmod 600 dir/run
echo x > was-dir/deep/file
echo x > was-file
echo kept > target/file
ln -s target was-link
ln -s elsewhere link
echo x > linkdir
mkdir dangling
echo x > stale/deep/file
echo x > stale/agent.log
echo x > log/agent.log
echo x > cache/old
echo x > old.tmp
mkfifo stale/fifo
echo x > "$(printf 'gone\nline')"
chmod 700 .
`

// TestOracle checks that the contents of dest are the same as those that tar(1) and
// rsync(1) produce from the same archive.
func TestOracle(t *testing.T) {
	const excludes = "excludes: ['*.log', drop.tmp, /cache/]\nexclude_from: .hidden\n"
	options := []string{"--exclude-from=expected/.hidden", "--exclude=*.log", "--exclude=drop.tmp", "--exclude=/cache/"}
	for name, test := range map[string]struct {
		strategy string
		root     bool     // the archive has an entry for its root directory
		pack     string   // additional options for tar
		excludes []string // additional options for the oracle's rsync
	}{
		"rsync":             {"rsync", false, "", nil},
		"rsync, root":       {"rsync", true, "--gzip", nil},
		"rsync, excludes":   {"rsync", false, "--gzip --format=pax", options},
		"mv":                {"mv", false, "--gzip", nil},
		"mv, root":          {"mv", true, "--format=pax", nil},
		"builtin":           {"builtin", false, "", nil},
		"builtin, root":     {"builtin", true, "--gzip --format=pax", nil},
		"builtin, excludes": {"builtin", true, "--gzip", options},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			t.Cleanup(func() { w.run("chmod", "-R", "u+rwX", ".") }) // so that it can be removed
			w.run("sh", "-c", newTree)
			w.run("sh", "-c", "umask 022; echo 'old.*' > new/.hidden; chmod 751 new")
			pack := "cd new && find . -mindepth 1 -maxdepth 1 -print0 | tar -cf ../app.tar --null -T - " + test.pack
			if test.root {
				pack = "cd new && tar -cf ../app.tar . " + test.pack
			}
			w.run("sh", "-c", pack)
			sum, _, _ := strings.Cut(w.run("sha256sum", "app.tar"), " ")
			manifest := fmt.Sprintf("src: %s\nchecksum: %s\ndest: %s\nsync_strategy: %s\n", w.url("app.tar"), sum, w.path("dest"), test.strategy)
			if test.excludes != nil {
				manifest += excludes
			}
			w.write("manifest.yml", manifest)

			w.run("mkdir", "-m", "755", "expected")
			w.run("tar", "-xf", "app.tar", "-C", "expected")
			expected := "expected"
			if test.strategy != "mv" {
				w.run("sh", "-c", oldTree)
				w.run("cp", "-a", "old", "dest")
				expected = "old"
				w.run("rsync", slices.Concat([]string{"-a", "--delete"}, test.excludes, []string{"expected/", "old/"})...)
			}
			w.start("manifest.yml", nil, "-log-level", "WARN").exits(0)
			timed := func(name string) bool {
				// Files that are not in the archive have the time of their last change.
				_, err := os.Lstat(w.path("new/" + name))
				return err == nil && (name != "." || test.root)
			}
			compare(t, listTree(t, w.path("dest"), timed), listTree(t, w.path(expected), timed))
			w.clean()
		})
	}
}

// listTree returns a description of dir and every file below it, by name. It
// includes the time of a file if timed returns true for its name.
func listTree(t *testing.T, dir string, timed func(name string) bool) map[string]string {
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d links %q", st.Nlink, data)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		case info.Mode()&fs.ModeDevice != 0:
			text += fmt.Sprintf(" device %d", st.Rdev)
		}
		name, err := filepath.Rel(dir, path)
		if timed(name) {
			text += " " + info.ModTime().UTC().Format("2006-01-02T15:04:05")
		}
		list[name] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] == "" {
			t.Errorf("%q is missing: %s", name, want[name])
		} else if got[name] != want[name] {
			t.Errorf("%q is   %s\nexpected %s", name, got[name], want[name])
		}
		delete(got, name)
	}
	for name, text := range got {
		t.Errorf("%q should not exist: %s", name, text)
	}
}
