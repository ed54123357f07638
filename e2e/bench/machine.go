package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/fujiwara/stretcher/e2e/bench/report"
)

// machineFacts describes the machine on which the data is in dir.
func machineFacts(dir string) ([]report.Fact, error) {
	processor, err := field("/proc/cpuinfo", "model name")
	if err != nil {
		return nil, err
	}
	memory, err := field("/proc/meminfo", "MemTotal")
	if err != nil {
		return nil, err
	}
	var kib int64
	if _, err := fmt.Sscanf(memory, "%d kB", &kib); err != nil {
		return nil, fmt.Errorf("parse /proc/meminfo: %w", err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	return []report.Fact{
		{Name: "Processor", Value: processor},
		{Name: "Cores", Value: fmt.Sprint(runtime.NumCPU())},
		{Name: "Memory", Value: fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))},
		{Name: "Kernel", Value: "Linux " + strings.TrimSpace(string(kernel))},
		{Name: "File system", Value: filesystem(dir)},
		{Name: "Go", Value: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH},
	}, nil
}

// field returns the value after the first name and colon in a file of /proc.
func field(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	// Not every architecture names its processor.
	return "unknown", lines.Err()
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
	return "not tmpfs: the targets are for tmpfs"
}

// loadAverage returns the load averages of the last 1, 5 and 15 minutes.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
