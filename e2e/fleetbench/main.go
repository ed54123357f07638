// Fleetbench measures a fleet on one machine: many agents deploy one archive from one
// nginx, at once, with a random delay, with a limited bandwidth, and incrementally. It
// prints a table in Markdown. Run it in e2e/:
//
//	go run ./fleetbench [-agents N] [-delay TIME] [-bandwidth SIZE] [-dir DIR] [-update FILE]
//
// It builds the agent, or uses the one that STRETCHER_BIN names. All traffic is to
// 127.0.0.1, nothing takes longer than limit, and nothing is left when it ends.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher/e2e/bench/setup"
)

// limit is the time limit for all of it.
const limit = 10 * time.Minute

// These lines of a document surround what -update replaces.
const (
	begin = "<!-- make bench-fleet: begin -->\n"
	end   = "<!-- make bench-fleet: end -->\n"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		fmt.Fprintf(os.Stderr, "fleetbench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	agents := flag.Int("agents", 200, "number of agents")
	delay := flag.Duration("delay", 20*time.Second, "the random delay of the runs that have one")
	bandwidth := flag.String("bandwidth", "500kB", "the bandwidth of the runs that limit it")
	parent := flag.String("dir", setup.ParentDir(), "directory for the data, preferably on tmpfs")
	update := flag.String("update", "", "also replace the figures in this document")
	flag.Parse()
	if flag.NArg() > 0 || *agents < 1 || *agents > 1000 {
		return errors.New("usage: fleetbench [-agents N] [-delay TIME] [-bandwidth SIZE] [-dir DIR] [-update FILE], with N from 1 to 1000")
	}
	dir, err := os.MkdirTemp(*parent, "stretcher-fleetbench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := &fleet{dir: dir, agents: *agents}
	if f.agent, err = setup.Agent(ctx, "..", dir); err != nil {
		return err
	}
	if err := f.release(ctx); err != nil {
		return err
	}
	server, err := startNginx(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()

	var report bytes.Buffer
	machine, err := describeMachine()
	if err != nil {
		return err
	}
	fmt.Fprintf(&report, "%d agents. %s %s, %s.\n\n", f.agents, f.described, machine, time.Now().UTC().Format("2006-01-02"))
	report.WriteString("| run | downloads start, s | agents end, s: median, last | from the server | its peak rate | its peak connections | failed | memory of an agent: median, maximum | CPU time of an agent |\n")
	report.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	slow := []string{"-max-bandwidth", *bandwidth}
	late := []string{"-random-delay", delay.String()}
	for _, r := range []struct {
		name    string
		old     bool // the hosts have the release before
		options []string
	}{
		{"whole", false, nil},
		{"whole, `" + strings.Join(late, " ") + "`", false, late},
		{"whole, `" + strings.Join(slow, " ") + "`", false, slow},
		{"whole, both", false, append(slow, late...)},
		{"an upgrade, `-incremental=false`", true, []string{"-incremental=false"}},
		{"an upgrade", true, nil},
		{"an upgrade, `" + strings.Join(late, " ") + "`", true, late},
	} {
		fmt.Fprintf(os.Stderr, "%s: %s\n", time.Now().Format(time.TimeOnly), r.name)
		figures, err := f.measure(ctx, server, r.old, r.options)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Fprintf(&report, "| %s | %s |\n", r.name, figures)
	}
	fmt.Print(report.String())
	if *update != "" {
		return replace(*update, report.String())
	}
	return nil
}

// replace replaces the figures in a document.
func replace(path, figures string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+figures+end+after), 0o644)
}

// describeMachine describes this machine, and how busy it is before the runs.
func describeMachine() (string, error) {
	machine, err := setup.ThisMachine()
	if err != nil {
		return "", err
	}
	load, _, _ := strings.Cut(setup.LoadAverage(), " ")
	return fmt.Sprintf("All on one machine: %d cores (%s), %s, %s, load average %s before",
		machine.Cores, machine.Processor, machine.Memory, machine.Kernel, load), nil
}
