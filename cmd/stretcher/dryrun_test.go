package main

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/redact"
)

// exact describes all that stat(2) tells of the files below a directory, access
// times aside.
func (w *world) exact(name string) map[string]string {
	w.t.Helper()
	lines := map[string]string{}
	err := filepath.WalkDir(w.path(name), func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		lines[path] = fmt.Sprintf("inode %d mode %o owner %d:%d links %d size %d mtime %v ctime %v", st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

// described describes the files below a directory, as far as a release decides about
// them.
func (w *world) described(name string) map[string]string {
	w.t.Helper()
	lines := map[string]string{}
	dir, err := filepath.EvalSymlinks(w.path(name))
	if err != nil {
		return lines
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("mode %o owner %d:%d mtime %v", st.Mode, st.Uid, st.Gid, st.Mtim)
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", data)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		relative, err := filepath.Rel(dir, path)
		if d.IsDir() {
			relative += "/"
		}
		lines[relative] = line
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

// expectedLines returns the lines of a dry run that stand for the difference between
// two descriptions.
func expectedLines(before, after map[string]string) []string {
	var lines []string
	other := func(name string) string { // the name as one of another type
		if bare, isDir := strings.CutSuffix(name, "/"); isDir {
			return bare
		}
		return name + "/"
	}
	for name, line := range after {
		switch {
		case before[other(name)] != "" || before[name] != "" && before[name] != line:
			lines = append(lines, redact.Printable("would change "+name))
		case before[name] == "":
			lines = append(lines, redact.Printable("would create "+name))
		}
	}
	for name := range before {
		if after[name] == "" && after[other(name)] == "" {
			lines = append(lines, redact.Printable("would delete "+name))
		}
	}
	slices.Sort(lines)
	return lines
}

// wouldLines returns the lines of a dry run about paths, without what differs.
func wouldLines(log string) []string {
	var lines []string
	for _, line := range strings.Split(log, "\n") {
		fields := strings.SplitN(line, " ", 3)
		if len(fields) < 3 {
			continue
		}
		text := fields[2]
		if strings.HasPrefix(text, "would change ") {
			text = regexp.MustCompile(`: (contents|copied|type|target|device|owner|group|mode|time|file)\b.*$`).ReplaceAllString(text, "")
		} else if !strings.HasPrefix(text, "would create ") && !strings.HasPrefix(text, "would delete ") || strings.HasPrefix(text, "would create the shared path") {
			continue
		}
		lines = append(lines, text)
	}
	slices.Sort(lines)
	return lines
}

// ends waits until the agent has ended.
func (a *agent) ends() {
	a.world.t.Helper()
	if !a.endsWithin(patience) {
		a.world.t.Fatalf("the agent is still running after %s", patience)
	}
}

// randomTree fills a directory.
func (w *world) randomTree(r *rand.Rand, name string, generation int) {
	w.t.Helper()
	names := []string{"a", "b", "c.pid", "d d", "new\nline", "back\\#012slash", "ü", "not\xffutf8", "- x"}
	check := func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var files []string
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range names {
			path := filepath.Join(dir, name)
			switch n := r.IntN(12); {
			case n < 4:
			case n < 6 && depth < 2:
				check(os.Mkdir(path, 0o755))
				fill(path, depth+1)
			case n == 6:
				check(os.Symlink([]string{"a", "/etc", "../b"}[r.IntN(3)], path))
			case n == 7:
				check(unix.Mkfifo(path, 0o644))
			case n == 8 && len(files) > 0:
				check(os.Link(files[r.IntN(len(files))], path))
			default:
				check(os.WriteFile(path, []byte(strings.Repeat(string(rune('a'+r.IntN(2+generation))), 1+r.IntN(3))), 0o644))
				files = append(files, path)
			}
		}
	}
	check(os.MkdirAll(w.path(name), 0o755))
	fill(w.path(name), 0)
	w.disturb(r, name, 2)
}

// disturb gives one in n files another mode, owner and time. The times are whole
// seconds: rsync(1) tells no others apart.
func (w *world) disturb(r *rand.Rand, name string, n int) {
	var paths []string
	err := filepath.WalkDir(w.path(name), func(path string, d fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	slices.Reverse(paths) // directories after what is in them
	for _, path := range paths {
		if err != nil {
			w.t.Fatal(err)
		}
		if n == 2 || r.IntN(n) == 0 {
			var st unix.Stat_t
			err = unix.Lstat(path, &st)
			if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK && r.IntN(2) == 0 {
				err = unix.Chmod(path, []uint32{0o755, 0o700, 0o711}[r.IntN(3)])
			}
			if err == nil && os.Geteuid() == 0 && r.IntN(3) == 0 {
				err = os.Lchown(path, r.IntN(3), r.IntN(3))
			}
			at := unix.Timespec{Sec: 1_000_000_000 + int64(r.IntN(3))}
			if err == nil {
				err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
			}
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// A dry run lists what a deployment then changes, for random archives and contents
// of dest, and it changes nothing itself. STRETCHER_TEST_SEED repeats a round that
// failed.
func TestDryRunAtRandom(t *testing.T) {
	for _, strategy := range []string{"rsync", "builtin", "mv", "symlink"} {
		t.Run(strategy, func(t *testing.T) {
			if _, err := exec.LookPath("rsync"); err != nil && strategy == "rsync" {
				t.Skip("rsync is not installed")
			}
			t.Parallel()
			first, rounds := uint64(time.Now().UnixNano()), uint64(8)
			if s := os.Getenv("STRETCHER_TEST_SEED"); s != "" {
				fmt.Sscan(s, &first)
				rounds = 1
			}
			for seed := first; seed < first+rounds && !t.Failed(); seed++ {
				t.Run(fmt.Sprint(seed), func(t *testing.T) { dryRunAtRandom(t, strategy, rand.New(rand.NewPCG(seed, 0))) })
			}
		})
	}
}

func dryRunAtRandom(t *testing.T, strategy string, r *rand.Rand) {
	w := newWorld(t)
	t.Cleanup(func() { w.run("chmod", "-R", "u+rwX", ".") })
	w.randomTree(r, "old", 0)
	if r.IntN(2) == 0 {
		w.randomTree(r, "new", 1)
	} else {
		w.run("cp", "-a", "old", "new")
		w.disturb(r, "new", 4)
		w.write("new/zz/x", "added")
		w.write("new/added", "added")
		w.run("touch", "-d", "@1000000000", "new/zz", "new")
	}
	members := ". --sort=name"
	if r.IntN(4) == 0 {
		members = "$(ls -A | grep -v '[^a-z]' )" // without an entry for the root
	}
	excludes := [][]string{nil, {"*.pid"}, {"/a"}, {"b", "+ /d*"}}[r.IntN(4)]
	pack := func(dir string) {
		w.run("sh", "-c", "cd "+dir+" && tar -cf ../"+dir+".tar "+members+" 2>/dev/null || tar -cf ../"+dir+".tar .")
		sum, _, _ := strings.Cut(w.run("sha256sum", dir+".tar"), " ")
		w.write(dir+".yml", fmt.Sprintf("src: %s\nchecksum: %s\ndest: %s\nsync_strategy: %s\nexcludes: %s\ncommands: {pre: [touch ran], post: [touch ran], success: [touch ran], failure: [touch ran]}\n",
			w.url(dir+".tar"), sum, w.path("parent/dest"), strategy, strings.ReplaceAll(fmt.Sprintf("%q", excludes), " \"", ", \"")))
	}
	pack("old")
	pack("new")
	w.run("mkdir", "parent")
	switch strategy {
	case "symlink":
		w.start("old.yml", nil).exits(0)
		w.run("rm", "-f", "ran")
	case "rsync", "builtin":
		if r.IntN(6) > 0 {
			w.run("cp", "-a", "--no-preserve=links", "old", "parent/dest") // rsync(1) does not say which other names of a file it changes
		}
	}
	was := w.exact(".")
	dry := w.start("new.yml", nil, "-dry-run")
	dry.ends()
	is := w.exact(".")
	if strategy == "rsync" { // whose staging directory was there
		delete(was, w.path("tmp"))
		delete(is, w.path("tmp"))
	}
	compare(t, is, was)

	before := w.described("parent/dest")
	deployed := w.start("new.yml", nil)
	deployed.ends()
	if dry.cmd.ProcessState.ExitCode() != deployed.cmd.ProcessState.ExitCode() {
		t.Fatalf("dry run:\n%s\ndeployment:\n%s", dry.log, deployed.log)
	}
	if dry.cmd.ProcessState.ExitCode() != 0 {
		return
	}
	after := w.described("parent/dest")
	w.run("sh", "-c", "mkdir archived && tar -xpf new.tar -C archived") // not all of new is in the archive
	archived := w.described("archived")
	for name, line := range after { // times that the archive does not set
		set := archived[name] != "" && (strategy == "rsync" || strings.Contains(line, "mtime {10000000"))
		if strings.HasSuffix(name, "/") && !set {
			before[name] = regexp.MustCompile(`mtime \{\S+ \S+\}`).ReplaceAllString(before[name], "")
			after[name] = regexp.MustCompile(`mtime \{\S+ \S+\}`).ReplaceAllString(line, "")
		}
	}
	expected := map[string]string{}
	for _, line := range expectedLines(before, after) {
		expected[line] = "listed"
	}
	got := map[string]string{}
	for _, line := range wouldLines(dry.log.String()) {
		got[line] = "listed"
	}
	if compare(t, maps.Clone(got), expected); t.Failed() {
		t.Logf("dry run:\n%s\ndeployment:\n%s", dry.log, deployed.log)
	}
	if strings.Contains(dry.log.String(), "succeeded") || !regexp.MustCompile(`Dry run: \d+ would be created, \d+ changed, \d+ deleted in \S+, .* written; nothing was changed\n$`).MatchString(dry.log.String()) {
		t.Errorf("the log ends with\n%s", dry.log)
	}
}

// A user who may not write to dest gets the list as far as it can be read, and then
// the error of the deployment. Not even a directory for locks is made.
func TestDryRunUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	uid, start := w.asUser()
	w.run("sh", "-c", "mkdir -m 755 dest; mkdir -m 700 dest/closed; echo old > dest/file; echo old > dest/stale; echo secret > dest/file2; chmod 644 dest/*e")
	w.run("sh", "-c", "mkdir -p app/closed; echo content > app/file; chmod 755 app/file; echo x > app/closed/x; tar -cf app.tar -C app file closed")
	manifest := w.archive(w.path("dest"))
	w.write("manifest.yml", manifest+"sync_strategy: builtin\n")
	was := w.exact("dest")
	a := start("manifest.yml", "-dry-run")
	a.exits(1)
	for _, line := range []string{
		`\[WARN\] closed: permission denied: what would change in it is not known`,
		`would change file: contents, group 0 -> \d+, mode 0644 -> 0755, time`,
		`would delete stale`,
		`\[ERROR\] Dry run failed: dest \S+/dest is not writable by uid \d+`,
	} {
		a.logged(" " + line + "$")
	}
	compare(t, w.exact("dest"), was)

	// rsync itself succeeds in a dry run.
	w.run("rm", "-r", "dest/closed")
	w.write("manifest.yml", manifest+"sync_strategy: rsync\n")
	a = start("manifest.yml", "-dry-run")
	a.exits(1)
	a.logged(` would delete stale$`)
	a.logged(`\[ERROR\] Dry run failed: dest \S+/dest is not writable by uid \d+$`)
	for _, parent := range []string{"/dev/shm", "/tmp"} {
		if _, err := os.Lstat(fmt.Sprintf("%s/stretcher-%d", parent, uid)); err == nil {
			t.Errorf("a directory for locks was made in %s", parent)
		}
	}
	w.clean()
}

// A dry run waits for a deployment to dest that runs.
func TestDryRunWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: builtin\ncommands: {pre: ['echo > began; while ! test -e go; do sleep 0.01; done']}\n")
	deployment := w.start("manifest.yml", nil)
	deployment.until("pre runs", func() bool { _, err := os.Stat(w.path("began")); return err == nil })
	dry := w.start("manifest.yml", nil, "-dry-run")
	dry.logged(fmt.Sprintf("waiting for another deployment to %s: pid %d, since 20", w.path("dest"), deployment.pid()))
	w.write("go", "")
	deployment.exits(0)
	dry.exits(0)
	dry.logged("Dry run: 0 would be created, 0 changed, 0 deleted")
}

// What a killed dry run leaves is in TMPDIR, and the next deployment removes it. One
// that is cancelled leaves nothing.
func TestDryRunKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("bin/rsync", "#!/bin/sh\necho > began\nexec sleep 600\n")
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: rsync\ncommands: {failure: [touch ran]}\n")
	w.write("builtin.yml", w.archive(w.path("dest"))+"sync_strategy: builtin\n")
	began := func() bool { _, err := os.Stat(w.path("began")); return err == nil }
	path := "PATH=" + w.path("bin") + ":" + os.Getenv("PATH")

	a := w.start("manifest.yml", []string{path}, "-dry-run")
	a.until("rsync runs", began)
	a.signal(syscall.SIGTERM)
	a.exits(1)
	a.logged(`\[ERROR\] Dry run failed: .*: interrupted by SIGTERM\n.* Dry run: nothing was changed$`)
	w.clean()
	w.run("rm", "began")

	a = w.start("manifest.yml", []string{path}, "-dry-run")
	a.until("rsync runs", began)
	a.signal(syscall.SIGKILL)
	a.ends()
	for _, name := range []string{"dest", "ran"} {
		if _, err := os.Lstat(w.path(name)); err == nil {
			t.Errorf("%s exists", name)
		}
	}
	w.start("builtin.yml", nil).exits(0)
	w.clean()
}
