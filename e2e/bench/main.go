// Bench compares the agent with the same work done by hand with curl, sha256sum,
// tar, and rsync or mv and ln: on the same data, in the same run, and in turn. Each
// part prints a table of medians and, if there is a goal, whether it is met. Run it in
// e2e/:
//
//	go run ./bench [-runs N] [-only PART,...] [-page] [-docs DIR] [-dir DIR] [-strict]
//
// All parts together write docs/performance.md, its plots, and the figures that these
// are made of. With -only, parts are just printed, or with -page replaced in the page;
// -only= -page makes the page of the kept figures, for example with other words.
//
// It builds the agent, or uses the one that STRETCHER_BIN names.
package main

import (
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

	"github.com/fujiwara/stretcher/e2e/bench/report"
	"github.com/fujiwara/stretcher/e2e/bench/setup"
)

type part struct {
	name    string
	measure func(*bench, context.Context) error
}

var parts = []part{
	{"bytes", (*bench).bytes},
	{"network", (*bench).network},
	{"pack", (*bench).packing},
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
	commit string        // that is measured
	scale  int           // the data is a fraction of this, which is more than 1 in a test only
	pairs  []pair        // versions of real software
	cache  string        // directory in which they are kept
	dir    string        // contains the data of one part, tmp and dest
	disk   string        // contains dest instead, unless it is empty
	part   *report.Part  // the running part
	cpu    time.Duration // of the last command that was timed
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
	all := strings.Join(names, ",")
	runs := flag.Int("runs", 5, "number of measurements of each command")
	only := flag.String("only", all, "the parts to measure")
	parent := flag.String("dir", setup.ParentDir(), "directory for the data, preferably on tmpfs")
	docs := flag.String("docs", "../docs", "directory of the page")
	page := flag.Bool("page", false, "with -only: put the parts into the page; all parts always make a new one")
	strict := flag.Bool("strict", false, "fail if a goal is missed")
	flag.Parse()
	if flag.NArg() > 0 || *runs < 1 {
		return errors.New("usage: bench [-runs N] [-only PART,...] [-page] [-docs DIR] [-dir DIR] [-strict], with N of at least 1")
	}
	wanted := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
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
	writes := *only == all || *page
	r := &report.Report{}
	if *only != all {
		if r, err = report.Read(*docs); err != nil {
			return err
		}
	}
	machine, err := machineFacts(dir)
	if err != nil {
		return err
	}
	if *page && len(wanted) > 0 && len(r.Parts) > 0 && !slices.Equal(machine, r.Machine) {
		return fmt.Errorf("the page in %s has the figures of another machine: measure all parts, or leave -page out", *docs)
	}
	if len(wanted) > 0 {
		r.Machine = machine
	}

	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	b := &bench{runs: *runs, scale: 1, commit: commit(ctx), cache: filepath.Join(cache, "stretcher-bench")}
	b.pairs = pairs(ctx, b.cache)
	if len(wanted) > 0 {
		if b.agent, err = setup.Agent(ctx, "..", dir); err != nil {
			return err
		}
	}
	fmt.Printf("%d cores, %s %s/%s, in %s (%s)\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, dir, filesystem(dir))
	fmt.Printf("medians of %d alternating runs (minimum-maximum)\n", b.runs)
	var failed []string
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		if err := b.measure(ctx, dir, p); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// The figures of the other parts are worth having.
			fmt.Printf("%s failed: %v\n", p.name, err)
			failed = append(failed, p.name)
		}
		r.Replace(b.part, names)
		// After each part, so that what was measured is not lost if a later one is interrupted.
		if writes {
			if err := r.Write(*docs); err != nil {
				return err
			}
		}
	}
	if writes && len(wanted) == 0 {
		if err := r.Write(*docs); err != nil {
			return err
		}
	}
	missed, notMeasured := r.Count(wanted)
	fmt.Printf("\n%d goals missed, %d not measured\n", missed, notMeasured)
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	if *strict && missed+notMeasured > 0 {
		return fmt.Errorf("%d goals missed, %d not measured", missed, notMeasured)
	}
	return nil
}

// measure measures a part, of which b.part has the figures afterwards.
func (b *bench) measure(ctx context.Context, dir string, p part) error {
	start := time.Now()
	b.part = report.NewPart(p.name)
	b.part.Began, b.part.Load, b.part.Commit, b.part.Runs = start.UTC().Truncate(time.Second), setup.LoadAverage(), b.commit, b.runs
	fmt.Printf("\n== %s (load average %s)\n", p.name, b.part.Load)
	err := b.inOwnDir(ctx, dir, p)
	if err != nil {
		b.part.Problem = "this part of the bench failed; its output says why"
	}
	b.part.Took = time.Since(start).Round(time.Second).String()
	fmt.Printf("took %s, load average %s\n", b.part.Took, setup.LoadAverage())
	return err
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
