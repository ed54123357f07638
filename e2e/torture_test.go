package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The torture tests treat deployments the way machines and operators do: they kill
// them, run two at the same time, fill disks, and use commands that misbehave.

// plainPath returns the path of a program without the race detector, which adds to
// the memory and the time that the program takes.
func plainPath(t *testing.T) string {
	t.Helper()
	if os.Getenv("STRETCHER_BIN") != "" {
		return stretcherPath
	}
	path, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildPlain builds it next to stretcherPath, in the directory that is removed at
// the end of all tests.
var buildPlain = sync.OnceValues(func() (string, error) {
	path := stretcherPath + "-plain"
	build := exec.Command("go", "build", "-o", path, "./cmd/stretcher")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build stretcher: %w\n%s", err, out)
	}
	return path, nil
})

// site is a host with a dest that is alone in its parent directory, so that the
// tests see anything that is left next to it.
type site struct {
	*host
	dest    string
	mark    string            // environment variable of all processes of this site
	started map[int]time.Time // when the agents were started that were run here, by pid
}

func newSite(t *testing.T) *site {
	t.Helper()
	mark := fmt.Sprintf("TORTURED_SITE=%d-%x", os.Getpid(), rand.Uint64())
	// Without GORACE, the race detector delays each exit by a second.
	s := &site{host: newHost(t, mark, "GORACE=atexit_sleep_ms=0"), mark: mark}
	s.dest = s.path("site", "dest")
	if err := os.Mkdir(filepath.Dir(s.dest), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := openTree(s.dest); err != nil {
			t.Error(err)
		}
		for _, p := range s.survivors() {
			t.Errorf("still running at the end of the test: %s", p)
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	})
	return s
}

// publish writes an archive and its manifest, and returns the manifest's URL.
func (s *site) publish(name string, archive []byte, more ...string) string {
	s.t.Helper()
	src := s.path("files", name+".tar.gz")
	write(s.t, src, archive)
	sum := sha256.Sum256(archive)
	manifest := fmt.Sprintf("src: %q\nchecksum: %s\ndest: %q\n%s\n", fileURL(src), hex.EncodeToString(sum[:]), s.dest, strings.Join(more, "\n"))
	write(s.t, s.path("files", name+".yml"), []byte(manifest))
	return fileURL(s.path("files", name+".yml"))
}

// tell returns a command that records that it ran and for which result.
func (s *site) tell(list string) string {
	return fmt.Sprintf("cat >/dev/null; sleep 0.02; echo %s:$STRETCHER_RESULT >> %s", list, s.path("ran"))
}

// hooks returns the lines of a manifest with commands that record that they ran.
// The failure command also records any files in TMPDIR and next to dest, where
// none may be left by then.
func (s *site) hooks() string {
	look := fmt.Sprintf("for f in %[1]s/.[!.]* %[1]s/* %[2]s/.[!.]*; do [ ! -e \"$f\" ] || echo leftover:$f >> %[3]s; done", s.path("tmp"), filepath.Dir(s.dest), s.path("ran"))
	return fmt.Sprintf(`commands:
  pre: [%q]
  post: [%q]
  success: [%q]
  failure: [%q]`, s.tell("pre"), s.tell("post"), s.tell("success"), s.tell("failure")+"; "+look)
}

// ran returns the records of the commands of hooks and removes them.
func (s *site) ran() []string {
	s.t.Helper()
	data, err := os.ReadFile(s.path("ran"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	if err := os.RemoveAll(s.path("ran")); err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// wantFailureCommands checks how often the failure command of hooks has run, and
// that it found no leftovers of the run.
func (s *site) wantFailureCommands(times int) {
	s.t.Helper()
	ran := s.ran()
	failures := 0
	for _, word := range ran {
		if strings.HasPrefix(word, "leftover:") {
			s.t.Errorf("the failure command found a %s", word)
		}
		if word == "failure:failure" {
			failures++
		}
	}
	if failures != times {
		s.t.Errorf("the failure command ran %d times, want %d; commands that ran: %v", failures, times, ran)
	}
}

// wantClean checks that a run left no process and no files in TMPDIR or next to
// dest.
func (s *site) wantClean() {
	s.t.Helper()
	for _, p := range s.survivors() {
		s.t.Errorf("a process survived: %s", p)
	}
	s.wantNoLeftovers()
	for _, name := range s.neighbours() {
		s.t.Errorf("left next to dest: %s", name)
	}
	s.releases()
}

// releases returns the names of the releases of dest, and checks that all of them
// are finished, and that nothing else is there.
func (s *site) releases() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.dest + ".releases")
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	var releases, manifests []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yml"); ok {
			manifests = append(manifests, name)
		} else {
			releases = append(releases, e.Name())
		}
	}
	if !slices.Equal(releases, manifests) {
		s.t.Errorf("the releases %v have the manifests %v", releases, manifests)
	}
	return releases
}

