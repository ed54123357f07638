package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// This is the deployment by hand that stretcher replaces: tar and rsync, as an
// operator would type the commands.
const byHand = `set -e
mkdir -m 0755 stage
tar -xf "$ARCHIVE" -C stage
rsync -a --delete "$@" stage/ dest/
`

// TestByHand deploys archives that tar made of real trees over an older dest, and
// compares the result with that of tar and rsync.
func TestByHand(t *testing.T) {
	t.Parallel()
	trees := newHost(t)
	makeTree(t, trees.path("new"), "new")
	makeTree(t, trees.path("old"), "old")
	replaceTypes(t, trees.path("new"), trees.path("old"))
	// The times are in the past and differ between the versions, because rsync
	// considers a file unchanged if its size and time are the same.
	setTimes(t, trees.path("new"), "2020-02-03 04:05:06.789")
	setTimes(t, trees.path("old"), "2019-02-03 04:05:06.789")
	sh := func(h *host, script string, args ...string) {
		t.Helper()
		cmd := h.command("sh", append([]string{"-c", script, "sh"}, args...)...)
		output(t, cmd)
	}

	archives := []struct{ name, tar string }{
		{"app.tar", "tar -cf $OUT ."},
		{"app.tar.gz", "tar -czf $OUT ."},
		{"app-without-root.tar.gz", "tar -czf $OUT *"},
		{"app-posix.tar.gz", "tar --format=posix -czf $OUT ."},
		{"app-ustar.tar.gz", "tar --format=ustar --exclude='longlong*' -czf $OUT ."},
		{"app.tar.bz2", "tar -cjf $OUT ."},
		{"app.tar.xz", "tar -cJf $OUT ."},
		{"app.tar.zst", "tar --zstd -cf $OUT ."},
	}
	for _, a := range archives {
		sh(&host{t: t, dir: trees.dir, env: append(trees.env, "OUT="+trees.path(a.name))}, "cd ../new && "+a.tar)
	}

	excludes := "excludes: ['*.pid', '/sub/*.log', 'cache/']\nexclude_from: etc/excludes\n"
	excludeArgs := []string{"--exclude-from=stage/etc/excludes", "--exclude=*.pid", "--exclude=/sub/*.log", "--exclude=cache/"}
	compare := func(archive, strategy, manifest string, rsyncArgs ...string) {
		t.Run(strings.TrimSuffix(archive+"/"+strategy, "/"), func(t *testing.T) {
			h := newHost(t)
			// Prepare the old dest twice, once for each way of deploying.
			sh(h, `cp -a "$1" "$2"; mkdir hand; cp -a "$1" hand/dest`, trees.path("old"), h.path("dest"))
			hand := &host{t: t, dir: h.dir, env: append(h.env, "ARCHIVE="+trees.path(archive))}
			sh(hand, "cd hand\n"+byHand, rsyncArgs...)

			manifest := archiveManifest(t, trees.path(archive), h.path("dest")) + manifest
			if strategy != "" {
				manifest += "sync_strategy: " + strategy + "\n"
			}
			write(t, h.path("files", "deploy.yml"), []byte(manifest))
			url := fileURL(h.path("files", "deploy.yml"))
			h.stretcher(url).wantSuccess()
			wantSameTree(t, h.path("dest"), h.path("work", "hand", "dest"))
			// Deploy again: there is nothing to change.
			h.stretcher(url).wantSuccess()
			wantSameTree(t, h.path("dest"), h.path("work", "hand", "dest"))
		})
	}
	for _, a := range archives {
		compare(a.name, "", "")
		compare(a.name, "builtin", "")
	}
	for _, strategy := range []string{"", "rsync", "builtin"} {
		compare("app.tar.gz", strategy, excludes, excludeArgs...)
	}
}

// archiveManifest returns the manifest of an archive on disk.
func archiveManifest(t *testing.T, archive, dest string) string {
	t.Helper()
	data := read(t, archive)
	return fmt.Sprintf("src: %s\nchecksum: %x\ndest: %s\n", fileURL(archive), sha256.Sum256(data), dest)
}

