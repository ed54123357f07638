package e2e

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
