package e2e

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// versionOf returns a tree in which every file has the name of the version in it.
func versionOf(name string) tree {
	tr := tree{".": {kind: tar.TypeDir, mode: 0o755, mtime: 1_000_000_000}}
	for i := range 20 {
		tr[fmt.Sprintf("file-%d", i)] = node{kind: tar.TypeReg, mode: 0o644, mtime: 1_000_000_000, content: name}
	}
	return tr
}

// readOnce opens dest once, and returns the version that all of its files have.
func readOnce(dest string) (string, error) {
	root, err := os.OpenRoot(dest)
	if err != nil {
		return "", err
	}
	defer root.Close()
	version := ""
	for i := range 20 {
		f, err := root.Open(fmt.Sprintf("file-%d", i))
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return "", err
		}
		if i > 0 && string(data) != version {
			return "", fmt.Errorf("file-%d is of version %q, those before it of %q", i, data, version)
		}
		version = string(data)
	}
	return version, nil
}

// During dozens of switches, to new releases and back to old ones, whoever opens
// dest finds one version, whole.
func TestReleasesReader(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const switches = 40
	var urls []string
	for i := range switches {
		urls = append(urls, s.publish(fmt.Sprint(i), versionOf(fmt.Sprint(i)).pack(t), "sync_strategy: symlink"))
	}
	run := func(url string) {
		t.Helper()
		s.startCommand(s.command(plainPath(t)), url).wait().wantSuccess()
	}
	run(urls[0])
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	reads, seen := 0, map[string]bool{}
	go func() {
		for ctx.Err() == nil {
			version, err := readOnce(s.dest)
			if err != nil {
				ended <- err
				return
			}
			reads++
			seen[version] = true
		}
		ended <- nil
	}()
	for i := 1; i < switches && !t.Failed(); i++ {
		run(urls[i])
		if i%2 == 0 {
			run(urls[i-1]) // without unpacking
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("after %d reads: %v", reads, err)
	}
	if len(seen) < switches/2 {
		t.Errorf("the reader has seen %d versions only", len(seen))
	}
	if kept := s.releases(); len(kept) != 5 {
		t.Errorf("kept %d releases, want 5: %v", len(kept), kept)
	}
	t.Logf("%d reads of %d versions", reads, len(seen))
}

// Hundreds of releases that fail do not evict the good one.
func TestReleasesFailing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const failures = 200
	before, good := versionOf("before"), versionOf("good")
	s.deploy(s.publish("before", before.pack(t), "sync_strategy: symlink"))
	s.deploy(s.publish("good", good.pack(t), "sync_strategy: symlink"))
	kept := strings.Join(s.releases(), " ")
	link, err := os.Readlink(s.dest)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := range failures {
		url := s.publish("bad", versionOf(fmt.Sprint("bad ", i)).pack(t), "sync_strategy: symlink", "commands: {post: ['grep -q bad "+s.dest+"/file-7 && exit 9']}")
		o := s.startCommand(s.command(plainPath(t)), url).wait().wantFailure("exit status 9")
		o.wantLog("The release " + filepath.Base(link) + " is live")
		if t.Failed() {
			return
		}
	}
	t.Logf("%d failures in %s", failures, time.Since(start).Round(time.Second))
	if now, err := os.Readlink(s.dest); err != nil || now != link {
		t.Errorf("dest is a link to %q, was one to %q: %v", now, link, err)
	}
	if now := strings.Join(s.releases(), " "); now != kept {
		t.Errorf("the releases are %s, were %s", now, kept)
	}
	s.wantDeployed(good)
	if err := os.RemoveAll(s.path("files")); err != nil { // rolling back needs none of them
		t.Fatal(err)
	}
	s.startCommand(s.command(stretcherPath, "-rollback", s.dest), "").wait().wantSuccess()
	s.wantDeployed(before)
}

// service is a program that runs from the release which was current when it was
// started.
type service struct {
	dest string
	mu   sync.Mutex
	root *os.Root
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/restart" {
		root, err := os.OpenRoot(s.dest)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.root = root
		return
	}
	f, err := s.root.Open("public/greeting.txt")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	io.Copy(w, f)
}

