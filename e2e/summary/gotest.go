package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
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

// testModule tests the packages of the module at dir. Cached results are not used,
// because the cache does not track the programs and servers that the tests run.
func testModule(dir string, p *phase) error {
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
	read := p.read(out)
	ran := cmd.Wait()
	if read == nil && p.passed+p.failed+p.skipped == 0 {
		read = errors.New("no tests")
	}
	return errors.Join(read, ran)
}

// read reads the events from r, prints the results of the packages and the output of
// failed and skipped tests, and counts them.
func (p *phase) read(r io.Reader) error {
	type test struct{ pkg, name string }
	output := map[test]*strings.Builder{} // of the tests that have not ended
	failed := map[string]int{}            // how many tests, by package
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
			p.s.printf("%s", line) // a line that is not from a test
			continue
		}
		t := test{e.Package, e.Test}
		if output[t] == nil {
			output[t] = &strings.Builder{}
		}
		switch e.Action {
		case "build-output":
			p.s.printf("%s", e.Output)
		case "output":
			output[t].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				if e.Action == "fail" {
					failed[e.Package]++
					p.s.printf("%s", output[t])
				}
				p.count(&e, output[t].String())
				delete(output, t)
				continue
			}
			if e.Action == "fail" && failed[e.Package] == 0 {
				p.failed++ // it does not build, or ended in the middle of a test
			}
			for open, text := range output {
				if open.pkg == e.Package {
					if e.Action == "fail" {
						p.s.printf("%s", text)
					}
					delete(output, open)
				}
			}
			p.s.printf("%s\t%s\t%.1fs\n", map[string]string{"pass": "ok", "fail": "FAIL", "skip": "no tests"}[e.Action], e.Package, e.Elapsed)
		}
	}
}

// count counts a test that has ended with output.
func (p *phase) count(e *event, output string) {
	name := path.Base(e.Package) + " " + e.Test
	if !strings.Contains(e.Test, "/") {
		p.tests = append(p.tests, timed{name, time.Duration(e.Elapsed * float64(time.Second))})
	}
	switch e.Action {
	case "pass":
		p.passed++
	case "fail":
		p.failed++
	case "skip":
		p.skipped++
		if top, seed, ok := strings.Cut(name, "/"); ok && strings.Contains(seed, "#") {
			name = top // a seed of a fuzz target
		}
		p.reasons[name+": "+skipReason(output)]++
	}
}

var skipLine = regexp.MustCompile(`(?m)^ *[A-Za-z0-9_]+\.go:[0-9]+: (.*)$`)

// skipReason returns what a skipped test has printed last.
func skipReason(output string) string {
	found := skipLine.FindAllStringSubmatch(output, -1)
	if len(found) == 0 {
		return "no reason given"
	}
	return found[len(found)-1][1]
}
