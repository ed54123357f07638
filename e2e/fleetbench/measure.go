package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// figures are the cells of a run.
type figures []string

func (f figures) String() string { return strings.Join(f, " | ") }

// measure starts all agents at once and waits until they have ended.
func (f *fleet) measure(ctx context.Context, server *nginx, old bool, options []string) (figures, error) {
	if err := f.served("http://" + server.addr); err != nil {
		return nil, err
	}
	hosts := f.path("hosts")
	defer os.RemoveAll(hosts) // main removes what is left, and tells if it cannot
	agents := make([]*agent, f.agents)
	for i := range agents {
		a := &agent{dir: filepath.Join(hosts, fmt.Sprint(i))}
		if err := os.MkdirAll(filepath.Join(a.dir, "tmp"), 0o755); err != nil {
			return nil, err
		}
		if old {
			if err := os.CopyFS(filepath.Join(a.dir, "dest"), os.DirFS(f.path("one"))); err != nil {
				return nil, err
			}
		}
		agents[i] = a
	}
	info, err := os.Stat(server.log)
	if err != nil {
		return nil, err
	}
	stopWatching := server.watchConnections()

	begin := time.Now()
	var wait sync.WaitGroup
	for _, a := range agents {
		a.start(ctx, f.agent, "http://"+server.addr+"/app.yml", options)
		wait.Go(a.wait)
	}
	wait.Wait()
	connections, err := stopWatching()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	requests, err := server.requests(info.Size())
	if err != nil {
		return nil, err
	}

	var failed int
	var ends, cpu []float64
	var memory []int
	for _, a := range agents {
		if err := a.check(f.sum); err != nil {
			if failed++; failed == 1 {
				fmt.Fprintf(os.Stderr, "an agent failed: %v\n%s\n", err, a.log.Bytes())
			}
			continue
		}
		ends = append(ends, a.end.Sub(begin).Seconds())
		cpu = append(cpu, (a.cmd.ProcessState.UserTime() + a.cmd.ProcessState.SystemTime()).Seconds())
		memory = append(memory, a.memory)
	}
	if len(ends) == 0 {
		return nil, errors.New("all agents have failed")
	}
	var starts []float64
	var sent float64
	for _, r := range requests {
		sent += r.bytes
		if strings.HasSuffix(r.path, ".tar.zst") {
			starts = append(starts, r.end-r.took-float64(begin.UnixMilli())/1000)
		}
	}
	slices.Sort(starts)
	slices.Sort(ends)
	slices.Sort(memory)
	slices.Sort(cpu)
	return figures{
		fmt.Sprintf("%.1f to %.1f", starts[0], starts[len(starts)-1]),
		fmt.Sprintf("%.1f, %.1f", ends[len(ends)/2], ends[len(ends)-1]),
		size(int64(sent)),
		size(int64(peakRate(requests))) + "/s",
		fmt.Sprint(connections),
		fmt.Sprint(failed),
		fmt.Sprintf("%d, %d MiB", memory[len(memory)/2]>>10, memory[len(memory)-1]>>10),
		fmt.Sprintf("%.2f s", cpu[len(cpu)/2]),
	}, nil
}

// agent is one of the fleet's agents.
type agent struct {
	dir    string
	cmd    *exec.Cmd
	log    bytes.Buffer
	err    error
	end    time.Time
	memory int // the most that it used, in KiB
}

func (a *agent) start(ctx context.Context, program, url string, options []string) {
	a.cmd = exec.CommandContext(ctx, program, append([]string{"-retry", "3"}, options...)...)
	a.cmd.Stdin = strings.NewReader(url + "\n")
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	a.cmd.Dir = a.dir
	a.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + a.dir,
		"TMPDIR=" + filepath.Join(a.dir, "tmp"),
		"FLEET_DEST=" + filepath.Join(a.dir, "dest"),
		"GORACE=atexit_sleep_ms=0",
	}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// An agent that is told to stop cleans up.
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(syscall.SIGTERM) }
	a.cmd.WaitDelay = 15 * time.Second
	a.err = a.cmd.Start()
}

func (a *agent) wait() {
	if a.err == nil {
		a.err = a.cmd.Wait()
	}
	a.end = time.Now()
}

// check returns an error if the agent has failed, or if it has not deployed what has
// this digest.
func (a *agent) check(sum [32]byte) error {
	if a.err != nil {
		return a.err
	}
	got, err := contents(filepath.Join(a.dir, "dest"))
	if err != nil {
		return err
	}
	if got != sum {
		return errors.New("dest is not the release")
	}
	memory, err := os.ReadFile(filepath.Join(a.dir, "dest.memory"))
	if err != nil {
		return err
	}
	if _, err := fmt.Sscanf(string(memory), "VmHWM: %d kB", &a.memory); err != nil {
		return fmt.Errorf("%w: %q", err, memory)
	}
	return nil
}
