package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fuzzModule runs each fuzz target of the module at dir for a time, jobs of them at
// once. Each package is compiled once, while the targets of earlier ones run. If resume
// is set, the targets start from the inputs that earlier runs have found as well.
func fuzzModule(dir string, each time.Duration, jobs int, resume bool, p *phase) error {
	packages, err := fuzzPackages(dir)
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "stretcher-fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	found := bin
	if resume { // from where go test keeps them
		cache, err := command(dir, "go", "env", "GOCACHE").Output()
		if err != nil {
			return fmt.Errorf("go env GOCACHE: %w", err)
		}
		found = filepath.Join(strings.TrimSpace(string(cache)), "fuzz")
	}
	var work sync.WaitGroup
	defer work.Wait() // before the binaries are removed
	free := make(chan struct{}, jobs)
	for i, pkg := range packages {
		binary := filepath.Join(bin, strconv.Itoa(i))
		if out, err := command(pkg.dir, "go", "test", "-c", "-fuzz=.", "-o", binary).CombinedOutput(); err != nil {
			return fmt.Errorf("compile the fuzz targets of %s: %w\n%s", pkg.path, err, out)
		}
		for _, target := range pkg.targets {
			free <- struct{}{}
			work.Go(func() {
				defer func() { <-free }()
				p.fuzz(pkg, target, each, binary, filepath.Join(found, pkg.path))
			})
		}
	}
	return nil
}

// command returns a command with low priority, since the tests that run at the same
// time have deadlines. It is not the lowest one: the fuzzing engine takes an input that
// needs more than 10 seconds for one that hangs.
func command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nice", append([]string{"-n", "10", name}, args...)...)
	cmd.Dir = dir
	return cmd
}

type fuzzPackage struct {
	path, dir string
	targets   []string
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// fuzzPackages lists the packages of the module at dir that have fuzz targets.
func fuzzPackages(dir string) ([]fuzzPackage, error) {
	const format = `{{.ImportPath}}{{"\t"}}{{.Dir}}{{range .TestGoFiles}}{{"\t"}}{{.}}{{end}}{{range .XTestGoFiles}}{{"\t"}}{{.}}{{end}}`
	list, err := command(dir, "go", "list", "-f", format, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []fuzzPackage
	for line := range strings.Lines(string(list)) {
		words := strings.Split(strings.TrimSpace(line), "\t")
		pkg := fuzzPackage{path: words[0], dir: words[1]}
		for _, file := range words[2:] {
			source, err := os.ReadFile(filepath.Join(pkg.dir, file))
			if err != nil {
				return nil, err
			}
			for _, match := range fuzzFunc.FindAllSubmatch(source, -1) {
				pkg.targets = append(pkg.targets, string(match[1]))
			}
		}
		if len(pkg.targets) > 0 {
			packages = append(packages, pkg)
		}
	}
	if len(packages) == 0 {
		return nil, errors.New("no fuzz targets")
	}
	return packages, nil
}

// fuzz runs a target and counts it as one test. Its output is printed if it fails, which
// it also does if it has tried nothing, as happens if its seeds take all the time.
func (p *phase) fuzz(pkg fuzzPackage, target string, each time.Duration, binary, inputs string) {
	// By default, minimizing an interesting input takes up to a minute, during which
	// nothing else is tried.
	cmd := command(pkg.dir, binary, "-test.run=^$", "-test.fuzz=^"+target+"$", "-test.fuzztime="+each.String(),
		"-test.fuzzminimizetime=10x", "-test.fuzzcachedir="+inputs, "-test.parallel=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := runWithin(cmd, 3*each+2*time.Minute)
	if endedLate(out.String()) {
		err = nil
	}
	tried := executions(out.String())
	if err == nil && tried == 0 {
		err = errors.New("it has tried no input")
	}
	name := path.Base(pkg.path) + " " + target
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.fuzzed = append(p.fuzzed, fuzzed{name, tried})
	if err != nil {
		p.failed++
		fmt.Fprintf(p.s.w, "%s\nFAIL\t%s: %v\n", out.String(), name, err)
		return
	}
	p.passed++
	fmt.Fprintf(p.s.w, "ok\t%s\t%d inputs\n", name, tried)
}

// runWithin runs a command in its own process group, which is killed at the end of a
// time.
func runWithin(cmd *exec.Cmd, limit time.Duration) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !stop() {
		return fmt.Errorf("it has not ended after %s", limit)
	}
	return err
}

var progressLine = regexp.MustCompile(`(?m)^fuzz: elapsed: .* execs: (\d+)`)

// executions returns how many inputs a target tried, by its output.
func executions(output string) int {
	found := progressLine.FindAllStringSubmatch(output, -1)
	if len(found) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(found[len(found)-1][1]) // digits; more than fit are not reached
	return n
}

// endedLate returns whether a target failed only because its time ended while an input
// was tried, as may happen before Go 1.27 (https://go.dev/issue/75804).
func endedLate(output string) bool {
	_, failure, ok := strings.Cut("\n"+output, "\n--- FAIL: ")
	lines := strings.Split(failure, "\n")
	return ok && len(lines) > 1 && lines[1] == "    context deadline exceeded" && !strings.Contains(output, "Failing input written to")
}
