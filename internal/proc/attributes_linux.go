package proc

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes returns those of a command. If this process is killed, the kernel kills
// the command too, so that it does not interfere with the deployment that repairs
// this one. That signal is sent when the thread that started the command ends
// (prctl(2), PR_SET_PDEATHSIG), so the thread has to last as long as the command.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// unread returns how many bytes are in a pipe. It holds 64 KiB or more, as the kernel
// and the command want it (pipe(7)).
func unread(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }
