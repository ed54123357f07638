package stretcher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// onLine calls f before the first write with a text.
type onLine struct {
	io.Writer
	text string
	f    func()
}

func (w *onLine) Write(p []byte) (int, error) {
	if w.f != nil && bytes.Contains(p, []byte(w.text)) {
		f := w.f
		w.f = nil
		f()
	}
	return w.Writer.Write(p)
}

// If dest changes between the search for what it has and the use of that, the
// deployment succeeds nevertheless, with the right files: what may be needed after pre
// commands was copied, or else the whole archive is downloaded.
func TestIncrementalChangedMeanwhile(t *testing.T) {
	f := newForest(t, 7)
	older, newer := filepath.Join(t.TempDir(), "older"), filepath.Join(t.TempDir(), "newer")
	for _, name := range []string{"kept", "sub/kept"} {
		path := filepath.Join(older, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, bytes.Repeat([]byte("as it was\n"), 60_000), 0o644))
	}
	f.grow(older, 20)
	f.settle(older)
	f.copy(older, newer)
	must(t, os.WriteFile(filepath.Join(newer, "new"), []byte("something new"), 0o644))
	manifests := map[string]Manifest{}
	for _, tree := range []string{older, newer} {
		archive, m := packed(t, tree, pack.Options{})
		m.Src = "file://" + tree + ".tar.zst"
		must(t, os.WriteFile(tree+".tar.zst", archive, 0o644))
		manifests[tree] = m
	}
	changes := map[string]string{
		"contents":      `printf changed >> kept; printf X | dd of=sub/kept bs=1 seek=300000 conv=notrunc status=none`,
		"gone":          `find . -mindepth 1 -delete`,
		"fifo":          `rm kept; mkfifo kept`,
		"directory":     `rm kept; mkdir -p kept/sub`,
		"link":          `mv kept other; ln -s other kept`,
		"link of dir":   `mv sub moved; ln -s moved sub`,
		"fifo for dir":  `rm -r sub; mkfifo sub`,
		"other is kept": `mv kept sub/kept`,
	}
	for _, strategy := range []string{"builtin", "rsync", "symlink"} {
		for what, change := range changes {
			for _, byPre := range []bool{true, false} {
				for _, tree := range []string{older, newer} {
					t.Run(fmt.Sprintf("%s/%s/pre=%v/unchanged=%v", strategy, what, byPre, tree == older), func(t *testing.T) {
						if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
							t.Skip("there is no rsync(1)")
						}
						dest := filepath.Join(t.TempDir(), "dest")
						version := func(tree string) Manifest {
							m := manifests[tree]
							m.Dest, m.SyncStrategy = dest, strategy
							return m
						}
						first := version(older)
						first.Excludes = []string{"not-there"} // so that it is not the release that is deployed again
						var err error
						if said := logOf(func() { err = first.DeployContext(t.Context(), Config{Whole: true}) }); err != nil {
							t.Fatalf("%v: %s", err, said)
						}
						m := version(tree)
						hook := &onLine{text: "Syncing to"}
						script := "cd " + dest + "/. && { " + change + "; }"
						if byPre {
							m.Commands.Pre = CommandLines{CommandLine(script)}
						} else {
							hook.f = func() {
								if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
									t.Errorf("%v: %s", err, out)
								}
							}
						}
						said := logOf(func() {
							hook.Writer = log.Writer()
							log.SetOutput(hook)
							err = m.DeployContext(t.Context(), Config{})
						})
						if err != nil {
							t.Fatalf("%v: %s", err, said)
						}
						wantTree(t, tree, current(t, dest), strategy)
						whole := strings.Contains(said, "has changed while it was deployed") && strings.Contains(said, ": downloading the whole archive\n") && strings.Contains(said, "Checksum ok")
						copied := byPre && tree == newer || what == "link of dir" && !whole // which may still be open
						if whole == copied || strings.Count(said, "[WARN]") > 1 {
							t.Errorf("log: %s", said)
						}
					})
				}
			}
		}
	}
}

// A dry run starts over, too, if dest changes meanwhile. The builtin strategy reads
// only the file with the excludes from there, and rsync needs all files.
func TestIncrementalDryRunChangedMeanwhile(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "list"), []byte("*.log\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(tree, "kept"), bytes.Repeat([]byte("as it was\n"), 60_000), 0o644))
	archive, m := packed(t, tree, pack.Options{})
	src := filepath.Join(t.TempDir(), "archive")
	must(t, os.WriteFile(src, archive, 0o644))
	m.Src, m.ExcludeFrom = "file://"+src, "list"
	for _, strategy := range []string{"builtin", "rsync", "symlink"} {
		// The file with the excludes is read first before any command would be run.
		for _, when := range []string{"Fetched ", "would run pre command"} {
			t.Run(strategy+"/"+when, func(t *testing.T) {
				if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
					t.Skip("there is no rsync(1)")
				}
				m := m
				m.Dest, m.SyncStrategy = filepath.Join(t.TempDir(), "dest"), strategy
				must(t, m.DeployContext(t.Context(), Config{}))
				m.Excludes = []string{"not-there"} // so that it is not the release that is there
				m.Commands.Pre = CommandLines{"true"}
				hook := &onLine{text: when, f: func() {
					must(t, os.WriteFile(filepath.Join(m.Dest, "list"), []byte("kept\n"), 0o644))
				}}
				var err error
				said := logOf(func() {
					hook.Writer = log.Writer()
					log.SetOutput(hook)
					err = m.DeployContext(t.Context(), Config{DryRun: true})
				})
				if err != nil || !strings.Contains(said, ": downloading the whole archive\n") || !strings.Contains(said, "would change list: ") || !strings.Contains(said, "Dry run: 0 would be created") {
					t.Errorf("%v: %s", err, said)
				}
			})
		}
	}
}

