package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

// mountSmall mounts a tmpfs with the given size and number of inodes at dir.
func mountSmall(t *testing.T, dir string, mebibytes, inodes int) {
	t.Helper()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,nr_inodes=%d,mode=755", mebibytes, inodes))
	if errors.Is(err, syscall.EPERM) {
		t.Skipf("this user may not mount a small file system: %v", err)
	}
	if err != nil {
		t.Fatalf("mount a tmpfs at %s: %v", dir, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
}

// unmount unmounts dir. It waits, since another process may have its own copies of
// all mounts for a moment, and the kernel frees a loop device some time after the
// file system on it.
func unmount(t *testing.T, dir string) {
	t.Helper()
	waitFor(t, "the end of the mount at "+dir, func() error { return syscall.Unmount(dir, 0) })
}

// random returns incompressible content of the given size.
func random(size int) string {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{})
	source.Read(b) // never fails
	return string(b)
}

// If the disk is full, the deployment fails with an error that names the directory
// and the reason. No temporary files are left, dest is unchanged, and the next run
// succeeds once there is enough space.
func TestTortureFullDisk(t *testing.T) {
	t.Parallel()
	old := tree{
		".":       {kind: tar.TypeDir, mode: 0o755, mtime: 1_700_000_000},
		"version": {kind: tar.TypeReg, mode: 0o644, mtime: 1_700_000_000, content: "old\n"},
		"gone":    {kind: tar.TypeReg, mode: 0o644, mtime: 1_700_000_000, content: strings.Repeat("old", 100_000)},
	}
	// grown returns the next version, with the given number of files, each with
	// the given content.
	grown := func(content string, number int) tree {
		tr := tree{
			".":       {kind: tar.TypeDir, mode: 0o755, mtime: 1_700_000_001},
			"version": {kind: tar.TypeReg, mode: 0o644, mtime: 1_700_000_001, content: "new\n"},
			"files":   {kind: tar.TypeDir, mode: 0o755, mtime: 1_700_000_001},
		}
		for i := range number {
			tr[fmt.Sprintf("files/%d", i)] = node{kind: tar.TypeReg, mode: 0o644, mtime: 1_700_000_001, content: content}
		}
		return tr
	}
	const mebi = 1 << 20
	incompressible := random(mebi)
	for _, full := range []struct {
		name      string
		dir       string // the directory on the small disk: "tmp" or "site"
		mebibytes int
		inodes    int
		next      tree
		log       string
		only      string // the only strategy that fails
	}{
		{"TMPDIR cannot hold the download", "tmp", 2, 1000, grown(incompressible, 6), "the download needs", ""},
		{"TMPDIR cannot hold what is unpacked", "tmp", 4, 1000, grown(strings.Repeat("0", mebi), 16), "unpack the archive: what it unpacks to needs at least", ""},
		{"TMPDIR cannot hold it twice", "tmp", 24, 1000, grown(strings.Repeat("0", mebi), 16), "extract the archive", "rsync"},
		{"dest cannot hold the files", "site", 4, 1000, grown(incompressible, 6), "", ""},
		{"dest has no inodes", "site", 16, 100, grown("few bytes", 300), "", ""},
	} {
		for _, strategy := range []string{"rsync", "mv", "builtin", "symlink"} {
			if full.only != "" && strategy != full.only {
				continue
			}
			t.Run(full.name+", "+strategy, func(t *testing.T) {
				s := newSite(t)
				dir := s.path(full.dir)
				mountSmall(t, dir, full.mebibytes, full.inodes)
				if strategy != "mv" {
					s.deploy(s.publish("old", old.pack(t), "sync_strategy: "+strategy))
					s.wantDeployed(old)
				}
				before := readTree(t, s.dest)
				next := s.publish("next", full.next.pack(t), "sync_strategy: "+strategy, s.hooks())

				o := s.start(next).wait().wantFailure("Deploy manifest failed:", "o space left on device", full.log)
				failed := failureLine(o.log)
				if !strings.Contains(failed, "o space left on device") {
					t.Errorf("the error does not tell that the disk is full: %s", failed)
				}
				if !strings.Contains(failed, dir) {
					t.Errorf("the error does not name the full directory: %s", failed)
				}
				s.wantFailureCommands(1)
				s.wantClean()
				if strategy != "rsync" || full.dir == "tmp" {
					for _, d := range before.differences(readTree(t, s.dest)) {
						t.Errorf("dest was changed: %s", d)
					}
				}

				if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m,nr_inodes=2000"); err != nil {
					t.Fatalf("make %s larger: %v", dir, err)
				}
				s.deploy(next)
				s.wantDeployed(full.next)
			})
		}
	}
}

// failureLine returns the line of a log that contains the error of the deployment.
func failureLine(log string) string {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "Deploy manifest failed:") {
			return line
		}
	}
	return ""
}
