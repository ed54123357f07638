// Summary runs what a change must pass, prints what happens, and ends with a
// summary of it and one line with the numbers of passed, failed and skipped tests:
//
//	summary [-make TARGET,...] [-fuzz TIME [-jobs N]] [DIR...]
//
// First it makes the targets of the Makefile, and stops where one fails. Then it runs
// go test in the modules at the directories. -fuzz also runs the fuzz targets of the
// module in .. for TIME each, beside the tests of the last directory: those of e2e
// mostly wait. There are N of them at a time, each in one process with low priority.
// Beside tests, they start from their seeds alone, so that little time gives the same
// chances with any cache; else, from all that go test has found and kept.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() {
	targets := flag.String("make", "", "targets of the Makefile, separated by commas")
	fuzzTime := flag.Duration("fuzz", 0, "how long each fuzz target runs")
	jobs := flag.Int("jobs", runtime.NumCPU(), "how many fuzz targets run at a time")
	flag.Parse()

	s := &summary{w: os.Stdout}
	start := time.Now()
	run(s, strings.FieldsFunc(*targets, func(r rune) bool { return r == ',' }), flag.Args(), *fuzzTime, *jobs)
	s.print(time.Since(start))
	if !s.ok() {
		os.Exit(1)
	}
}

func run(s *summary, targets, dirs []string, fuzzTime time.Duration, jobs int) {
	for _, target := range targets {
		cmd := exec.Command("make", "-C", "..", "--no-print-directory", target)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if !s.phase("make "+target, func(p *phase) error { return cmd.Run() }) {
			return
		}
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	for i, dir := range dirs {
		if i == len(dirs)-1 && fuzzTime > 0 {
			beside.Go(func() { fuzzPhase(s, fuzzTime, jobs, false) })
		}
		s.phase("go test in "+moduleName(dir), func(p *phase) error { return testModule(dir, p) })
	}
	if len(dirs) == 0 && fuzzTime > 0 {
		fuzzPhase(s, fuzzTime, jobs, true)
	}
}

func fuzzPhase(s *summary, fuzzTime time.Duration, jobs int, resume bool) {
	name := fmt.Sprintf("fuzz targets, %s each, %d at a time", fuzzTime, jobs)
	s.phase(name, func(p *phase) error { return fuzzModule("..", fuzzTime, jobs, resume, p) })
}

// moduleName is the path of the module at dir, or dir.
func moduleName(dir string) string {
	cmd := exec.Command("go", "list", "-m")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return dir
	}
	return strings.TrimSpace(string(out))
}
