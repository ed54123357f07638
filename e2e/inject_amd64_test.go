package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// A fault is injected by seccomp's user notification (seccomp_unotify(2)): the
// kernel asks this process about each call of the agent, and the answer is either
// to go on or an error. strace -e inject=CALL:error=E:when=N cannot be used: it
// counts the calls of each thread, and goroutines move from thread to thread, so N
// would not be a point in the deployment.

// fsCall is a system call on files.
type fsCall struct {
	name    string
	nr      uintptr
	dir     int  // index of the argument that is a directory, or an open file; -1 if there is none
	path    int  // index of the argument that is a path; -1 if there is none
	changes bool // whether it may change something, and so fail with ENOSPC
}

// fsCalls are all that the agent uses, except close: after an error of it, a file
// is closed nevertheless, which cannot be simulated without the call.
var fsCalls = []fsCall{
	{"openat", syscall.SYS_OPENAT, 0, 1, true},
	{"read", syscall.SYS_READ, 0, -1, false},
	{"pread64", syscall.SYS_PREAD64, 0, -1, false},
	{"write", syscall.SYS_WRITE, 0, -1, true},
	{"pwrite64", syscall.SYS_PWRITE64, 0, -1, true},
	{"lseek", syscall.SYS_LSEEK, 0, -1, false},
	{"ftruncate", syscall.SYS_FTRUNCATE, 0, -1, true},
	{"fallocate", syscall.SYS_FALLOCATE, 0, -1, true},
	{"copy_file_range", 326, 0, -1, true},
	{"getdents64", syscall.SYS_GETDENTS64, 0, -1, false},
	{"fstat", syscall.SYS_FSTAT, 0, -1, false},
	{"stat", syscall.SYS_STAT, -1, 0, false},
	{"lstat", syscall.SYS_LSTAT, -1, 0, false},
	{"newfstatat", syscall.SYS_NEWFSTATAT, 0, 1, false},
	{"statx", 332, 0, 1, false},
	{"statfs", syscall.SYS_STATFS, -1, 0, false},
	{"fstatfs", syscall.SYS_FSTATFS, 0, -1, false},
	{"access", syscall.SYS_ACCESS, -1, 0, false},
	{"faccessat", syscall.SYS_FACCESSAT, 0, 1, false},
	{"faccessat2", 439, 0, 1, false},
	{"readlink", syscall.SYS_READLINK, -1, 0, false},
	{"readlinkat", syscall.SYS_READLINKAT, 0, 1, false},
	{"mkdir", syscall.SYS_MKDIR, -1, 0, true},
	{"mkdirat", syscall.SYS_MKDIRAT, 0, 1, true},
	{"mknodat", syscall.SYS_MKNODAT, 0, 1, true},
	{"symlinkat", syscall.SYS_SYMLINKAT, 1, 2, true},
	{"linkat", syscall.SYS_LINKAT, 0, 1, true},
	{"rename", syscall.SYS_RENAME, -1, 0, true},
	{"renameat", syscall.SYS_RENAMEAT, 0, 1, true},
	{"renameat2", 316, 0, 1, true},
	{"unlink", syscall.SYS_UNLINK, -1, 0, true},
	{"rmdir", syscall.SYS_RMDIR, -1, 0, true},
	{"unlinkat", syscall.SYS_UNLINKAT, 0, 1, true},
	{"chmod", syscall.SYS_CHMOD, -1, 0, true},
	{"fchmod", syscall.SYS_FCHMOD, 0, -1, true},
	{"fchmodat", syscall.SYS_FCHMODAT, 0, 1, true},
	{"fchown", syscall.SYS_FCHOWN, 0, -1, true},
	{"fchownat", syscall.SYS_FCHOWNAT, 0, 1, true},
	{"utimensat", syscall.SYS_UTIMENSAT, 0, 1, true},
	{"fgetxattr", syscall.SYS_FGETXATTR, 0, -1, false},
	{"fsetxattr", syscall.SYS_FSETXATTR, 0, -1, true},
	{"fremovexattr", syscall.SYS_FREMOVEXATTR, 0, -1, true},
	{"ioctl", syscall.SYS_IOCTL, 0, -1, false},
	{"flock", syscall.SYS_FLOCK, 0, -1, false},
	{"fsync", syscall.SYS_FSYNC, 0, -1, true},
	{"syncfs", 306, 0, -1, true},
}