// After pre commands, nothing has to be downloaded unless nothing seemed to have
// changed. If it has to be and cannot, the error says so, and dest is not touched.
func TestIncrementalNoNetworkAfterPre(t *testing.T) {
	f := newForest(t, 8)
	older, newer := filepath.Join(t.TempDir(), "older"), filepath.Join(t.TempDir(), "newer")
	must(t, os.Mkdir(older, 0o755))
	f.grow(older, 20)
	f.settle(older)
	f.copy(older, newer)
	f.grow(newer, 5)
	f.settle(newer)
	for _, tree := range []string{older, newer} {
		dir := t.TempDir()
		src, dest := filepath.Join(dir, "archive"), filepath.Join(dir, "dest")
		var m Manifest
		for _, version := range []string{older, tree} {
			var archive []byte
			archive, m = packed(t, version, pack.Options{})
			must(t, os.WriteFile(src, archive, 0o644))
			m.Src, m.Dest, m.SyncStrategy = "file://"+src, dest, "builtin"
			if version == older {
				must(t, m.DeployContext(t.Context(), Config{}))
			}
		}
		m.Commands.Pre = CommandLines{CommandLine(fmt.Sprintf("rm -rf %s && find %s -mindepth 1 -delete && touch %s/left", src, dest, dest))}
		var err error
		said := logOf(func() { err = m.DeployContext(t.Context(), Config{}) })
		if tree == newer {
			if err != nil || strings.Contains(said, "downloading") {
				t.Errorf("%v: %s", err, said)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "Get src failed: ") || !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%v: %s", err, said)
		}
		if got := tartest.NamesIn(t, dest); len(got) != 1 || got[0] != "left" {
			t.Errorf("dest has %q", got)
		}
	}
}

// A pre or post command may unmount dest, whether or not something is new.
func TestIncrementalUnmounted(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	must(t, os.Mkdir(dest, 0o755))
	if err := syscall.Mount("tmpfs", dest, "tmpfs", 0, ""); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dest, 0)) })
	tree := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o755))
	for i, name := range []string{"kept", "sub/kept", "new"} {
		must(t, os.WriteFile(filepath.Join(tree, name), bytes.Repeat([]byte(name), 1000<<i), 0o644))
		archive, m := packed(t, tree, pack.Options{})
		m.Dest, m.SyncStrategy, m.Src = dest, "builtin", fmt.Sprintf("file://%s%d.tar.zst", tree, i)
		must(t, os.WriteFile(fmt.Sprintf("%s%d.tar.zst", tree, i), archive, 0o644))
		remount := "umount " + dest + " && mount -t tmpfs tmpfs " + dest
		post := fmt.Sprintf("cp -a %s %s-copy && %s && cp -a %[2]s-copy/. %[1]s && rm -r %[2]s-copy", dest, tree, remount)
		pre := Commands{Pre: CommandLines{CommandLine(remount)}}
		// Something is new the first time only.
		for _, commands := range []Commands{pre, {Post: CommandLines{CommandLine(post)}}, pre} {
			m.Commands = commands
			var err error
			if said := logOf(func() { err = m.DeployContext(t.Context(), Config{}) }); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			wantTree(t, tree, dest, "builtin")
		}
	}
}

// Timeout limits all downloads of a deployment together. There is a second one if dest
// has changed meanwhile.
func TestTimeoutOfAllDownloads(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o644))
	archive, m := packed(t, tree, pack.Options{})
	must(t, os.WriteFile(tree+".tar.zst", archive, 0o644))
	m.Src, m.Dest = "file://"+tree+".tar.zst", filepath.Join(dir, "dest")
	d := newDeployment(&m, &event{}, newOutcome(Config{Timeout: time.Hour}))
	s := &builtinStrategy{&m}
	logOf(func() {
		src, err := d.getSrc(t.Context(), s)
		must(t, err)
		must(t, src.Close())
		if d.downloading <= 0 {
			t.Error("the first download took no time")
		}
		d.downloading = time.Hour
		if _, err := d.getSrc(t.Context(), s); err == nil || !strings.Contains(err.Error(), "Get src failed: ") || !strings.Contains(err.Error(), "timeout: the download took longer than 1h0m0s") {
			t.Errorf("got error %v", err)
		}
	})
}
