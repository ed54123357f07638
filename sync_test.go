package stretcher

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestSetRsyncVerboseOpt(t *testing.T) {
	defer SetRsyncVerboseOpt(RsyncVerboseOpt)
	for _, opt := range []string{"", "-v", "-vv", "-vvv"} {
		if err := SetRsyncVerboseOpt(opt); err != nil || RsyncVerboseOpt != opt {
			t.Errorf("%q: got %v, the option is %q", opt, err, RsyncVerboseOpt)
		}
	}
	for _, opt := range []string{"v", "-vvvv", "-V", "-a", " -v", "-v ", "--verbose", "--rsh=sh"} {
		if err := SetRsyncVerboseOpt(opt); err == nil || RsyncVerboseOpt != "-vvv" {
			t.Errorf("%q: got %v, the option is %q", opt, err, RsyncVerboseOpt)
		}
	}
}

func TestNewSyncStrategy(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "rsync"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		want       string
		logged     bool
	}{
		{"", bin, "*stretcher.RsyncStrategy", false},
		{"rsync", bin, "*stretcher.RsyncStrategy", false},
		{"mv", bin, "*stretcher.MvSyncStrategy", false},
		{"builtin", bin, "*stretcher.builtinStrategy", false},
		{"symlink", "", "*stretcher.symlinkStrategy", false},
		{"", "", "*stretcher.builtinStrategy", true},
		{"mv", "", "*stretcher.MvSyncStrategy", false},
	} {
		t.Setenv("PATH", test.path)
		m := &Manifest{SyncStrategy: test.name}
		var s SyncStrategy
		var err error
		logged := logOf(func() { s, err = NewSyncStrategy(m) })
		if err != nil || reflect.TypeOf(s).String() != test.want || (logged != "") != test.logged {
			t.Errorf("%q with PATH=%s: got %T, %v, logged %q, expected %s", test.name, test.path, s, err, logged, test.want)
		}
		if s, ok := s.(*RsyncStrategy); ok && s.Manifest != m {
			t.Error("it is not of this manifest")
		}
	}
	if _, err := NewSyncStrategy(&Manifest{SyncStrategy: "rsync"}); err == nil || !strings.Contains(err.Error(), "no rsync is in PATH") {
		t.Errorf("rsync without rsync: got error %v", err)
	}
	for _, name := range []string{"RSYNC", "rsync ", "cp", "-"} {
		if _, err := NewSyncStrategy(&Manifest{SyncStrategy: name}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("invalid strategy %q", name)) {
			t.Errorf("%q: got error %v", name, err)
		}
	}
}

// An importer calls Sync on the exported strategies directly.
func TestStrategiesAlone(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Fatal("these tests need rsync: ", err)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("from/file", "content")
	write("from/list", "*.tmp\n")
	write("from/drop.tmp", "")
	write("from/agent.pid", "")
	write("to/stale", "")
	s := &RsyncStrategy{&Manifest{Excludes: []string{"*.pid"}, ExcludeFrom: "list"}}
	logged := logOf(func() {
		if err := s.Sync(from, to); err != nil {
			t.Error(err)
		}
	})
	if got := tartest.NamesIn(t, to); !slices.Equal(got, []string{"file", "list"}) {
		t.Errorf("dest has %q", got)
	}
	want := fmt.Sprintf("invoking command: rsync -a --delete -v --exclude-from=%s/list --exclude=*.pid --stats %s/ %s/\n", from, from, to)
	if !strings.HasPrefix(logged, want) {
		t.Errorf("logged %s\nexpected %s", logged, want)
	}
	if want := fmt.Sprintf("\nSynced to %s: 2 created, 0 changed, 1 deleted, within ", to); !strings.Contains(logged, want) || strings.Contains(logged, "Number of") {
		t.Errorf("logged %s\nexpected %s", logged, want)
	}
	logOf(func() {
		err := s.Sync(from, filepath.Join(dir, "missing/parent"))
		if err == nil || !strings.Contains(err.Error(), "/missing/parent/ exit status ") || !strings.HasSuffix(err.Error(), "the parent of dest is missing, make it first") {
			t.Errorf("the parent of dest is missing: got error %v", err)
		}
	})
	s.ExcludeFrom = "missing"
	logOf(func() {
		if err := s.Sync(from, to); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("exclude_from that is missing: got error %v", err)
		}
	})

	mv := &MvSyncStrategy{}
	if err := mv.Sync(from, to); !errors.Is(err, os.ErrExist) && (err == nil || !strings.Contains(err.Error(), "exists already")) {
		t.Errorf("mv to what exists: got error %v", err)
	}
	if err := mv.Sync(from, filepath.Join(dir, "moved")+"/"); err != nil {
		t.Error(err)
	}
	if got := tartest.NamesIn(t, filepath.Join(dir, "moved")); !slices.Equal(got, []string{"agent.pid", "drop.tmp", "file", "list"}) {
		t.Errorf("mv made %q", got)
	}
	if err := mv.Sync(from, filepath.Join(dir, "again")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mv of what is gone: got error %v", err)
	}
}

