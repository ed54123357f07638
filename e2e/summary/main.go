// Summary runs go test in the modules at the given directories:
//
//	summary DIR...
//
// It prints a line for each package, the output of the tests that failed, and
// finally one line with the numbers of passed, failed and skipped tests.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type counts struct{ passed, failed, skipped int }

func main() {
	start := time.Now()
	var total counts
	ok := true
	for _, dir := range os.Args[1:] {
		if err := runModule(dir, &total); err != nil {
			fmt.Fprintf(os.Stderr, "go test in %s: %v\n", dir, err)
			ok = false
		}
	}
	fmt.Printf("total time %s\n", time.Since(start).Round(time.Second))
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	if !ok || total.failed > 0 || total.passed == 0 {
		os.Exit(1)
	}
}

// runModule tests the packages of one module and adds their results to total.
// Cached results are not used, because the cache does not track the programs and
// servers that the tests run.
func runModule(dir string, total *counts) error {
	cmd := exec.Command("go", "test", "-json", "-race", "-count=1", "-timeout=45m", "./...")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	read := report(out, os.Stdout, total)
	if err := cmd.Wait(); err != nil {
		return err
	}
	return read
}

// report reads the events from r, prints the results of the packages and the
// output of failed and skipped tests to w, and counts the tests in total.
func report(r io.Reader, w io.Writer, total *counts) error {
	type test struct{ pkg, name string }
	output := map[test]*strings.Builder{} // of the tests that are still running
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			fmt.Fprintf(w, "%s", line) // a line that is not from a test
			continue
		}
		t := test{e.Package, e.Test}
		if output[t] == nil {
			output[t] = &strings.Builder{}
		}
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			output[t].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Action == "fail" || e.Action == "skip" && e.Test != "" {
				fmt.Fprint(w, output[t]) // for a skipped test, this is the reason
			}
			delete(output, t)
			if e.Test == "" {
				fmt.Fprintf(w, "%s\t%s\t%.1fs\n", map[string]string{"pass": "ok", "fail": "FAIL", "skip": "no tests"}[e.Action], e.Package, e.Elapsed)
				continue
			}
			switch e.Action {
			case "pass":
				total.passed++
			case "fail":
				total.failed++
			case "skip":
				total.skipped++
			}
		}
	}
}