// notified is struct seccomp_notif.
type notified struct {
	id     uint64
	pid    uint32
	flags  uint32
	nr     int32
	arch   uint32
	ip     uint64
	values [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

const (
	notifyReceive  = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	launchVariable = "STRETCHER_TEST_LAUNCH"
)

// init turns this program into the agent if the variable says so. From then on,
// the kernel notifies the process at the other end of the socket 3 of the calls.
func init() {
	program := os.Getenv(launchVariable)
	if program == "" {
		return
	}
	runtime.LockOSThread()
	fmt.Fprintln(os.Stderr, "launch:", becomeAgent(program))
	os.Exit(99)
}

// becomeAgent returns only on an error.
func becomeAgent(program string) error {
	const load, equal, ret = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, syscall.BPF_RET | syscall.BPF_K
	const allow, notify = 0x7fff0000, 0x7fc00000 // SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF
	const amd64 = 0xc000003e                     // AUDIT_ARCH_X86_64
	filter := []syscall.SockFilter{{Code: load, K: 4}, {Code: equal, K: amd64, Jt: 1}, {Code: ret, K: allow}, {Code: load, K: 0}}
	for _, c := range fsCalls {
		filter = append(filter, syscall.SockFilter{Code: equal, K: uint32(c.nr), Jf: 1}, syscall.SockFilter{Code: ret, K: notify})
	}
	filter = append(filter, syscall.SockFilter{Code: ret, K: allow})
	prog := syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setNoNewPrivs, seccomp, setModeFilter, newListener = 38, 317, 1, 8
	if _, _, err := syscall.RawSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0); err != 0 {
		return err
	}
	env := os.Environ()
	listener, _, errno := syscall.RawSyscall(seccomp, setModeFilter, newListener, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := syscall.Sendmsg(3, []byte("listener"), syscall.UnixRights(int(listener)), nil, 0); err != nil {
		return err
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(int(listener))
	return syscall.Exec(program, []string{program}, env)
}

// injector watches the calls of an agent on files of its site, and makes at most
// one of them fail.
type injector struct {
	call  string        // "" for none
	when  int           // which one is to fail; the first is 1
	err   syscall.Errno // the error
	below []string      // only calls on paths that begin with one of these count

	mu     sync.Mutex
	counts map[string]int // how many such calls there were
	hit    string         // the path of the call that failed; "" if there was none
	ended  chan struct{}
}

// startInjected starts the agent with faults.
func (s *site) startInjected(in *injector, url string) *running {
	s.t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer syscall.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	cmd := s.command(selfPath(s.t))
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], launchVariable+"="+plainPath(s.t))
	cmd.ExtraFiles = []*os.File{theirs}
	r := s.startCommand(cmd, url)
	theirs.Close()
	buf, control := make([]byte, 16), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := syscall.Recvmsg(pair[0], buf, control, syscall.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		s.t.Skipf("this system does not allow seccomp's notification: %v: %s", err, r.wait().log)
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil {
		s.t.Fatal(err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		s.t.Fatal(err)
	}
	in.counts, in.ended = map[string]int{}, make(chan struct{})
	go in.serve(fds[0], cmd)
	return r
}

func selfPath(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// serve answers until all processes with the filter have ended.
func (in *injector) serve(listener int, agent *exec.Cmd) {
	defer close(in.ended)
	defer syscall.Close(listener)
	type pollFD struct {
		fd              int32
		events, revents int16
	}
	const pollIn, pollHangup = 1, 0x10
	for {
		p := pollFD{fd: int32(listener), events: pollIn}
		_, _, errno := syscall.Syscall(syscall.SYS_POLL, uintptr(unsafe.Pointer(&p)), 1, uintptr((10 * time.Second).Milliseconds()))
		if errno != 0 && errno != syscall.EINTR {
			return
		}
		if p.revents&pollIn == 0 {
			if p.revents&pollHangup != 0 {
				return
			}
			continue
		}
		var n notified
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), notifyReceive, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // the thread was killed meanwhile
		}
		const goOn = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
		a := answer{id: n.id, flags: goOn}
		if err := in.decide(&n, agent.Process.Pid); err != 0 {
			a.flags, a.err = 0, -int32(err)
		}
		syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), notifySend, uintptr(unsafe.Pointer(&a))) // fails if the thread is gone
	}
}

// decide returns the error for a call, or 0.
func (in *injector) decide(n *notified, agent int) syscall.Errno {
	// The threads of the agent are in its directory of /proc, those of its commands
	// are not.
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/task/%d", agent, n.pid)); err != nil {
		return 0
	}
	var call fsCall
	for _, c := range fsCalls {
		if c.nr == uintptr(n.nr) {
			call = c
		}
	}
	path := n.pathOf(call)
	relevant := false
	for _, prefix := range in.below {
		relevant = relevant || strings.HasPrefix(path, prefix)
	}
	if !relevant {
		return 0
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.counts[call.name]++
	if call.name != in.call || in.counts[call.name] != in.when {
		return 0
	}
	in.hit = path
	return in.err
}

// pathOf returns the path of what a call is about.
func (n *notified) pathOf(c fsCall) string {
	name := ""
	if c.path >= 0 {
		name = readString(n.pid, n.values[c.path])
	}
	if strings.HasPrefix(name, "/") || c.dir < 0 {
		if fd, ok := strings.CutPrefix(name, "/proc/self/fd/"); ok {
			fd, rest, _ := strings.Cut(fd, "/")
			return filepath.Join(descriptor(n.pid, fd), rest)
		}
		return name
	}
	fd := "cwd"
	if d := int32(n.values[c.dir]); d >= 0 {
		fd = strconv.Itoa(int(d))
	}
	return filepath.Join(descriptor(n.pid, fd), name)
}

func descriptor(pid uint32, fd string) string {
	link := fmt.Sprintf("/proc/%d/fd/%s", pid, fd)
	if fd == "cwd" {
		link = fmt.Sprintf("/proc/%d/cwd", pid)
	}
	path, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	return path
}

// readString reads a string of at most 4 KiB from the memory of a process.
func readString(pid uint32, address uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, 4096)
	n, err := mem.ReadAt(buf, int64(address))
	if n == 0 && err != nil {
		// The string may be at the end of what is mapped.
		n, _ = mem.ReadAt(buf[:4096-address%4096], int64(address))
	}
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}

// TestInjector makes sure that a fault reaches the agent, and only it.
func TestInjector(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	url := s.publish("app", tortured(10, false)[0].pack(t), "sync_strategy: builtin", s.hooks())
	in := &injector{call: "syncfs", when: 2, err: syscall.EIO, below: []string{s.dir}}
	s.startInjected(in, url).wait().wantFailure("flush to disk: input/output error", "the new files are in place")
	<-in.ended
	if in.hit != s.dest {
		t.Errorf("failed for %q, want %q", in.hit, s.dest)
	}
	s.wantFailureCommands(1)
	t.Logf("calls: %v", in.counts)
}
