package stretcher

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// rounds runs a test with random trees for each strategy. STRETCHER_TEST_ROUNDS is how
// many trees are tried, STRETCHER_TEST_SEED the number of the first one: a failed subtest
// has it in its name.
func rounds(t *testing.T, limit time.Duration, test func(*trip)) {
	rounds, seed := 1000, rand.Uint64N(1<<40)
	for _, v := range []struct {
		name string
		set  func(n uint64)
	}{
		{"STRETCHER_TEST_ROUNDS", func(n uint64) { rounds, limit = int(n), 24*time.Hour }},
		{"STRETCHER_TEST_SEED", func(n uint64) { seed = n }},
	} {
		if s := os.Getenv(v.name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			v.set(n)
		}
	}
	start, n := time.Now(), 0
	for ; n < rounds && !t.Failed() && (n == 0 || time.Since(start) < limit); n++ {
		for _, strategy := range []string{"builtin", "rsync", "symlink"} {
			if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
				continue
			}
			t.Run(fmt.Sprintf("%s/seed=%d", strategy, seed+uint64(n)), func(t *testing.T) { test(newTrip(t, strategy, seed+uint64(n))) })
		}
	}
	t.Logf("%d rounds from the seed %d", n, seed)
}

// trip is one round: the way from an older tree to a newer one.
type trip struct {
	*forest
	dir, strategy string
	older, newer  string // trees
	before        string // a host before the deployment
	deployed      bool   // its dest has the older tree
	disturbed     bool   // its dest has something else
}

func newTrip(t *testing.T, strategy string, seed uint64) *trip {
	dir := t.TempDir()
	r := &trip{forest: newForest(t, seed), dir: dir, strategy: strategy,
		older: filepath.Join(dir, "older"), newer: filepath.Join(dir, "newer"), before: filepath.Join(dir, "before")}
	must(t, os.Mkdir(r.older, 0o755))
	r.grow(r.older, 4+r.rng.IntN(25))
	r.settle(r.older)
	r.copy(r.older, r.newer)
	r.change(r.newer, 1+r.rng.IntN(8))
	if r.rng.IntN(20) == 0 { // all is new
		must(t, os.RemoveAll(r.newer))
		must(t, os.Mkdir(r.newer, 0o755))
	}
	r.grow(r.newer, 1+r.rng.IntN(5))
	r.settle(r.newer)
	must(t, os.MkdirAll(filepath.Join(r.before, "outside", "dir0"), 0o755))
	r.prepare(r.before)
	return r
}

// From any older tree, every strategy makes the same of an incremental deployment as
// of a whole one.
func TestIncrementalRoundTrip(t *testing.T) {
	rounds(t, 5*time.Second, func(r *trip) {
		archive, m := r.packNewer()
		if r.rng.IntN(3) == 0 {
			m.Excludes = one(r.rng, []string{"*0*"}, []string{"/dir1/*", "file2"}, []string{"*/"}, []string{"+ */", "- *1*"})
		}
		if r.rng.IntN(4) == 0 {
			m.Commands.Pre = r.preCommands()
		}
		r.compare(archive, m)
		if r.t.Failed() || len(m.Excludes) > 0 || len(m.Commands.Pre) > 0 || r.disturbed && r.strategy == "rsync" {
			return
		}
		wantTree(r.t, r.newer, current(r.t, filepath.Join(r.dir, "incremental", "dest")), r.strategy)
	})
}

// wantTree fails the test unless dest is what pack promises of a tree: all of it, with
// times in seconds, the root aside.
func wantTree(t *testing.T, tree, dest, strategy string) {
	t.Helper()
	want, got := tartest.Snapshot(t, tree), tartest.Snapshot(t, dest)
	for _, s := range []map[string]string{want, got} {
		delete(s, ".")
		for name, line := range s {
			if strategy != "symlink" { // only there do hard links remain links
				line, _, _ = strings.Cut(line, " links ")
			}
			if strategy == "rsync" { // which keeps contents of the same size and time
				line, _, _ = strings.Cut(line, " sum ")
			}
			s[name] = line
		}
	}
	tartest.CompareSnapshots(t, want, got)
}

