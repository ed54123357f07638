package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An ordinary user owns the files that he has deployed, and so can deploy again over
// files that are unreadable or read-only for him.
func TestUserReadOnlyDest(t *testing.T) {
	for _, strategy := range []string{"builtin", "mv"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			_, start := w.asUser()
			dest := w.path("srv/dest")
			deploy := func(text string) *agent {
				w.write("app/file", text)
				w.write("app/sub/file", text)
				w.run("chmod", "555", "app")
				w.run("chmod", "000", "app/sub")
				w.run("tar", "-cf", "app.tar", "-C", "app", ".")
				w.run("chmod", "755", "app", "app/sub")
				sum, _, _ := strings.Cut(w.run("sha256sum", "app.tar"), " ")
				w.write("manifest.yml", fmt.Sprintf("src: file://%%s/app.tar\nchecksum: %s\ndest: %s\nsync_strategy: %s\n", sum, dest, strategy))
				return start("manifest.yml")
			}
			for _, text := range []string{"old", "new"} {
				deploy(text).exits(0)
				for name, mode := range map[string]os.FileMode{"": 0o555, "/sub": 0} {
					if info, err := os.Stat(dest + name); err != nil || info.Mode().Perm() != mode {
						t.Errorf("dest%s: mode %v, %v", name, info.Mode(), err)
					}
				}
				for _, name := range []string{"srv/dest/file", "srv/dest/sub/file"} {
					if got := w.read(name); got != text {
						t.Errorf("%s has %q, expected %q", name, got, text)
					}
				}
				w.clean()
				if strategy == "mv" {
					return
				}
			}
			// A failed deployment does not change modes either. It fails because
			// this directory now belongs to another user, so it cannot be opened.
			w.run("chown", "0", "srv/dest/sub")
			deploy("newer").exits(1)
			if info, err := os.Stat(dest); err != nil || info.Mode().Perm() != 0o555 {
				t.Errorf("dest after a failure: %v, %v", info.Mode(), err)
			}
			if got := w.read("srv/dest/file"); got != "new" {
				t.Errorf("dest/file after a failure: %q", got)
			}
			w.clean()
		})
	}
}

// What an ordinary user cannot write to is noticed before the download, but a
// deployment that succeeds all the same is not refused.
func TestUserDestOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	uid, start := w.asUser()
	w.write("app/sub/file", "text")
	w.run("touch", "-d", "2020-01-01", "app/sub/file", "app/sub", "app")
	w.run("tar", "-cf", "app.tar", "-C", "app", ".")
	sum, _, _ := strings.Cut(w.run("sha256sum", "app.tar"), " ")
	deploy := func(strategy, dest string) *agent {
		w.write("manifest.yml", fmt.Sprintf("src: file://%%s/app.tar\nchecksum: %s\ndest: %s\nsync_strategy: %s\n", sum, w.path(dest), strategy))
		return start("manifest.yml")
	}
	w.run("mkdir", "other")
	for _, strategy := range []string{"rsync", "builtin", "mv"} {
		a := deploy(strategy, "other/new")
		a.exits(1)
		if log := a.log.String(); !strings.Contains(log, "/other is not writable by ") || strings.Contains(log, "Downloading src") {
			t.Errorf("%s: a parent of another user: the log is\n%s", strategy, log)
		}
	}
	for _, strategy := range []string{"rsync", "builtin"} {
		// The directory is complete, so nothing in it has to be written.
		w.run("rm", "-rf", "other/full")
		w.run("cp", "-a", "app", "other/full")
		w.run("chgrp", "-R", fmt.Sprint(uid), "other/full")
		a := deploy(strategy, "other/full")
		a.exits(0)
		if log := a.log.String(); !strings.Contains(log, "[WARN] dest "+w.path("other/full")+" is not writable by ") {
			t.Errorf("%s: a dest of another user: the log is\n%s", strategy, log)
		}
		// Its owner can make a directory writable.
		a = deploy(strategy, "srv/"+strategy)
		a.exits(0)
		w.run("chmod", "555", "srv/"+strategy)
		w.write("srv/"+strategy+"/stale", "")
		a = deploy(strategy, "srv/"+strategy)
		a.exits(0)
		if log := a.log.String(); strings.Contains(log, "WARN") {
			t.Errorf("%s: a read-only dest of this user: the log is\n%s", strategy, log)
		}
	}
}

// A command that runs as another user, for example through sudo, cannot be
// signalled. The agent exits without it.
func TestUserCommandOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, start := w.asUser()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	w.run("cp", setpriv, "suid")
	w.run("chmod", "4755", "suid")
	w.write("manifest.yml", "commands:\n  pre: ['echo $$ > tmp/pid; exec ./suid --reuid=0 --clear-groups sleep 600']\n")
	begin := time.Now()
	a := start("manifest.yml", "-command-timeout", "1")
	a.logged("could not be ended, and is left running")
	a.exits(1)
	a.logged("timeout after 1s")
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the agent took %s to exit", took)
	}
	if err := syscall.Kill(w.pid("tmp/pid"), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
