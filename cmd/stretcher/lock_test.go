package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// hold starts a deployment to dest that blocks in its pre command until the file
// "go" exists, or a few minutes have passed.
func hold(w *world, dest string) *agent {
	w.write("holder.yml", w.archive(dest)+"commands: {pre: [echo begin >> order; n=0; until test -e go || test $((n += 1)) -gt 10000; do sleep 0.02; done; echo end >> order]}\n")
	a := w.start("holder.yml", nil)
	a.until("the holder has begun", func() bool {
		_, err := os.Stat(w.path("order"))
		return err == nil
	})
	return a
}

// Deployments to the same dest run one after another, no matter which path they
// use to name it.
func TestLockSerialises(t *testing.T) {
	for name, dests := range map[string][2]string{
		"the same path":             {"srv/app", "srv/app"},
		"spelled otherwise":         {"srv/app", "srv/../srv//app/"},
		"through a symlink":         {"srv/app", "link/app"},
		"of a dest that is missing": {"link/new", "srv/new"},
		"a symlink itself":          {"current", "srv/app"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run("mkdir", "-p", "srv/app")
			w.run("ln", "-s", "srv", "link")
			w.run("ln", "-s", "srv/app", "current")
			first := hold(w, w.path(dests[0]))
			w.write("second.yml", w.archive(w.dir+"/"+dests[1])+"commands: {pre: [echo second >> order]}\n")
			second := w.start("second.yml", nil)
			second.logged(fmt.Sprintf(`waiting for another deployment to .*: pid %d, since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d`, first.pid()))
			w.write("go", "")
			first.exits(0)
			second.exits(0)
			if order := w.read("order"); order != "begin\nend\nsecond\n" {
				t.Errorf("the commands ran in this order:\n%s", order)
			}
			w.clean()
		})
	}
}

// A deployment to a different dest does not wait, even if its dest is inside the
// first one.
func TestLockOfAnotherDest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("mkdir", "-p", "srv/app")
	first := hold(w, w.path("srv/app"))
	for _, dest := range []string{"srv/app2", "srv/app/inner"} {
		w.write("second.yml", w.archive(w.path(dest)))
		w.start("second.yml", nil).exits(0)
	}
	w.write("go", "")
	first.exits(0)
}

// A killed holder does not block deployments, whether they were already waiting or
// start later.
func TestLockOfKilledHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("killed.yml", w.archive(w.path("dest"))+"commands: {pre: [exec sleep 600]}\n")
	w.write("next.yml", w.archive(w.path("dest")))
	for _, waits := range []bool{true, false} {
		first := w.start("killed.yml", nil)
		first.logged("invoking command")
		var second *agent
		if waits {
			second = w.start("next.yml", nil)
			second.logged("waiting for another deployment")
		}
		first.signal(syscall.SIGKILL)
		first.exits(-1)
		if !waits {
			second = w.start("next.yml", nil)
		}
		second.exits(0)
	}
	w.clean()
}

// A command may change the dest, if it is a symlink, to point to another directory.
// A deployment that names the dest by this symlink must still wait.
func TestLockOfSymlink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("mkdir", "r1", "r2")
	w.run("ln", "-s", "r1", "current")
	w.write("first.yml", w.archive(w.path("current"))+"commands: {pre: ['ln -sfn r2 current; until [ -e go ]; do sleep 0.02; done'], post: ['echo first >> order']}\n")
	w.write("second.yml", w.archive(w.path("current"))+"commands: {pre: ['echo second >> order']}\n")
	first := w.start("first.yml", nil)
	first.until("current leads to r2", func() bool {
		target, err := os.Readlink(w.path("current"))
		return err == nil && target == "r2"
	})
	second := w.start("second.yml", nil)
	second.logged("waiting for another deployment")
	w.write("go", "")
	first.exits(0)
	second.exits(0)
	if order := w.read("order"); order != "first\nsecond\n" {
		t.Errorf("the commands ran in this order:\n%s", order)
	}
	if got := w.read("r2/file"); got != "content\n" {
		t.Errorf("r2/file has %q", got)
	}
	w.clean()
}

// If several deployments are waiting, all of them run, one at a time.
func TestLockOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := hold(w, w.path("dest"))
	w.write("next.yml", w.archive(w.path("dest"))+"commands: {pre: [mkdir alone], post: [rmdir alone; echo next >> order]}\n")
	var others []*agent
	for range 4 {
		a := w.start("next.yml", nil)
		a.logged("waiting for another deployment")
		others = append(others, a)
	}
	w.write("go", "")
	first.exits(0)
	for _, a := range others {
		a.exits(0)
	}
	if order := w.read("order"); order != "begin\nend\n"+strings.Repeat("next\n", 4) {
		t.Errorf("the commands ran in this order:\n%s", order)
	}
}

// Another user may have created something in place of the lock directory. It is
// neither used nor followed, and does not prevent deployments, because the lock is
// taken in the next directory instead.
func TestLockDirectoryOfAnother(t *testing.T) {
	w := newWorld(t)
	uid, start := w.asUser()
	place, next := fmt.Sprintf("/dev/shm/stretcher-%d", uid), fmt.Sprintf("/tmp/stretcher-%d", uid)
	w.run("mkdir", "victim")
	w.run("chown", fmt.Sprint(uid), "victim")
	w.write("manifest.yml", w.archive(w.path("srv/dest")))
	for _, hostile := range []struct {
		name string
		make func(place string) error
		want string
	}{
		{"symlink", func(place string) error { return os.Symlink(w.path("victim"), place) }, place + " is not a directory of this user alone"},
		{"directory", func(place string) error { return os.Mkdir(place, 0o777) }, place + " is not a directory of this user alone"},
		{"file", func(place string) error { return os.WriteFile(place, nil, 0o666) }, place + " is not a directory of this user alone"},
		{"both", func(string) error { return errors.Join(os.Mkdir(place, 0o700), os.Mkdir(next, 0o700)) }, "Deploy manifest failed: lock .*/srv/dest: " + place + " is not .*"},
		{"nothing", func(string) error { return nil }, "Deploy manifest succeeded"},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			defer os.RemoveAll(place)
			defer os.RemoveAll(next)
			if err := hostile.make(place); err != nil {
				t.Fatal(err)
			}
			a := start("manifest.yml")
			if hostile.name == "both" {
				a.exits(1)
			} else {
				a.exits(0)
			}
			a.logged(hostile.want)
			if list, err := os.ReadDir(w.path("victim")); err != nil || len(list) > 0 {
				t.Errorf("the symlink was followed: %v %v", list, err)
			}
			if hostile.name == "directory" {
				if list, err := os.ReadDir(place); err != nil || len(list) > 0 {
					t.Errorf("the other user's directory was used: %v %v", list, err)
				}
			}
		})
	}
}