// prepare makes what is in dest of a host before the deployment.
func (r *trip) prepare(host string) {
	dest := filepath.Join(host, "dest")
	state := r.rng.IntN(10)
	switch {
	case state == 0:
		return // nothing at all
	case state == 1 && r.strategy != "symlink":
		must(r.t, os.Mkdir(dest, 0o755))
		r.grow(dest, r.rng.IntN(5))
		r.disturbed = true
		return
	}
	archive, m := r.pack(r.older, pack.Options{})
	if _, err := r.deploy(host, archive, m, Config{Whole: true}); err != nil {
		r.t.Fatal(err)
	}
	r.deployed = true
	if r.rng.IntN(2) == 0 {
		r.disturb(current(r.t, dest))
		r.disturbed = true
	}
	if r.strategy != "symlink" && r.rng.IntN(8) == 0 {
		must(r.t, os.Rename(dest, filepath.Join(host, "outside", "real")))
		must(r.t, os.Symlink("outside/real", dest))
	}
}

// disturb changes a tree as people on a host do.
func (r *trip) disturb(dest string) {
	r.change(dest, r.rng.IntN(6))
	outside := filepath.Join(r.before, "outside")
	all := paths(r.t, dest)
	for i := range r.rng.IntN(3) { // moved elsewhere, with a link from where it was
		if len(all) == 0 {
			break
		}
		path, to := filepath.Join(dest, one(r.rng, all...)), filepath.Join(outside, fmt.Sprint("moved", i))
		if os.Rename(path, to) != nil {
			continue // it has been moved already
		}
		target, err := filepath.Rel(filepath.Dir(path), to)
		must(r.t, err)
		must(r.t, os.Symlink(target, path))
	}
}

// packNewer packs the new tree, at random with patches against several versions, of
// which dest has another one perhaps.
func (r *trip) packNewer() ([]byte, Manifest) {
	var o pack.Options
	for range r.rng.IntN(3) {
		from := r.older
		switch r.rng.IntN(6) {
		case 0:
			from = filepath.Join(r.t.TempDir(), "between")
			r.copy(r.older, from)
			r.change(from, 1+r.rng.IntN(5))
		case 1:
			from = r.t.TempDir()
			r.grow(from, 5)
		case 2:
			from = r.newer
		}
		if format := one(r.rng, "", "zst", "gz", "tar"); format != "" { // an archive instead of a directory
			var file bytes.Buffer
			_, err := pack.Dir(r.t.Context(), from, &file, pack.Options{Format: format})
			must(r.t, err)
			from = filepath.Join(r.t.TempDir(), "base")
			must(r.t, os.WriteFile(from, file.Bytes(), 0o644))
		}
		base, err := pack.OpenBase(r.t.Context(), from, fetch.Options{})
		must(r.t, err)
		defer base.Close()
		o.Bases = append(o.Bases, base)
	}
	return r.pack(r.newer, o)
}

// pack packs a directory, and compares the archive with the tar.
func (r *trip) pack(dir string, o pack.Options) ([]byte, Manifest) {
	archive, m := packed(r.t, dir, o)
	m.SyncStrategy = r.strategy
	var plain bytes.Buffer
	_, err := pack.Dir(r.t.Context(), dir, &plain, pack.Options{Format: "tar"})
	must(r.t, err)
	z, err := zstd.NewReader(bytes.NewReader(archive), zstd.WithDecoderConcurrency(1))
	must(r.t, err)
	defer z.Close()
	got, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(got, plain.Bytes()) {
		r.t.Fatalf("the archive decompresses to another tar: %v", err)
	}
	return archive, m
}

// packed packs a directory, and returns the archive with a manifest for it.
func packed(t *testing.T, dir string, o pack.Options) ([]byte, Manifest) {
	t.Helper()
	var file bytes.Buffer
	p, err := pack.Dir(t.Context(), dir, &file, o)
	must(t, err)
	return file.Bytes(), Manifest{CheckSum: hex.EncodeToString(p.Sum[:]),
		Index: Index{Offset: p.Index.Offset, Size: p.Index.Size, SHA256: hex.EncodeToString(p.Index.Sum[:])}}
}

// preCommands returns commands that change dest after it has been read.
func (r *trip) preCommands() (commands CommandLines) {
	paths := paths(r.t, current(r.t, filepath.Join(r.before, "dest")))
	for range r.rng.IntN(4) {
		if len(paths) == 0 {
			break
		}
		name := "'" + strings.ReplaceAll(one(r.rng, paths...), "'", `'\''`) + "'"
		command := one(r.rng,
			"rm -rf NAME",
			"test ! -f NAME || echo changed >> NAME",
			"test ! -f NAME || printf X | dd of=NAME conv=notrunc 2>/dev/null",
			"rm -rf NAME; ln -s ../outside/dir0 NAME",
			"rm -rf NAME; mkdir NAME; echo new > NAME/file",
			"test ! -f NAME || chmod 600 NAME",
			"test ! -f NAME || : > NAME")
		commands = append(commands, CommandLine(`cd "$HOST/dest/" && `+strings.ReplaceAll(command, "NAME", "./"+name)+" || :"))
	}
	return commands
}

