// Package setup has what the benchmarks of one machine need before they measure: the
// agent, a directory for the data, and a description of the machine.
package setup

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Agent returns the path of the agent to measure: the one that STRETCHER_BIN names, or
// else one that it builds in dir like make build, from the module at root.
func Agent(ctx context.Context, root, dir string) (string, error) {
	if path := os.Getenv("STRETCHER_BIN"); path != "" {
		return path, nil
	}
	path := filepath.Join(dir, "stretcher")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", root, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "./cmd/stretcher")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, bytes.TrimSpace(out))
	}
	return path, nil
}

// room is the space that the largest data needs: an archive of 1.6 GB, its tar, and
// three copies of its contents.
const room = 8 << 30

// ParentDir returns a directory for the directory of the data: a tmpfs if it has enough
// room, so that the speed of the disk does not matter.
func ParentDir() string {
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if err := syscall.Statfs(shm, &st); err == nil && int64(st.Bavail)*st.Bsize >= room {
		return shm
	}
	return os.TempDir()
}

// Machine describes a machine.
type Machine struct {
	Processor string // "unknown" on an architecture that does not name it
	Cores     int
	Memory    string
	Kernel    string
}

// ThisMachine describes the machine that this program runs on.
func ThisMachine() (Machine, error) {
	processor, err := field("/proc/cpuinfo", "model name")
	if err != nil {
		return Machine{}, err
	}
	memory, err := field("/proc/meminfo", "MemTotal")
	if err != nil {
		return Machine{}, err
	}
	var kib int64
	if _, err := fmt.Sscanf(memory, "%d kB", &kib); err != nil {
		return Machine{}, fmt.Errorf("parse /proc/meminfo: %w", err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		Processor: processor,
		Cores:     runtime.NumCPU(),
		Memory:    fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20)),
		Kernel:    "Linux " + strings.TrimSpace(string(kernel)),
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
	return "unknown", lines.Err()
}

// LoadAverage returns the load averages of the last 1, 5 and 15 minutes.
func LoadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