// wantOneRelease checks that only the current release is kept.
func (s *site) wantOneRelease() {
	s.t.Helper()
	if kept := s.releases(); len(kept) != 1 {
		s.t.Errorf("the releases %v are left, want only the current one", kept)
	}
}

// unpackedAgain returns the lines of a manifest for a strategy with which each of
// two versions that are deployed in turn is unpacked again.
func unpackedAgain(strategy string) string {
	lines := "sync_strategy: " + strategy
	if strategy == "symlink" {
		lines += "\nkeep_releases: 1"
	}
	return lines
}

// neighbours returns the names of the files next to dest, its releases aside.
func (s *site) neighbours() []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(s.dest))
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != filepath.Base(s.dest) && e.Name() != filepath.Base(s.dest)+".releases" {
			names = append(names, e.Name())
		}
	}
	return names
}

// wantDeployed checks that dest equals the tree, and that all runs so far,
// including killed ones, have left nothing else.
func (s *site) wantDeployed(want tree) {
	s.t.Helper()
	for _, d := range want.differences(readTree(s.t, s.dest)) {
		s.t.Errorf("dest differs from the archive: %s", d)
	}
	s.wantClean()
	for _, name := range s.lockFiles() {
		s.t.Errorf("a lock file is left: %s", name)
	}
}

// lockDirs returns the directories in which the agent may have its lock files.
func lockDirs() []string {
	own := fmt.Sprintf("stretcher-%d", os.Geteuid())
	return []string{"/run/stretcher", "/dev/shm/" + own, "/tmp/" + own}
}

// lockFiles returns the lock files that dead agents of this site have left in the
// agent's lock directories.
func (s *site) lockFiles() []string {
	s.t.Helper()
	var left []string
	for _, dir := range lockDirs() {
		names, err := filepath.Glob(dir + "/*.lock")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				continue // it belongs to another user, or is gone
			}
			pid, since, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
			n, err := strconv.Atoi(pid)
			if started, ours := s.started[n]; err == nil && ours && !locked(name) && wasSoonAfter(since, started) {
				left = append(left, name)
			}
		}
	}
	return left
}

// wasSoonAfter reports whether a time in a lock file is one at which an agent that was
// started then ran. A later agent of another test may have had the same pid.
func wasSoonAfter(since string, started time.Time) bool {
	t, err := time.Parse(time.RFC3339, since)
	return err != nil || !t.Before(started.Truncate(time.Second)) && t.Before(started.Add(patience))
}

// locked reports whether a process holds the lock on a file. Then the pid in it is
// that of a running process, which has reused the pid of a dead agent.
func locked(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return true // it is gone, so its holder was alive
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// process is a process that was found in /proc.
type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("pid %d: %s", p.pid, p.command) }

// survivors returns the processes whose environment contains the site's mark. This
// excludes zombies, which have no environment.
func (s *site) survivors() []process {
	s.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		s.t.Fatal(err)
	}
	var list []process
	for _, path := range found {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), s.mark) {
			continue // it has exited, or belongs to another user
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			s.t.Fatal(err)
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue // it has exited in the meantime
		}
		list = append(list, process{pid, strings.ReplaceAll(strings.Trim(string(command), "\x00"), "\x00", " ")})
	}
	return list
}