// A manifest that was not parsed is kept with its release, too, so that Rollback can
// run its commands.
func TestReleasesOfManifests(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "dest")
	deploy := func(version string) {
		t.Helper()
		src := filepath.Join(dir, version+".tar")
		data := tartest.Make(t, tartest.Member{Name: "version", Body: version})
		if err := os.WriteFile(src, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m := &Manifest{Src: "file://" + src, CheckSum: fmt.Sprintf("%x", sha256.Sum256(data)), Dest: dest + "/.", SyncStrategy: "symlink", KeepReleases: 3, Excludes: []string{"x: y", "\xff"},
			Commands: Commands{Post: CommandLines{CommandLine("cp dest/version " + dir + "/post # a: 'b'")}, Env: map[string]string{"A": "b: c"}}}
		m.Commands.Post[0] = CommandLine(strings.Replace(string(m.Commands.Post[0]), "dest", dest, 1))
		if err := m.Deploy(Config{}); err != nil {
			t.Fatal(err)
		}
	}
	logOf(func() {
		deploy("1")
		deploy("2")
		if err := Rollback(t.Context(), dest, Config{}); err != nil {
			t.Fatal(err)
		}
	})
	for _, name := range []string{"dest/version", "post"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != "1" || err != nil {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
	logOf(func() {
		if err := Rollback(t.Context(), dest, Config{}); err == nil {
			t.Error("it was rolled back to nothing")
		}
		if err := Rollback(t.Context(), dest, Config{Retry: -1}); err == nil || !strings.Contains(err.Error(), "negative") {
			t.Errorf("got error %v", err)
		}
	})

	// A directory becomes a release as well.
	s, err := NewSyncStrategy(&Manifest{SyncStrategy: "symlink", Excludes: []string{"*.tar"}, Shared: []string{"log"}})
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "alone")
	logOf(func() {
		for range 2 {
			if err := s.Sync(dir, alone+"/"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Sync(dir+"/missing", alone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got error %v", err)
		}
	})
	if got := tartest.NamesIn(t, alone); !slices.Equal(got, []string{"dest", "dest.releases", "log", "post"}) {
		t.Errorf("the release has %q", got)
	}
	if got := tartest.NamesIn(t, alone+".releases"); len(got) != 4 {
		t.Errorf("the releases are %q", got)
	}
}

// A release in which something is mounted cannot be removed. Each later deployment says
// so once.
func TestReleaseWithMount(t *testing.T) {
	tree, dest := t.TempDir(), filepath.Join(t.TempDir(), "dest")
	var said string
	for i := range 3 {
		must(t, os.WriteFile(filepath.Join(tree, "version"), fmt.Append(nil, i), 0o644))
		archive, m := packed(t, tree, pack.Options{})
		src := filepath.Join(t.TempDir(), "archive")
		must(t, os.WriteFile(src, archive, 0o644))
		m.Src, m.Dest, m.SyncStrategy, m.KeepReleases = "file://"+src, dest, "symlink", 1
		said = logOf(func() { must(t, m.DeployContext(t.Context(), Config{})) })
		if i > 0 {
			continue
		}
		mounted, err := filepath.EvalSymlinks(dest)
		must(t, errors.Join(err, os.Mkdir(filepath.Join(mounted, "data"), 0o755)))
		tartest.BindMount(t, t.TempDir(), filepath.Join(mounted, "data"))
	}
	if n := strings.Count(said, "/data: is a mount point: "); n != 1 {
		t.Errorf("it is said %d times: %s", n, said)
	}
}

// A dry run that takes dest for missing, because a pre command has to change it, may
// find the release nevertheless.
func TestPreviewOfReleaseWithoutDest(t *testing.T) {
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "file"), nil, 0o644))
	archive, m := packed(t, tree, pack.Options{})
	must(t, os.WriteFile(tree+".tar.zst", archive, 0o644))
	m.Src, m.Dest, m.SyncStrategy = "file://"+tree+".tar.zst", filepath.Join(t.TempDir(), "dest"), "symlink"
	d, s := newDeployment(&m, &event{}, newOutcome(Config{DryRun: true})), &symlinkStrategy{Manifest: &m}
	var paths []string
	logOf(func() {
		must(t, m.DeployContext(t.Context(), Config{}))
		_, err := s.has(d)
		must(t, err)
		d.absent = true
		items, err := s.preview(t.Context(), d, nil)
		must(t, err)
		for item := range items {
			paths = append(paths, item.Path)
		}
	})
	if !slices.Equal(paths, []string{".", "file"}) {
		t.Errorf("it would make %q", paths)
	}
}