// makeTree creates a tree that contains files of every type. The trees of two
// versions differ.
func makeTree(t *testing.T, dir, version string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name, content string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		check(os.WriteFile(path, []byte(content), 0o600))
		check(os.Chmod(path, mode))
	}
	file("version", version+"\n", 0o644)
	file("same", "the same\n", 0o644)
	file("only-"+version, version, 0o600)
	file("bin/run", "#!/bin/sh\necho "+version+"\n", 0o755)
	file("bin/setuid", version, os.ModeSetuid|0o755)
	file("etc/excludes", "# comment\n; another\n\n*.secret\n+ sub/kept.conf\n- sub/*.conf\n", 0o644)
	file("etc/readonly", version, 0o444)
	file("empty", "", 0o644)
	file("large", strings.Repeat(version+"0123456789abcdef", 50000), 0o644)
	for _, name := range []string{"with space", "ümläut 日本", "-dash", "new\nline", "quote'\"$`\\", "*?[x]", ".hidden", "\xff\xfe not UTF-8", strings.Repeat("long", 60)} {
		file("odd/"+name, version+name, 0o644)
	}
	file(filepath.Join("deep", strings.Repeat("d/", 20), "file"), version, 0o644)
	for _, name := range []string{"app.pid", "sub/app.pid", "sub/app.log", "sub/other/app.log", "cache/" + version, "sub/cache/" + version, "sub/kept.conf", "sub/left.conf", "a.secret"} {
		file(name, version, 0o644)
	}
	for name, target := range map[string]string{"link": "bin/run", "dangling": "nowhere/" + version, "absolute": "/etc/passwd", "to-dir": "bin", "up": "../../.."} {
		check(os.Symlink(target, filepath.Join(dir, name)))
	}
	check(os.Link(filepath.Join(dir, "version"), filepath.Join(dir, "hard-link")))
	check(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	check(os.MkdirAll(filepath.Join(dir, "empty-dir"), 0o755))
	check(os.Mkdir(filepath.Join(dir, "closed-dir"), 0o755))
	file("closed-dir/file", version, 0o644)
	var paths []string
	check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	for i, path := range paths {
		if os.Geteuid() == 0 && i%3 == 0 {
			info, err := os.Lstat(path)
			check(err)
			check(os.Lchown(path, 12345, 54321))
			if info.Mode()&os.ModeSymlink == 0 {
				check(os.Chmod(path, info.Mode())) // lchown has cleared the setuid bit
			}
		}
	}
	check(os.Chmod(filepath.Join(dir, "closed-dir"), 0o555))
	check(os.Chmod(dir, 0o711))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed-dir"), 0o755) })
}

// replaceTypes changes the types of some files in the old tree, so that they differ
// from those in the new tree.
func replaceTypes(t *testing.T, newTree, oldTree string) {
	t.Helper()
	kinds := []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("file"), 0o644) },
		func(path string) error { return os.Symlink("bin", path) },
		func(path string) error {
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(path, "inside"), []byte(path), 0o644)
		},
	}
	for i, is := range kinds {
		for j, was := range kinds {
			name := fmt.Sprintf("was-%d-is-%d", j, i)
			if err := is(filepath.Join(newTree, name)); err != nil {
				t.Fatal(err)
			}
			if err := was(filepath.Join(oldTree, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// setTimes sets the times of all files in a tree, including symlinks.
func setTimes(t *testing.T, dir, when string) {
	t.Helper()
	output(t, exec.Command("find", dir, "-depth", "-exec", "touch", "--no-dereference", "--date", when, "{}", "+"))
}

// wantSameTree checks that two trees are equal in everything that rsync -a
// preserves.
func wantSameTree(t *testing.T, got, want string) {
	t.Helper()
	gotTree, wantTree := describe(t, got), describe(t, want)
	for path, w := range wantTree {
		if g, ok := gotTree[path]; !ok {
			t.Errorf("%q is missing, want %s", path, w)
		} else if g != w {
			t.Errorf("%q is %s, want %s", path, g, w)
		}
	}
	for path, g := range gotTree {
		if _, ok := wantTree[path]; !ok {
			t.Errorf("%q should not be there: %s", path, g)
		}
	}
}

// describe returns, for each file in a tree, the attributes that rsync -a
// preserves.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil && os.Geteuid() == 0 {
				return err
			}
			what += fmt.Sprintf(" %d bytes, %x", info.Size(), sha256.Sum256(data))
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " -> " + target
		}
		rel, err := filepath.Rel(dir, path)
		if rel != "." { // if the archive has no "./", the time of dest is that of the deployment
			what += info.ModTime().UTC().Format(" 2006-01-02 15:04:05.999999999")
		}
		tree[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// The strategy mv produces what tar would unpack.
func TestByHandMv(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	makeTree(t, h.path("new"), "new")
	h.env = append(h.env, "ARCHIVE="+h.path("app.tar.gz"))
	output(t, h.command("sh", "-c", "tar -C ../new -czf $ARCHIVE . && mkdir hand && tar -C hand -xf $ARCHIVE"))
	write(t, h.path("files", "deploy.yml"), []byte(archiveManifest(t, h.path("app.tar.gz"), h.path("dest"))+"sync_strategy: mv\n"))
	url := fileURL(h.path("files", "deploy.yml"))
	h.stretcher(url).wantSuccess()
	wantSameTree(t, h.path("dest"), h.path("work", "hand"))
	// It fails if dest exists.
	h.stretcher(url).wantFailure("Deploy manifest failed:", h.path("dest"))
	wantSameTree(t, h.path("dest"), h.path("work", "hand"))
	left, err := filepath.Glob(h.path(".dest*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left next to dest: %q %v", left, err)
	}
}
