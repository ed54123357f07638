package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/ptytest"
)

// On a terminal, a line says that rsync still runs. It is erased before other lines.
func TestProgressOfRsync(t *testing.T) {
	t.Parallel()
	master, terminal := ptytest.Open(t)
	w := newWorld(t)
	w.write("bin/rsync", "#!/bin/sh\necho sending incremental file list\necho a\nwhile ! test -e seen; do sleep 0.1; done\necho b\nwhile ! test -e again; do sleep 0.1; done\n")
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: rsync\n")
	cmd := exec.Command("stretcher")
	cmd.Stdin = strings.NewReader(w.url("manifest.yml"))
	cmd.Dir = w.dir
	cmd.Env = append(cmd.Environ(), "PATH="+w.path("bin")+":/usr/bin:/bin", "TMPDIR="+w.path("tmp"))
	cmd.Stderr = terminal
	stretcher, err := exec.LookPath("stretcher")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = stretcher
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	seen := ptytest.Read(t, master, ", 1 names listed\x1b[K\r", 2)
	w.write("seen", "")
	seen += ptytest.Read(t, master, ", 2 names listed\x1b[K\r", 1)
	w.write("again", "")
	seen += ptytest.Read(t, master, "Done", 1)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	if want := `rsync: still running after \d+s, 1 names listed\x1b\[K\r\x1b\[K[0-9/]+ [0-9:]+ b\r\n`; !regexp.MustCompile(want).MatchString(seen) {
		t.Errorf("the terminal got %q", seen)
	}
}

// With -log-format json, nothing but objects is on a terminal.
func TestProgressInJSON(t *testing.T) {
	t.Parallel()
	master, terminal := ptytest.Open(t)
	w := newWorld(t)
	w.write("bin/rsync", "#!/bin/sh\nsleep 0.5\n")
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: rsync\n")
	stretcher, err := exec.LookPath("stretcher")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(stretcher, "-log-format", "json")
	cmd.Stdin = strings.NewReader(w.url("manifest.yml"))
	cmd.Dir = w.dir
	cmd.Env = append(cmd.Environ(), "PATH="+w.path("bin")+":/usr/bin:/bin", "TMPDIR="+w.path("tmp"))
	cmd.Stderr = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	seen := ptytest.Read(t, master, "Done", 1)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	for line := range strings.Lines(seen) {
		if !strings.HasPrefix(line, `{"time":"`) {
			t.Errorf("the terminal got %q", line)
		}
	}
}
