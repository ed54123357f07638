package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/fujiwara/stretcher/e2e/bench/report"
	"github.com/fujiwara/stretcher/e2e/bench/setup"
)

// machineFacts describes the machine on which the data is in dir.
func machineFacts(dir string) ([]report.Fact, error) {
	machine, err := setup.ThisMachine()
	if err != nil {
		return nil, err
	}
	return []report.Fact{
		{Name: "Processor", Value: machine.Processor},
		{Name: "Cores", Value: fmt.Sprint(machine.Cores)},
		{Name: "Memory", Value: machine.Memory},
		{Name: "Kernel", Value: machine.Kernel},
		{Name: "File system", Value: filesystem(dir)},
		{Name: "Go", Value: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH},
	}, nil
}

// commit returns the commit of the working tree, and whether it has other changes.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=, with changes").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func filesystem(dir string) string {
	const tmpfs = 0x01021994 // TMPFS_MAGIC of linux/magic.h
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err == nil && st.Type == tmpfs {
		return "tmpfs"
	}
	return "not tmpfs: the goals are for tmpfs"
}
