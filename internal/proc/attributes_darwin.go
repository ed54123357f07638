package proc

import "syscall"

// attributes returns those of a command, which goes on if this process is killed.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
