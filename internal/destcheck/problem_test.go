package destcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProblem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"ok": 0o755, "closed": 0o555, "locked": 0} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "ok", "dangling": "nothing", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"ok":                     "",
		"ok/":                    "",
		"ok/new":                 "",
		"link":                   "",
		"link/new":               "",
		"link/../new":            "",
		"file":                   "dest DIR/file is a file, expected a directory or nothing",
		"file/app":               "dest DIR/file/app: DIR/file is a file, expected a directory",
		"file/a/b":               "dest DIR/file/a/b: DIR/file is a file, expected a directory",
		"no/app":                 "dest DIR/no/app: its parent directory DIR/no does not exist: create it, by a pre command for instance",
		"no/such/app":            "dest DIR/no/such/app: its parent directory DIR/no/such does not exist: create it, by a pre command for instance",
		"no/a\x1bb":              `dest "DIR/no/a\x1bb": its parent directory DIR/no does not exist: create it, by a pre command for instance`,
		"dangling":               "dest DIR/dangling is a symbolic link to nothing, which does not exist",
		"loop":                   "dest DIR/loop: too many levels of symbolic links",
		strings.Repeat("a", 300): "dest DIR/" + strings.Repeat("a", 300) + ": file name too long",
	} {
		got := ""
		// Clean would end "ok/" without its slash, so join by hand.
		if err := Problem(dir + "/" + name); err != nil {
			got = strings.ReplaceAll(err.Error(), dir, "DIR")
		}
		if got != want {
			t.Errorf("%s:\ngot      %s,\nexpected %s", name, got, want)
		}
	}
	if os.Geteuid() == 0 {
		return // everything is open to root
	}
	me := whoAmI()
	for name, want := range map[string]string{
		"closed":     "dest DIR/closed is not writable by " + me,
		"closed/app": "dest DIR/closed/app does not exist, and its parent directory DIR/closed is not writable by " + me,
		"locked/app": "dest DIR/locked/app cannot be reached by " + me + ": permission denied",
	} {
		if err := Problem(filepath.Join(dir, name)); err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want {
			t.Errorf("%s: got %v, expected %s", name, err, want)
		}
	}
	const want = "dest DIR/closed/app cannot be made a link to another release: its parent directory DIR/closed is not writable by "
	if err := LinkProblem(filepath.Join(dir, "closed/app")); err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want+me {
		t.Errorf("got %v, expected %s", err, want+me)
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("stretcher", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for dest, want := range map[string]string{
		dir:          "dest " + dir + " is on a read-only file system",
		dir + "/app": "dest " + dir + "/app does not exist, and its parent directory " + dir + " is on a read-only file system",
	} {
		if err := Problem(dest); err == nil || err.Error() != want {
			t.Errorf("got %v, expected %s", err, want)
		}
	}
	if err := LinkProblem(dir + "/app"); err == nil || !strings.HasSuffix(err.Error(), "its parent directory "+dir+" is on a read-only file system") {
		t.Errorf("of a link: got %v", err)
	}
	if err := LinkProblem(t.TempDir() + "/app"); err != nil {
		t.Errorf("of a link that can be replaced: got %v", err)
	}
}
