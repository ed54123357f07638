package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// packed makes two versions of a tree, which it packs, and a server of the archives. The
// server sends what is asked for at a few megabytes a second, so that there is time to
// disturb an agent.
func packed(t *testing.T, strategy string) *world {
	t.Helper()
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(1, 0))
	text := func(size int) string {
		var b strings.Builder
		for b.Len() < size {
			fmt.Fprintf(&b, "%x\n", rng.Uint64())
		}
		return b.String()
	}
	for i := range 120 {
		contents := text(rng.IntN(6000))
		w.write(fmt.Sprintf("v1/dir%d/file%d", i%5, i), contents)
		if i%10 == 0 {
			contents += text(100)
		}
		w.write(fmt.Sprintf("v2/dir%d/file%d", (i+i/100)%5, i), contents)
	}
	large := text(2 << 20)
	w.write("v1/large", large)
	w.write("v2/large", large[:1<<20]+text(300_000)+large[1<<20:])
	w.write("v2/new", text(200_000))
	w.write("template.yml", "dest: %s/dest\nsync_strategy: "+strategy+"\n")
	for _, version := range []string{"v1", "v2"} {
		cmd := exec.Command("stretcher", "pack", "-base", w.path("v1"), "-o", w.path(version+".zst"), "-manifest", w.path(version+".yml"), "-manifest-from", w.path("template.yml"), w.path(version))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(w.path(r.URL.Path))
		if err != nil {
			http.NotFound(rw, r)
			return
		}
		http.ServeContent(slowly{rw}, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(server.Close)
	for _, version := range []string{"v1", "v2"} {
		w.write(version+".yml", strings.Replace(w.read(version+".yml"), "file://"+w.dir, server.URL, 1))
	}
	return w
}

// slowly sends 8 KiB in a few milliseconds.
type slowly struct{ http.ResponseWriter }

func (w slowly) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = w.ResponseWriter.Write(p[n:min(n+8<<10, len(p))])
		n += m
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(2 * time.Millisecond)
	}
	return n, err
}

// deploys deploys a version, and compares dest.
func (w *world) deploys(version string, flags ...string) *agent {
	w.t.Helper()
	a := w.start(version+".yml", nil, flags...)
	a.exits(0)
	if strings.Contains(a.log.String(), "WARN") {
		w.t.Errorf("there is a warning in the log:\n%s", a.log)
	}
	w.run("diff", "-r", w.path(version), w.path("dest")+"/")
	return a
}

// An agent that is ended at any moment leaves one version or the other, or with rsync
// what the next run repairs, and nothing else. STRETCHER_TEST_ROUNDS is how often each
// strategy is tried.
func TestIncrementalEnded(t *testing.T) {
	t.Parallel()
	rounds := 3
	if s := os.Getenv("STRETCHER_TEST_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, strategy := range []string{"builtin", "symlink", "rsync"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
				t.Skip("there is no rsync(1)")
			}
			w := packed(t, strategy)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			for range rounds {
				w.run("rm", "-rf", "dest", "dest.releases") // or else symlink has both versions
				w.deploys("v1")
				a := w.start("v2.yml", nil)
				a.logged("Fetching what has changed")
				a.endsWithin(time.Duration(rng.IntN(200)) * time.Millisecond)
				kill := rng.IntN(2) == 0
				if signal := map[bool]syscall.Signal{true: syscall.SIGKILL, false: syscall.SIGTERM}[kill]; a.cmd.Process.Signal(signal) != nil && !a.endsWithin(0) {
					t.Fatal("the agent cannot be ended")
				}
				a.endsWithin(patience)
				if !kill {
					w.clean()
				}
				if strategy != "rsync" {
					w.wantVersion(kill)
				}
				a = w.deploys("v2")
				a.logged(`Fetched .* of |is there already`)
				w.clean()
			}
		})
	}
}

// wantVersion fails the test unless dest is one of both versions. After a kill,
// files of both may be in place.
func (w *world) wantVersion(killed bool) {
	w.t.Helper()
	count := map[string]int{}
	err := filepath.WalkDir(w.path("dest")+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.Contains(path, "/.stretcher") {
			return nil // staged, and removed by the next run
		}
		name, err := filepath.Rel(w.path("dest"), path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		old, _ := os.ReadFile(w.path("v1/" + name))
		next, _ := os.ReadFile(w.path("v2/" + name))
		switch {
		case bytes.Equal(old, next):
		case bytes.Equal(got, old):
			count["v1"]++
		case bytes.Equal(got, next):
			count["v2"]++
		default:
			w.t.Errorf("%s is of neither version", name)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	if !killed && count["v1"] > 0 && count["v2"] > 0 {
		w.t.Errorf("dest has files of both versions: %v", count)
	}
}

// On a full disk, the deployment fails, dest stays as it was, and nothing is left.
// With space, the next run succeeds.
func TestIncrementalFullDisk(t *testing.T) {
	t.Parallel()
	for _, strategy := range []string{"builtin", "symlink", "rsync"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("rsync"); strategy == "rsync" && err != nil {
				t.Skip("there is no rsync(1)")
			}
			w := packed(t, strategy)
			w.deploys("v1")
			before := tartest.Snapshot(t, w.path("dest")+"/")
			full := tartest.MountTmpfs(t, "size=256k")
			a := w.start("v2.yml", []string{"TMPDIR=" + full})
			a.exits(1)
			a.logged(`Deploy manifest failed: .*no space left on device`)
			tartest.CompareSnapshots(t, before, tartest.Snapshot(t, w.path("dest")+"/"))
			if names, err := os.ReadDir(full); err != nil || len(names) > 0 {
				t.Errorf("in TMPDIR: %v, %v", names, err)
			}
			w.clean()
			w.deploys("v2")
		})
	}
}

// -max-bandwidth holds for ranges, over all connections together.
func TestIncrementalBandwidth(t *testing.T) {
	t.Parallel()
	w := packed(t, "builtin")
	w.deploys("v1")
	start := time.Now()
	a := w.deploys("v2", "-max-bandwidth", "150KB", "-connections", "4")
	took := time.Since(start)
	a.logged(`Fetched .* of `)
	if took < time.Second {
		t.Errorf("it took %s", took)
	}
}
