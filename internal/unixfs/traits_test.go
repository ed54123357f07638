package unixfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Bind mounts of one file system have the same device number.
func TestTraitsOfMounts(t *testing.T) {
	t.Parallel()
	dir := linksIn(t)
	mountOf := func(path string) MountID {
		fd := openTestDir(t, path)
		traits, err := TraitsOf(fd, "")
		if err != nil {
			t.Fatal(err)
		}
		return traits.Mount
	}
	if mountOf(dir) != mountOf(dir+"/real") {
		t.Error("a directory and one in it have different mounts")
	}
	if mountOf(dir) == mountOf("/proc") {
		t.Error("two file systems have the same mount")
	}
	if err := unix.Mount(dir+"/other", dir+"/real", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("only root can make a bind mount: %v", err)
	}
	defer unix.Unmount(dir+"/real", unix.MNT_DETACH)
	if mountOf(dir) == mountOf(dir+"/real") {
		t.Error("a bind mount is not told apart")
	}
	parent := openTestDir(t, dir)
	for name, want := range map[string]bool{"real": true, "other": false} {
		if traits, err := TraitsOf(parent, name); err != nil || traits.MountRoot != want {
			t.Errorf("%s: %+v, %v", name, traits, err)
		}
	}
}

func TestTraitsOfFixedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd := openTestDir(t, dir)
	// FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h.
	for name, flag := range map[string]int{"immutable": 0x10, "append-only": 0x20} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); f.Close() })
		if traits, err := TraitsOf(fd, name); err != nil || traits.Fixed("it") != nil || traits.UID != uint32(os.Geteuid()) || traits.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s before: %+v, %v", name, traits, err)
		}
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag); err != nil {
			t.Skipf("chattr: %v", err)
		}
		traits, err := TraitsOf(fd, name)
		if err != nil {
			t.Fatal(err)
		}
		if fixed := traits.Fixed("it"); !errors.Is(fixed, unix.EPERM) || !strings.Contains(fixed.Error(), "it is "+name) {
			t.Errorf("%s: %v", name, fixed)
		}
		err = unix.Unlinkat(fd, name, 0)
		if explained := ExplainDenied(fd, name, err); !errors.Is(explained, unix.EPERM) || !strings.Contains(explained.Error(), name) {
			t.Errorf("%s: %v", name, explained)
		}
	}
}

func TestMayChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd := openTestDir(t, dir)
	if err := MayChange(fd); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if err := MayChange(fd); (err == unix.EACCES) != !HasCapability(unix.CAP_DAC_OVERRIDE) {
		t.Error(err)
	}
}
