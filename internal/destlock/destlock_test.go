package destlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

// place returns a dest that exists and a directory for lock files.
func place(t *testing.T) (dest string, directories []string) {
	t.Helper()
	dir := t.TempDir()
	dest = filepath.Join(dir, "dest")
	if err := os.Mkdir(dest, 0o777); err != nil {
		t.Fatal(err)
	}
	return dest, []string{filepath.Join(dir, "locks")}
}

func mustAcquire(t *testing.T, dest string, directories []string) *Lock {
	t.Helper()
	l, err := acquire(t.Context(), dest, directories)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// logOf returns what f logs, and calls onLine after each line. Tests that call
// it cannot be parallel.
func logOf(f func(), onLine func(line string)) string {
	var b bytes.Buffer
	out, flags := log.Writer(), log.Flags()
	log.SetFlags(0)
	log.SetOutput(writerFunc(func(p []byte) {
		b.Write(p)
		onLine(string(p))
	}))
	defer func() {
		log.SetOutput(out)
		log.SetFlags(flags)
	}()
	f()
	return b.String()
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// One at a time, also among the goroutines of one process.
func TestAcquire(t *testing.T) {
	t.Parallel()
	dest, directories := place(t)
	var holders, turns atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				l, err := acquire(t.Context(), dest, directories)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				turns.Add(1)
				holders.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
	if n := turns.Load(); n != 80 {
		t.Errorf("%d had their turn, expected 80", n)
	}
	if left := tartest.NamesIn(t, directories[0]); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

func TestAcquireCancelled(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	held, err := Acquire(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	var waited error
	logged := logOf(func() { _, waited = Acquire(ctx, dest) }, func(string) { cancel(stopped) })
	if want := fmt.Sprintf("lock %s: waiting for pid %d: stopped", dest, os.Getpid()); !errors.Is(waited, stopped) || waited.Error() != want {
		t.Errorf("got error %v, expected %s", waited, want)
	}
	if want := regexp.MustCompile(`^waiting for another deployment to ` + regexp.QuoteMeta(dest) + `: pid \d+, since 20\d\d-[^\n]*\n$`); !want.MatchString(logged) {
		t.Errorf("logged %q", logged)
	}
	// A waiter that gave up does not keep the lock.
	held.Release()
	held.Release() // does nothing
	next, err := Acquire(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range next.files {
		files = append(files, f.Name())
	}
	next.Release()
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s is left", f)
		}
	}
	(*Lock)(nil).Release()
}

// While one waits, the other changes where dest leads. The lock is that of the
// new place then.
func TestAcquireMovedDest(t *testing.T) {
	dest, directories := place(t)
	link := dest + ".link"
	if err := os.Symlink("dest", link); err != nil {
		t.Fatal(err)
	}
	held := mustAcquire(t, dest, directories)
	moved := filepath.Join(filepath.Dir(dest), "moved")
	if err := os.Mkdir(moved, 0o777); err != nil {
		t.Fatal(err)
	}
	var l *Lock
	logOf(func() { l = mustAcquire(t, link, directories) }, func(string) {
		if held == nil {
			return
		}
		if err := errors.Join(os.Remove(link), os.Symlink("moved", link)); err != nil {
			t.Error(err)
		}
		held.Release()
		held = nil
	})
	defer l.Release()
	mustAcquire(t, dest, directories).Release() // it is free again
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	var err error
	logOf(func() { _, err = acquire(ctx, moved, directories) }, func(string) { cancel(stopped) })
	if !errors.Is(err, stopped) {
		t.Errorf("the new place is not locked: %v", err)
	}
}

// What killed holders left is removed, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	dest, directories := place(t)
	held := mustAcquire(t, dest, directories)
	want := tartest.NamesIn(t, directories[0])
	if len(want) != 2 {
		t.Fatalf("the lock files are %q, expected one of the path and one of the inode", want)
	}
	if err := os.WriteFile(filepath.Join(directories[0], "left.lock"), []byte("1 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustAcquire(t, dest+".other", directories).Release()
	if got := tartest.NamesIn(t, directories[0]); !slices.Equal(got, want) {
		t.Errorf("there is %q, expected %q", got, want)
	}
	held.Release()
}

// A deployment that a command of the holder runs cannot wait for the holder,
// also where the lock file does not say who that is, since the disk was full. The
// test starts itself as that command.
func TestAcquireInCommand(t *testing.T) {
	if dest := os.Getenv("TEST_DEST"); dest != "" {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := acquire(ctx, dest, []string{os.Getenv("TEST_LOCKS")})
		fmt.Println("got error:", err)
		return
	}
	for name, told := range map[string]bool{"told": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dest, directories := place(t)
			held := mustAcquire(t, dest, directories)
			defer held.Release()
			for _, f := range held.files {
				if !told && f.Truncate(0) != nil {
					t.Fatal("the lock file cannot be emptied")
				}
			}
			if !told && (holder{}).orLocker(held.files[0]).pid != os.Getpid() {
				t.Skip("/proc/locks does not show the locks of this process")
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$0" -test.run='^TestAcquireInCommand$'; true`, os.Args[0])
			cmd.Env = append(os.Environ(), "TEST_DEST="+dest, "TEST_LOCKS="+directories[0])
			out, err := cmd.CombinedOutput()
			want := fmt.Sprintf("got error: pid %d is deploying there and waits for a command that runs this deployment: neither could go on\n", os.Getpid())
			if err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("got %v, %s", err, out)
			}
		})
	}
}

func TestLockerOf(t *testing.T) {
	t.Parallel()
	const locks = `1: POSIX  ADVISORY  WRITE 11 00:19:5678 0 EOF
2: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF
2: -> FLOCK  ADVISORY  WRITE 99 00:19:5679 0 EOF
3: FLOCK  ADVISORY  WRITE 4321 103:1a:5679 0 EOF
4: FLOCK  ADVISORY  WRITE -1 00:19:5680 0 EOF
5: FLOCK
`
	for _, test := range []struct {
		major, minor uint32
		inode        uint64
		want         int
	}{
		{0, 0x19, 5678, 1234},
		{0x103, 0x1a, 5679, 4321},
		{0, 0x19, 5679, 0}, // only waits
		{0, 0x19, 5680, 0}, // of another PID namespace
		{0, 0x19, 567, 0},
	} {
		if got := lockerOf(locks, unix.Mkdev(test.major, test.minor), test.inode); got != test.want {
			t.Errorf("%v: got %d", test, got)
		}
	}
}

func FuzzLockerOf(f *testing.F) {
	f.Add("2: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF\n", uint64(5678))
	f.Fuzz(func(t *testing.T, locks string, inode uint64) {
		if pid := lockerOf(locks, unix.Mkdev(0, 0x19), inode); pid < 0 || pid > 0 && !strings.Contains(locks, fmt.Sprint(inode)) {
			t.Errorf("%q: got %d", locks, pid)
		}
	})
}

func TestIsAncestor(t *testing.T) {
	t.Parallel()
	if !isAncestor(os.Getppid()) {
		t.Error("the parent is no ancestor")
	}
	if isAncestor(os.Getpid()) || isAncestor(-1) || isAncestor(0) {
		t.Error("this process, or none, is an ancestor")
	}
}

// A holder in another container that shares the directory of the locks has written its
// pid there, often 1, which is not that of an ancestor here.
func TestAcquireOfNamesake(t *testing.T) {
	dest, directories := place(t)
	held := mustAcquire(t, dest, directories)
	defer held.Release()
	for _, f := range held.files {
		if _, err := f.WriteAt(fmt.Appendf(nil, "%d 2026-01-01T00:00:00Z\n", os.Getppid()), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	var err error
	logOf(func() { _, err = acquire(ctx, dest, directories) }, func(string) { cancel(stopped) })
	if !errors.Is(err, stopped) {
		t.Errorf("got error %v", err)
	}
}

// The agent may be the first process of a container. The test starts itself as a
// command of such an agent.
func TestIsAncestorInContainer(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_IN_CONTAINER") != "" {
		fmt.Println("descends from 1:", isAncestor(1))
		return
	}
	// The shell is process 1. The second one keeps the test from being its child.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `mount -t proc proc /proc && { sh -c '"$0" -test.run="^TestIsAncestorInContainer$"; true' "$0"; true; }`, os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_IN_CONTAINER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) || strings.HasPrefix(string(out), "mount: ") {
		t.Skipf("this user cannot make a container: %v, %s", err, out)
	}
	if err != nil || !strings.HasPrefix(string(out), "descends from 1: true\n") {
		t.Errorf("got %v, %s", err, out)
	}
}

// A full /run refuses no deployment. It only hides from those who wait whom
// they wait for.
func TestAcquireOnFullDisk(t *testing.T) {
	disk := tartest.MountTmpfs(t, "size=64k")
	dest, _ := place(t)
	directories := []string{filepath.Join(disk, "stretcher")}
	if err := os.WriteFile(filepath.Join(disk, "other"), make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	var held *Lock
	logged := logOf(func() { held = mustAcquire(t, dest, directories) }, func(string) {})
	if want := regexp.MustCompile(`^(\[WARN\] record the holder in the lock file: .*no space left on device\n)+$`); !want.MatchString(logged) {
		t.Errorf("logged %q", logged)
	}
	var next *Lock
	logged = logOf(func() { next = mustAcquire(t, dest, directories) }, func(string) {
		held.Release() // does nothing after the first line
	})
	// The kernel knows the pid, unless a sandbox hides it.
	if want := regexp.MustCompile(fmt.Sprintf("^waiting for another deployment to %s: pid (%d|unknown), since unknown\n", regexp.QuoteMeta(dest), os.Getpid())); !want.MatchString(logged) {
		t.Errorf("logged %q, expected %q", logged, want)
	}
	next.Release()
	if left := tartest.NamesIn(t, directories[0]); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// Without a free inode there, the lock files are in the next directory.
func TestAcquireWithoutInodes(t *testing.T) {
	disk := tartest.MountTmpfs(t, "nr_inodes=16")
	dest, other := place(t)
	directories := append([]string{filepath.Join(disk, "stretcher")}, other...)
	mustAcquire(t, dest, directories).Release() // makes the directory
	var err error
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(disk, fmt.Sprint(i)), nil, 0o600)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	var l *Lock
	logged := logOf(func() { l = mustAcquire(t, dest, directories) }, func(string) {})
	defer l.Release()
	if want := regexp.MustCompile(`^\[WARN\] directory for locks: open .*: no space left on device: using another one\n$`); !want.MatchString(logged) {
		t.Errorf("logged %q", logged)
	}
	if got := tartest.NamesIn(t, other[0]); len(got) != len(l.files) {
		t.Errorf("the other directory has %q", got)
	}
	if _, err := acquire(t.Context(), dest, directories[:1]); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without another one: got error %v", err)
	}
}

// A waiter that does not know the holder yet can be cancelled too.
func TestAcquireCancelledEarly(t *testing.T) {
	t.Parallel()
	dest, directories := place(t)
	held := mustAcquire(t, dest, directories)
	defer held.Release()
	for _, f := range held.files {
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err := acquire(ctx, dest, directories); err != stopped {
		t.Errorf("got error %v", err)
	}
}

func TestReadHolder(t *testing.T) {
	t.Parallel()
	unknown := holder{since: "unknown"}
	for line, want := range map[string]holder{
		"123 2026-01-02T03:04:05Z\n": {123, "2026-01-02T03:04:05Z"},
		"123 2026-01-02T03:0":        unknown, // not all of it is written yet
		"":                           unknown,
		"\n":                         unknown,
		"x y\n":                      unknown,
		strings.Repeat("1", 1000):    unknown,
	} {
		f, err := unixfs.TempFile()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.WriteString(f, line); err != nil {
			t.Fatal(err)
		}
		if got := readHolder(f); got != want {
			t.Errorf("%.40q: got %v, expected %v", line, got, want)
		}
	}
}

// The holder's line is that of the last holder, and all of it.
func TestWriteHolder(t *testing.T) {
	t.Parallel()
	dest, directories := place(t)
	l := mustAcquire(t, dest, directories)
	defer l.Release()
	for _, f := range l.files {
		h := readHolder(f)
		since, err := time.Parse(time.RFC3339, h.since)
		if h.pid != os.Getpid() || err != nil || time.Since(since) > time.Hour || !h.lives() {
			t.Errorf("%s: got %v, %v", f.Name(), h, err)
		}
	}
}

// Another user may have put something in the place of the directory for locks.
// It is neither used nor followed; the next directory is.
func TestOpenDirectory(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "own")
	for name, create := range map[string]func(path string) error{
		"symbolic link":           func(path string) error { return os.Symlink(dir, path) },
		"file":                    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory of everybody":  func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777)) },
		"directory of the group":  func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o770)) },
		"directory of other user": func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 1234567, -1)) },
	} {
		path := filepath.Join(dir, name)
		if err := create(path); errors.Is(err, unix.EPERM) {
			continue // only root can make it
		} else if err != nil {
			t.Fatal(err)
		}
		var f *os.File
		var err error
		logged := logOf(func() { f, err = openDirectory([]string{path, own}) }, func(string) {})
		if err != nil || f.Name() != own {
			t.Errorf("%s: opened %v, %v", name, f, err)
		}
		f.Close()
		if want := "[WARN] directory for locks: " + path + " is not a directory of this user alone: remove it"; !strings.HasPrefix(logged, want) {
			t.Errorf("%s: logged %q", name, logged)
		}
		logOf(func() { _, err = openDirectory([]string{path, dir + "/missing/locks"}) }, func(string) {})
		if !errors.Is(err, errNotOwn) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, and no other: got error %v", name, err)
		}
	}
	if info, err := os.Stat(own); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("it made a directory with mode %v, %v", info.Mode(), err)
	}
	if first := directories(0)[0]; first != "/run/stretcher" {
		t.Errorf("root's first is %s", first)
	}
	if first := directories(1000)[0]; first != "/dev/shm/stretcher-1000" {
		t.Errorf("another user's first is %s", first)
	}
}
