package unixfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func modeOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode
}

func TestChmod(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd := openTestDir(t, dir)
	path := filepath.Join(dir, "file")
	victim := filepath.Join(dir, "victim")
	for _, p := range []string{path, victim} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []uint32{0o4751, 0o000, 0o640} {
		if err := Chmod(fd, "file", unix.S_IFREG, mode); err != nil || modeOf(t, path) != unix.S_IFREG|mode {
			t.Errorf("a file: it has mode %o, expected %o: %v", modeOf(t, path), mode, err)
		}
	}
	// A fifo would block open(2) until another process opens it.
	if err := Chmod(fd, "fifo", unix.S_IFIFO, 0o622); err != nil || modeOf(t, dir+"/fifo") != unix.S_IFIFO|0o622 {
		t.Errorf("a fifo: it has mode %o: %v", modeOf(t, dir+"/fifo"), err)
	}
	if err := Chmod(fd, "missing", unix.S_IFREG, 0o777); err != unix.ENOENT {
		t.Errorf("nothing: got error %v", err)
	}

	// Another process swaps the file for something else.
	for name, replace := range map[string]func() error{
		"symbolic link": func() error { return os.Symlink("victim", path) },
		"dangling link": func() error { return os.Symlink("missing", path) },
		"directory":     func() error { return os.Mkdir(path, 0o700) },
		"fifo":          func() error { return unix.Mkfifo(path, 0o600) },
	} {
		if err := errors.Join(os.Remove(path), replace()); err != nil {
			t.Fatal(err)
		}
		before := modeOf(t, path)
		if err := Chmod(fd, "file", unix.S_IFREG, 0o4777); err != ErrReplaced {
			t.Errorf("%s: got error %v", name, err)
		}
		if got := modeOf(t, path); got != before {
			t.Errorf("%s: it has mode %o, had %o", name, got, before)
		}
		if got := modeOf(t, victim); got != unix.S_IFREG|0o600 {
			t.Errorf("%s: the target of the link has mode %o", name, got)
		}
	}
}

// The time of a symbolic link is its own, and access times stay.
func TestSetModTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd := openTestDir(t, dir)
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("file", link)); err != nil {
		t.Fatal(err)
	}
	times := func(path string) (modified, accessed time.Time) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return time.Unix(st.Mtim.Unix()), time.Unix(st.Atim.Unix())
	}
	for path, want := range map[string]time.Time{file: time.Unix(1234567890, 123456789), link: time.Unix(-5, 0)} {
		_, accessed := times(path)
		if err := SetModTime(fd, filepath.Base(path), unix.NsecToTimespec(want.UnixNano())); err != nil {
			t.Fatal(err)
		}
		if got, after := times(path); !got.Equal(want) || !after.Equal(accessed) {
			t.Errorf("%s: modified %v, expected %v; accessed %v, was %v", path, got, want, after, accessed)
		}
	}
	if got, _ := times(file); got.Unix() != 1234567890 {
		t.Errorf("the link's target was modified %v", got)
	}
}

func TestReadAtWriteAt(t *testing.T) {
	t.Parallel()
	f, err := TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := WriteAt(fd, []byte("content"), 3); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		offset int64
		want   string
		full   bool
	}{{0, "\x00\x00\x00cont", true}, {3, "content", true}, {4, "ontent", false}, {10, "", false}, {100, "", false}} {
		got := make([]byte, 7)
		full, err := ReadAt(fd, got, test.offset)
		if err != nil || full != test.full || !bytes.HasPrefix(got, []byte(test.want)) {
			t.Errorf("at %d: got %q, %v, %v", test.offset, got, full, err)
		}
	}
	if full, err := ReadAt(fd, nil, 0); !full || err != nil {
		t.Errorf("of no bytes: %v, %v", full, err)
	}
	if _, err := ReadAt(-1, make([]byte, 1), 0); err != unix.EBADF {
		t.Errorf("of no file: got error %v", err)
	}
	if err := WriteAt(-1, make([]byte, 1), 0); err != unix.EBADF {
		t.Errorf("to no file: got error %v", err)
	}
}

// The test starts itself under other umasks, which the shell sets and prints.
func TestUmask(t *testing.T) {
	if os.Getenv("TEST_UMASK") != "" {
		fmt.Printf("%04o\n%04o\n", Umask(), threadUmask())
		return
	}
	t.Parallel()
	for _, mask := range []string{"0000", "0022", "0027", "0777"} {
		cmd := exec.Command("sh", "-c", "umask "+mask+`; umask; exec "$0" -test.run='^TestUmask$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "TEST_UMASK=1")
		out, err := cmd.CombinedOutput()
		lines := strings.Split(string(out), "\n")
		if err != nil || len(lines) < 3 || lines[0] != mask || lines[1] != mask || lines[2] != mask {
			t.Errorf("umask %s: the shell, Umask and threadUmask say %q: %v", mask, out, err)
		}
	}
}

// Reading the umask without /proc does not change the modes of files that are
// created at the same time.
func TestThreadUmask(t *testing.T) {
	t.Parallel()
	allowed := make(chan error)
	go func() {
		runtime.LockOSThread()
		allowed <- unix.Unshare(unix.CLONE_FS)
	}()
	if err := <-allowed; err != nil {
		t.Skip("a sandbox forbids threads to have an umask of their own:", err)
	}
	dir := t.TempDir()
	want := 0o666 &^ Umask()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3000 {
			threadUmask()
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		path := filepath.Join(dir, fmt.Sprint(i%100))
		os.Remove(path)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != os.FileMode(want) {
			t.Fatalf("a file was created with mode %04o, expected %04o", got, want)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := os.Geteuid()
	if want == 0 {
		want = 1234567
		if err := os.Chown(path, want, -1); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || OwnerOf(info) != want {
		t.Errorf("got %v, %v, expected %d", OwnerOf(info), err, want)
	}
}

// The name of a process is that of its program, and may look like the fields
// that follow it.
func TestReadProcessStat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "two words", ") Z 1 2 (", "((", "))", "a\n) X 7", " "} {
		// The kernel takes the name of the process from the path. A binary that
		// is many programs, such as busybox, takes it from argv[0].
		path := filepath.Join(dir, name)
		if err := os.Symlink(sleep, path); err != nil {
			t.Fatal(err)
		}
		cmd := &exec.Cmd{Path: path, Args: []string{"sleep", "600"}, SysProcAttr: &unix.SysProcAttr{Setpgid: true}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		proc := "/proc/" + strconv.Itoa(pid)
		if comm, err := os.ReadFile(proc + "/comm"); err != nil || string(comm) != name+"\n" {
			t.Errorf("the process has the name %q, expected %q: %v", comm, name, err)
		}
		p, err := ReadProcessStat(proc + "/stat")
		if err != nil || !strings.Contains("RSD", p.State) || p.Parent != os.Getpid() || p.Group != pid {
			t.Errorf("%q: got %+v, %v", name, p, err)
		}
		cmd.Process.Kill()
		for deadline := time.Now().Add(time.Minute); p.State != "Z"; {
			if p, err = ReadProcessStat(proc + "/stat"); err != nil || time.Now().After(deadline) {
				t.Errorf("%q: after its end: got %+v, %v", name, p, err)
				break
			}
		}
		cmd.Wait()
		if _, err := ReadProcessStat(proc + "/stat"); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			t.Errorf("%q: of no process: got error %v", name, err)
		}
	}
}
