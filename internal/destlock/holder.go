package destlock

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
	"golang.org/x/sys/unix"
)

// holder is what a lock file tells about who holds it.
type holder struct {
	pid   int    // 0 is unknown
	since string // a time as in RFC 3339, or "unknown"
}

// writeHolder writes into the lock file f that this process holds it.
func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "%d %s\n", os.Getpid(), time.Now().Format(time.RFC3339))
	return err
}

// readHolder reads what writeHolder has written. Without a complete line, the
// holder is unknown.
func readHolder(f *os.File) holder {
	buf := make([]byte, 128)
	n, _ := f.ReadAt(buf, 0) // always io.EOF, as the line is shorter
	line, _, complete := strings.Cut(string(buf[:n]), "\n")
	pid, since, _ := strings.Cut(line, " ")
	number, err := strconv.Atoi(pid)
	if !complete || err != nil {
		return holder{since: "unknown"}
	}
	return holder{number, since}
}

// orLocker returns h, or the process that locked f according to the kernel if h
// does not tell one that lives. A process of another PID namespace stays unknown.
func (h holder) orLocker(f *os.File) holder {
	if h.lives() {
		return h
	}
	info, err := f.Stat()
	if err != nil {
		return h
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return h // not mounted, or hidden by a sandbox
	}
	st := info.Sys().(*syscall.Stat_t)
	if pid := lockerOf(string(locks), st.Dev, st.Ino); pid > 0 {
		return holder{pid, "unknown"}
	}
	return h
}

// lockerOf finds the process that holds a flock(2) in the text of /proc/locks
// (proc_locks(5)), whose lines are:
//
//	1: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF
//
// The numbers are the process ID, the major and minor device number in hex and
// the inode. A line of a process that waits has "->" after the first number. The
// result is 0 where there is no such lock.
func lockerOf(locks string, device, inode uint64) int {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(device), unix.Minor(device), inode)
	for line := range strings.Lines(locks) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil {
			return max(pid, 0)
		}
	}
	return 0
}

func (h holder) name() string {
	if h.pid == 0 {
		return "unknown"
	}
	return strconv.Itoa(h.pid)
}

func (h holder) lives() bool {
	return h.pid > 0 && unix.Kill(h.pid, 0) != unix.ESRCH
}

// isAncestor reports whether this process descends from pid, which is 1 if the agent
// is the first process of a container. It does not descend from itself: another
// deployment of the same process goes on without this one.
func isAncestor(pid int) bool {
	for p := os.Getppid(); p > 0; {
		if p == pid {
			return true
		}
		stat, err := unixfs.ReadProcessStat(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			return false
		}
		p = stat.Parent
	}
	return false
}

// hasOpen reports whether the process pid has opened the file f of this user, or may
// have: some processes let nobody see that. A holder in another container has written
// the pid that it has there, which is another process here.
func hasOpen(pid int, f *os.File) bool {
	process := fmt.Sprintf("/proc/%d", pid)
	if info, err := os.Stat(process); err != nil || unixfs.OwnerOf(info) != os.Geteuid() {
		return false // another user, whom hidepid= may hide, has other locks
	}
	dir := process + "/fd"
	descriptors, err := os.ReadDir(dir)
	if err != nil {
		return true
	}
	info, err := f.Stat()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(descriptors, func(d fs.DirEntry) bool {
		link := filepath.Join(dir, d.Name())
		// stat(2) of any other file could wait for a server.
		target, err := os.Readlink(link)
		if err != nil || filepath.Base(target) != filepath.Base(f.Name()) {
			return false
		}
		opened, err := os.Stat(link)
		return err == nil && os.SameFile(info, opened)
	})
}