// compare deploys an archive to two copies of a host, whole and incrementally.
func (r *trip) compare(archive []byte, m Manifest) {
	t := r.t
	snapshots, lists, errs := map[string]map[string]string{}, map[string]string{}, map[string]error{}
	dry := r.rng.IntN(4) == 0
	for _, how := range []string{"whole", "incremental"} {
		host := filepath.Join(r.dir, how)
		r.copy(r.before, host)
		conf := Config{Whole: how == "whole"}
		if dry {
			lists[how] = r.dryRun(host, archive, m, conf)
		}
		said, err := r.deploy(host, archive, m, conf)
		errs[how] = err
		if err != nil && len(m.Excludes) == 0 { // or else they may protect what is in the way
			t.Errorf("%s: %v: %s", how, err, said)
		}
		if by := strings.Contains(said, "Fetched "); strings.Contains(said, "[WARN] Incremental") || conf.Whole && by || !conf.Whole && r.deployed && !by && !strings.Contains(said, "Not incrementally") {
			t.Errorf("log: %s", said)
		}
		if err == nil {
			snapshots[how] = r.snapshot(host)
			before := withoutManifests(tartest.Snapshot(t, host))
			if said, err := r.deploy(host, archive, withoutPre(m), conf); err != nil || strings.Contains(said, "[WARN] Incremental") {
				t.Errorf("again: %v: %s", err, said)
			}
			tartest.CompareSnapshots(t, before, withoutManifests(tartest.Snapshot(t, host)))
		}
	}
	if (errs["whole"] == nil) != (errs["incremental"] == nil) {
		t.Errorf("errors: %v", errs)
	}
	if lists["whole"] != lists["incremental"] {
		t.Errorf("a dry run listed\n%s\nand one of the whole archive\n%s", lists["incremental"], lists["whole"])
	}
	tartest.CompareSnapshots(t, snapshots["whole"], snapshots["incremental"])
}

// withoutManifests removes those of releases from a snapshot, which are the last with
// which the releases were deployed.
func withoutManifests(snapshot map[string]string) map[string]string {
	maps.DeleteFunc(snapshot, func(path, _ string) bool {
		ok, err := filepath.Match("dest.releases/*.yml", path)
		return ok && err == nil
	})
	return snapshot
}

// dryRun returns what a dry run lists, which must not change anything.
func (r *trip) dryRun(host string, archive []byte, m Manifest, conf Config) string {
	before := tartest.Snapshot(r.t, host)
	conf.DryRun = true
	said, err := r.deploy(host, archive, m, conf)
	if strings.Contains(said, "[WARN] Incremental") {
		r.t.Errorf("log: %s", said)
	}
	tartest.CompareSnapshots(r.t, before, tartest.Snapshot(r.t, host))
	list := fmt.Sprintln(err)
	for line := range strings.Lines(said) {
		// With rsync, the time of dest itself becomes that of the extraction.
		if strings.HasPrefix(line, "would ") && line != "would change ./: time\n" && !strings.Contains(line, "release 20") {
			list += line
		}
	}
	list = regexp.MustCompile(`/\.stretcher-\d+/`).ReplaceAllString(list, "/STAGING/")
	return strings.ReplaceAll(list, host, "HOST")
}

func withoutPre(m Manifest) Manifest {
	m.Commands.Pre = nil
	return m
}

// snapshot describes the files of a host. Of a new release, the name is left out.
func (r *trip) snapshot(host string) map[string]string {
	if r.strategy != "symlink" {
		return tartest.Snapshot(r.t, host)
	}
	s := tartest.Snapshot(r.t, current(r.t, filepath.Join(host, "dest")))
	for name, line := range tartest.Snapshot(r.t, filepath.Join(host, "outside")) {
		s["outside/"+name] = line
	}
	return s
}

// deploy deploys an archive to dest of a host, from a file unless it is in a store.
func (r *trip) deploy(host string, archive []byte, m Manifest, conf Config) (said string, err error) {
	if m.Src == "" {
		src := filepath.Join(r.t.TempDir(), "archive")
		must(r.t, os.WriteFile(src, archive, 0o644))
		m.Src = "file://" + src
	}
	m.Dest = filepath.Join(host, "dest")
	m.Commands.Env = map[string]string{"HOST": host}
	said = logOf(func() { err = m.DeployContext(r.t.Context(), conf) })
	return said, err
}

// current returns the directory that dest is or leads to; it may be missing.
func current(t *testing.T, dest string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dest)
	if errors.Is(err, fs.ErrNotExist) {
		return dest
	}
	must(t, err)
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