// The application of the examples is deployed, broken, and rolled back: at once by
// its own check after the deployment, and by hand. Programs that run it always have
// a whole release.
func TestReleasesService(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	curl := program(t, "curl")
	server := httptest.NewServer(&service{dest: s.dest})
	defer server.Close()
	commands := fmt.Sprintf("commands:\n  post: ['%[1]s -fsS %[2]s/restart', '%[1]s -fsS %[2]s/ | grep Hello']\n  failure: ['%[1]s -fsS %[2]s/restart']", curl, server.URL)
	app := s.path("app")
	publish := func(name, greeting string) string {
		t.Helper()
		if err := os.RemoveAll(app); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(app, os.DirFS(filepath.Join("..", "examples", "app"))); err != nil {
			t.Fatal(err)
		}
		if greeting == "" {
			if err := os.Remove(filepath.Join(app, "public", "greeting.txt")); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, filepath.Join(app, "public", "greeting.txt"), []byte(greeting))
		}
		return s.publish(name, readTree(t, app).pack(t), "sync_strategy: symlink", commands)
	}
	want := func(greeting string) {
		t.Helper()
		if got, err := get(server.URL); err != nil || got != greeting {
			t.Errorf("the service says %q, want %q: %v", got, greeting, err)
		}
	}
	run := func(url string, args ...string) *outcome {
		t.Helper()
		return s.startCommand(s.command(plainPath(t), args...), url).wait()
	}
	first := publish("first", "Hello 1\n")
	fresh := run(first).wantSuccess()
	want("Hello 1\n")
	broken := run(publish("broken", "")).wantFailure("post command")
	want("Hello 1\n")
	run(publish("second", "Hello 2\n")).wantSuccess()
	want("Hello 2\n")
	byHand := run("", "-rollback", s.dest).wantSuccess()
	want("Hello 1\n")
	t.Logf("a fresh release took %s, a broken one until it was rolled back %s, a rollback by hand %s",
		fresh.took.Round(time.Millisecond), broken.took.Round(time.Millisecond), byHand.took.Round(time.Millisecond))
}

// Deployments and rollbacks of one dest that are started at the same time run one
// after another, and dest is whole.
func TestReleasesConcurrent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alias := *s
	alias.dest = s.path("alias", "dest")
	if err := os.Symlink(filepath.Dir(s.dest), filepath.Dir(alias.dest)); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		s.deploy(s.publish("first", versionOf(fmt.Sprint(i)).pack(t), "sync_strategy: symlink"))
	}
	for round := range 10 {
		a := s.publish("a", versionOf(fmt.Sprintf("a%d", round)).pack(t), "sync_strategy: symlink\nkeep_releases: 2")
		b := alias.publish("b", versionOf(fmt.Sprintf("b%d", round)).pack(t), "sync_strategy: symlink\nkeep_releases: 2")
		for _, r := range []*running{s.start(a), s.start(b), s.start(a), s.start(b)} {
			r.wait().wantSuccess()
		}
		version, err := readOnce(s.dest)
		if err != nil || version != fmt.Sprintf("a%d", round) && version != fmt.Sprintf("b%d", round) {
			t.Errorf("round %d: dest is of version %q: %v", round, version, err)
		}
		s.wantClean()
		if kept := s.releases(); len(kept) != 2 || t.Failed() {
			t.Fatalf("round %d: kept the releases %v, want 2", round, kept)
		}
		// A rollback either comes before the other one, or finds that it came too late.
		rollback, other := s.start("", "-rollback", s.dest), s.start(a)
		other.wait().wantSuccess()
		if o := rollback.wait(); o.code != 0 && !strings.Contains(o.log, "another deployment has changed it meanwhile") && !strings.Contains(o.log, "no finished release that is older") {
			t.Errorf("round %d: the rollback failed:\n%s", round, o.log)
		}
	}
}
