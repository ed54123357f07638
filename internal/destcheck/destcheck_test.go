package destcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSystemDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := func(target string) string {
		path := filepath.Join(dir, strings.ReplaceAll(target, "/", "-"))
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, dest := range []string{
		"/etc", "/usr", "/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/local", "/usr/local/bin", "/usr/local/share", "/usr/src", "/usr/share", "/var",
		"/var/lib", "/var/log", "/var/spool/cron/crontabs", "/home", "/root", "/tmp", "/var/tmp", "/bin", "/sbin", "/lib", "/lib64", "/boot",
		"/dev", "/proc", "/sys", "/run", "/run/lock", "/run/user", "/run/user/1000", "/mnt", "/media", "/lost+found", "/etc/ssh", "/etc/ssl",
		"/etc/systemd/system", "/etc/cron.d", "/etc/cron.daily", "/lib/systemd/system", "/etc/init.d", "/run/stretcher",
		"/etc/", "//etc", "/etc/.", "/etc/ssl/..", "/usr/local/../../etc/", "/no/such/../../var", "/proc/self/root/etc",
		link("/etc"), link("/usr/lib") + "/", link("/usr/local") + "/bin",
	} {
		err := Check(dest)
		if err == nil || !strings.Contains(err.Error(), "a directory of the system, whose other files would be deleted: name a directory below it") {
			t.Errorf("%s: got %v", dest, err)
		}
	}
	for _, dest := range []string{"/", "//", "/.", "/etc/..", "/proc/self/root", link("/"), link("/etc/ssl") + "/../.."} {
		err := Check(dest)
		if err == nil || !strings.Contains(err.Error(), "is the root directory, whose other files would be deleted") {
			t.Errorf("%s: got %v", dest, err)
		}
	}
	for _, dest := range []string{
		"/etc/nginx", "/etc/app/conf.d", "/var/www", "/var/www/html", "/var/lib/app", "/usr/local/app", "/usr/local/lib/app", "/home/user",
		"/home/user/app", "/opt/app", "/srv/app", "/srv/www/app", "/tmp/app", "/root/app", "/mnt/data", "/app", "/data", "/run/app", "/etcetera",
		dir, filepath.Join(dir, "etc"), "/no/such/place",
	} {
		if err := Check(dest); err != nil {
			t.Errorf("%s: %v", dest, err)
		}
	}
}

func TestCheckErrors(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "li\x1bnk")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	for dest, want := range map[string]string{
		"":       `dest "" is not an absolute path: it has to begin with /`,
		"app":    `dest "app" is not an absolute path: it has to begin with /`,
		"~/\x1b": `dest "~/\x1b" is not an absolute path: it has to begin with /`,
		"/a\x00": `dest "/a\x00" has a NUL byte`,
		"/":      "dest / is the root directory, whose other files would be deleted: name a directory below it",
		"/etc/":  "dest /etc/ is a directory of the system, whose other files would be deleted: name a directory below it",
		link:     fmt.Sprintf("dest %q is /etc, a directory of the system, whose other files would be deleted: name a directory below it", link),
	} {
		if err := Check(dest); err == nil || err.Error() != want {
			t.Errorf("%q:\ngot      %v,\nexpected %s", dest, err, want)
		}
	}
}

// A bind mount has the device and inode of what it shows.
func TestBindMounts(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/", "/etc", "/usr/local/bin"} {
		dir := t.TempDir()
		if err := unix.Mount(target, dir, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("cannot mount here: %v", err)
		}
		err := Check(dir)
		if uerr := unix.Unmount(dir, unix.MNT_DETACH); uerr != nil {
			t.Fatal(uerr)
		}
		if err == nil || !strings.Contains(err.Error(), "whose other files would be deleted") {
			t.Errorf("%s bound elsewhere: got %v", target, err)
		}
	}
}

func TestTempDirItself(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	if err := Check(dir + "/."); err == nil || !strings.Contains(err.Error(), "is the directory for temporary files (TMPDIR)") {
		t.Errorf("got %v", err)
	}
	if err := Check(dir + "/app"); err != nil {
		t.Error(err)
	}
}

// /opt and /srv are not changed here: other directories stand for them.
func TestShared(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := filepath.Join(top, "srv")
	check := func(want string) {
		t.Helper()
		err := checkShared(dir, resolve(dir), []string{dir})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, expected %q", err, want)
		}
	}
	check("") // it is missing
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	check("")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	check("is not empty, and its other files would be deleted: name a directory below it, such as " + dir + "/app")
	link := filepath.Join(top, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := checkShared(link, resolve(link), []string{dir}); err == nil || !strings.Contains(err.Error(), "link is "+dir+", not empty") {
		t.Errorf("by a symbolic link: %v", err)
	}
	if os.Geteuid() == 0 {
		t.Skip("root can read any directory")
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755) // so that it can be removed
	check("is refused unless it is empty, which cannot be told: ")
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, pattern := range append(system, shared...) {
		if _, err := filepath.Match(pattern, "/"); err != nil || !filepath.IsAbs(pattern) || filepath.Clean(pattern) != pattern {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, seed := range []string{"/etc", "/a/../etc/", "/srv/app", "", "a", "/\x00", "/../..", "//proc/self/root/usr", "/a\nb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dest string) {
		err := Check(dest)
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Errorf("control characters in %q", err)
		}
		if err == nil && (!filepath.IsAbs(dest) || strings.ContainsRune(dest, 0) || filepath.Clean(dest) == "/") {
			t.Errorf("%q is accepted", dest)
		}
		if p := Problem(dest); p != nil && strings.ContainsAny(p.Error(), "\n\x00\x1b") {
			t.Errorf("control characters in %q", p)
		}
	})
}