// waitForNoSurvivor waits until all processes of a killed agent have exited.
func (s *site) waitForNoSurvivor() {
	s.t.Helper()
	waitFor(s.t, "the end of all processes", func() error {
		if p := s.survivors(); len(p) > 0 {
			return fmt.Errorf("running: %v", p)
		}
		return nil
	})
}

// start starts the agent with the manifest's URL on stdin.
func (s *site) start(url string, args ...string) *running {
	s.t.Helper()
	return s.startCommand(s.command(stretcherPath, args...), url)
}

// startCommand is like start, but for a command that may have its own stdin, and
// may already have a stderr, which receives a copy of the log.
func (s *site) startCommand(cmd *exec.Cmd, url string) *running {
	s.t.Helper()
	r := &running{h: s.host, cmd: cmd, start: time.Now(), done: make(chan struct{})}
	cmd.WaitDelay = patience // processes that it left behind may hold its output
	if cmd.Stdin == nil {
		cmd.Stdin = strings.NewReader(url + "\n")
	}
	cmd.Stdout = &r.stdout
	if cmd.Stderr == nil {
		cmd.Stderr = &r.log
	} else {
		cmd.Stderr = io.MultiWriter(&r.log, cmd.Stderr)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if s.started == nil {
		s.started = map[int]time.Time{}
	}
	s.started[cmd.Process.Pid] = r.start
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	return r
}

// deploy runs a deployment that must succeed.
func (s *site) deploy(url string, args ...string) *outcome {
	s.t.Helper()
	return s.start(url, args...).wait().wantSuccess()
}

// tree maps the paths in a directory, relative to it, to their contents and
// attributes. The directory itself is ".".
type tree map[string]node

type node struct {
	kind    byte // tar.TypeDir, TypeReg, TypeSymlink or TypeLink
	mode    fs.FileMode
	mtime   int64  // in seconds; 0 for a directory without an entry in the archive
	content string // content of a file, or target of a link
}

func (n node) String() string {
	return fmt.Sprintf("%c %v %d bytes %.40q, mtime %d", n.kind, n.mode, len(n.content), n.content, n.mtime)
}

// pack returns a tar.gz of the tree.
func (tr tree) pack(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, path := range slices.Sorted(maps.Keys(tr)) {
		n := tr[path]
		h := &tar.Header{Name: path, Typeflag: n.kind, Mode: int64(n.mode.Perm()), ModTime: time.Unix(n.mtime, 0), Uid: os.Geteuid(), Gid: os.Getegid()}
		switch n.kind {
		case tar.TypeReg:
			h.Size = int64(len(n.content))
		case tar.TypeDir:
			if n.mtime == 0 {
				continue
			}
			h.Name = path + "/"
		default:
			h.Linkname = n.content
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if n.kind == tar.TypeReg {
			if _, err := w.Write([]byte(n.content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readTree returns the tree at dir, which may be a link to it. It is empty if dir
// does not exist.
func readTree(t *testing.T, dir string) tree {
	t.Helper()
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	tr := tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path == dir && os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := node{mode: info.Mode().Perm() | info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), mtime: info.ModTime().Unix()}
		switch info.Mode().Type() {
		case fs.ModeDir:
			n.kind = tar.TypeDir
		case fs.ModeSymlink:
			n.kind = tar.TypeSymlink
			n.content, err = os.Readlink(path)
		case 0:
			n.kind = tar.TypeReg
			var data []byte
			data, err = os.ReadFile(path)
			n.content = string(data)
		default:
			return fmt.Errorf("%s: unexpected %v", path, info.Mode())
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		tr[rel] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// extracted returns the tree as it is on disk after its extraction: hard links are
// files, and symlinks have mode 0777.
func (tr tree) extracted() tree {
	tr = maps.Clone(tr)
	for path, n := range tr {
		switch n.kind {
		case tar.TypeLink:
			tr[path] = tr[n.content]
		case tar.TypeSymlink:
			n.mode = 0o777
			tr[path] = n
		}
	}
	return tr
}

// differences describes how found, which was read from disk, differs from tr.
func (tr tree) differences(found tree) []string {
	var list []string
	want := tr.extracted()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w := want[path]
		f, ok := found[path]
		if w.mtime == 0 {
			f.mtime = 0
		}
		if !ok {
			list = append(list, fmt.Sprintf("%s is missing", path))
		} else if f != w {
			list = append(list, fmt.Sprintf("%s is %s, want %s", path, f, w))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if _, ok := want[path]; !ok {
			list = append(list, fmt.Sprintf("%s should not exist", path))
		}
	}
	return list
}

// openTree makes all directories of a tree writable, so that an ordinary user can
// remove it.
func openTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	})
}

// tortured returns two versions of an application with size files, which differ in
// every way that a deployment must handle. If clamped is true, some files differ
// only in content, while their size and time are the same, as in archives with
// clamped times. rsync(1) considers such files unchanged.
func tortured(size int, clamped bool) [2]tree {
	var versions [2]tree
	for v := range versions {
		const epoch = 1_700_000_000
		tr := tree{}
		dir := func(path string, mode fs.FileMode) {
			tr[path] = node{kind: tar.TypeDir, mode: mode, mtime: epoch + int64(len(path))}
		}
		file := func(path string, mode fs.FileMode, age int64, size int, version int) {
			line := fmt.Sprintf("version %d of %s\n", version, path)
			tr[path] = node{kind: tar.TypeReg, mode: mode, mtime: epoch + age, content: strings.Repeat(line, size/len(line)+1)[:size]}
		}
		link := func(path, target string) {
			tr[path] = node{kind: tar.TypeSymlink, mtime: epoch + int64(v), content: target}
		}
		if v == 0 {
			dir(".", 0o750)
		} else {
			tr["."] = node{kind: tar.TypeDir, mode: 0o755} // dest_mode's default
		}
		for d := range 12 {
			dir(fmt.Sprintf("d%d", d), 0o755)
			dir(fmt.Sprintf("d%d/sub", d), []fs.FileMode{0o755, 0o700, 0o555, 0o750}[(d+v)%4])
		}
		for i := range size {
			path := fmt.Sprintf("d%d/file-%d", i%12, i)
			if i%3 == 0 {
				path = fmt.Sprintf("d%d/sub/file-%d", i%12, i)
			}
			size := i * i * 37 % 20_000
			if i%60 == 5 {
				size = 400_000
			}
			switch i % 10 {
			case 0, 1, 2, 3: // the same in both versions
				file(path, 0o644, 0, size, 0)
			case 4, 5: // different content
				file(path, 0o644, int64(v), size, v)
			case 6: // different size and mode
				file(path, []fs.FileMode{0o600, 0o755}[v], int64(v), size+v, v)
			case 7, 8: // only in one of the versions
				if i%10 == 7+v {
					file(path, 0o640, 0, size, v)
				}
			case 9: // only different attributes
				file(path, []fs.FileMode{0o644, 0o444}[v], 100+int64(v), size, 0)
			}
		}
		dir("empty", 0o755)
		dir("ü b", 0o755)
		file("ü b/\"odd' $name\\", 0o644, int64(v), 100+v, v)
		file("zero", 0o644, int64(v), 0, v)
		dir("hard", 0o755)
		file("hard/a", 0o644, int64(v), 5000, v)
		tr["hard/b"] = node{kind: tar.TypeLink, content: "hard/a"}
		link("link", fmt.Sprintf("d%d", v))
		link("link-out", "/nonexistent/../etc")
		// These names have different types in the two versions.
		if v == 0 {
			file("file-or-dir", 0o644, 0, 3000, v)
			link("link-or-file", "zero")
			dir("dir-or-link", 0o755)
			file("dir-or-link/inside", 0o644, 0, 3000, v)
			dir("gone", 0o755)
			dir("gone/deep", 0o555)
			file("gone/deep/file", 0o444, 0, 3000, v)
		} else {
			dir("file-or-dir", 0o755)
			file("file-or-dir/inside", 0o644, 0, 3000, v)
			file("link-or-file", 0o644, 0, 3000, v)
			link("dir-or-link", "d0")
		}
		if clamped {
			for i := range 20 {
				file(fmt.Sprintf("d0/clamped-%d", i), 0o644, 0, 4000, v)
			}
		}
		versions[v] = tr
	}
	return versions
}
