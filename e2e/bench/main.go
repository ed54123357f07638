// Bench compares the agent with the same work done by hand with curl, sha256sum,
// tar, and rsync or mv and ln: on the same data, in the same run, and in turn. Each
// part prints a table of medians and, if there is a target, whether it is met. Run
// it in e2e/:
//
//	go run ./bench [-runs N] [-only PART,...] [-dir DIR] [-strict]
//
// It builds the agent, or uses the one that STRETCHER_BIN names.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// room is the space that the largest part, memory, needs for two copies of the
// archive and two copies of its contents.
const room = 6 << 30

type part struct {
	name    string
	measure func(*bench, context.Context) error
}

var parts = []part{
	{"download", (*bench).download},
	{"deploy", (*bench).deploy},
	{"growth", (*bench).growth},
	{"memory", (*bench).memory},
	{"window", (*bench).window},
	{"flush", (*bench).flush},
	{"releases", (*bench).releases},
}

// bench holds the state that the parts share.
type bench struct {
	agent  string // path of the measured program
	runs   int
	dir    string // contains the data of one part, tmp and dest
	disk   string // contains dest instead, unless it is empty
	missed int    // number of missed targets
}

func main() {
	// The first signal ends the running part and cleans up.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	runs := flag.Int("runs", 5, "number of measurements of each command")
	only := flag.String("only", strings.Join(names, ","), "the parts to measure")
	parent := flag.String("dir", defaultDir(), "directory for the data, preferably on tmpfs")
	strict := flag.Bool("strict", false, "fail if a target is missed")
	flag.Parse()
	if flag.NArg() > 0 || *runs < 1 {
		return errors.New("usage: bench [-runs N] [-only PART,...] [-dir DIR] [-strict], with N of at least 1")
	}
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("unknown part %q: expected %s", name, strings.Join(names, ", "))
		}
	}
	for _, program := range []string{"curl", "gzip", "rsync", "sha256sum", "tar", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}

	dir, err := os.MkdirTemp(*parent, "stretcher-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{agent: os.Getenv("STRETCHER_BIN"), runs: *runs}
	if b.agent == "" {
		b.agent = filepath.Join(dir, "stretcher")
		if err := build(ctx, b.agent); err != nil {
			return err
		}
	}
	fmt.Printf("%d cores, %s %s/%s, in %s (%s)\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, dir, filesystem(dir))
	fmt.Printf("medians of %d alternating runs (minimum-maximum)\n", b.runs)
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		start := time.Now()
		fmt.Printf("\n== %s (load average %s)\n", p.name, loadAverage())
		if err := b.inOwnDir(ctx, dir, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Printf("took %s, load average %s\n", time.Since(start).Round(time.Second), loadAverage())
	}
	fmt.Printf("\n%d targets missed\n", b.missed)
	if *strict && b.missed > 0 {
		return fmt.Errorf("%d targets missed", b.missed)
	}
	return nil
}

// inOwnDir measures a part and removes its data before the next part starts.
func (b *bench) inOwnDir(ctx context.Context, parent string, p part) (err error) {
	b.dir = filepath.Join(parent, p.name)
	if err := os.MkdirAll(b.tmp(), 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return p.measure(b, ctx)
}

// build builds the agent like make build.
func build(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "..", "-trimpath", "-tags", "disable_grpc_modules", "-ldflags", "-s -w", "-o", to, "./cmd/stretcher")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// defaultDir returns a tmpfs if it has enough room, so that the speed of the disk
// does not matter.
func defaultDir() string {
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if err := syscall.Statfs(shm, &st); err == nil && int64(st.Bavail)*st.Bsize >= room {
		return shm
	}
	return os.TempDir()
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
