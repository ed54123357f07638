package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// summaryOf runs do as the only phase, and returns what has been printed.
func summaryOf(t *testing.T, do func(p *phase) error) (string, *summary) {
	t.Helper()
	var out strings.Builder
	s := &summary{w: &out}
	s.phase("the phase", do)
	s.print(90 * time.Second)
	return out.String(), s
}

func expect(t *testing.T, out string, parts ...string) {
	t.Helper()
	rest := out
	for _, part := range parts {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			t.Fatalf("expected %q, in this order, in:\n%s", part, out)
		}
		rest = after
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	out, s := summaryOf(t, func(p *phase) error {
		return p.read(strings.NewReader(`{"Action":"start","Package":"m/p"}
{"Action":"output","Package":"m/p","Test":"TestA","Output":"not shown\n"}
{"Action":"pass","Package":"m/p","Test":"TestA","Elapsed":1.5}
{"Action":"output","Package":"m/p","Test":"TestB","Output":"    b_test.go:7: it was 2\n"}
{"Action":"fail","Package":"m/p","Test":"TestB","Elapsed":2.5}
{"Action":"output","Package":"m/p","Test":"FuzzC/seed#1","Output":"    c_test.go:1: not for root\n"}
{"Action":"skip","Package":"m/p","Test":"FuzzC/seed#1"}
{"Action":"output","Package":"m/p","Test":"FuzzC/seed#2","Output":"    c_test.go:1: not for root\n"}
{"Action":"skip","Package":"m/p","Test":"FuzzC/seed#2"}
{"Action":"fail","Package":"m/p","Elapsed":4}
`))
	})
	if strings.Contains(out, "not shown") {
		t.Errorf("the output of a test that passed is printed:\n%s", out)
	}
	expect(t, out, "it was 2", "FAIL\tm/p\t4.0s",
		"what ran:", "the phase  1 passed, 1 failed, 2 skipped",
		"skipped:", "p FuzzC: not for root (2 times)",
		"slowest tests:", "2.5s  p TestB", "1.5s  p TestA",
		"total time 1m30s\n1 passed, 1 failed, 2 skipped\n")
	if s.ok() {
		t.Error("it counts as success")
	}
}

// A package that does not build, or in which a test ends the process, is a failure, and
// what that test printed is shown.
func TestSummaryOfBrokenPackages(t *testing.T) {
	t.Parallel()
	out, _ := summaryOf(t, func(p *phase) error {
		return errors.Join(p.read(strings.NewReader(`{"ImportPath":"m/a","Action":"build-output","Output":"a.go:1: no\n"}
{"Action":"fail","Package":"m/a","FailedBuild":"m/a"}
{"Action":"output","Package":"m/b","Test":"TestB","Output":"panic: of B\n"}
{"Action":"fail","Package":"m/b"}
`)), errors.New("exit status 1"))
	})
	expect(t, out, "a.go:1: no", "FAIL\tm/a", "panic: of B", "FAIL\tm/b", "0 passed, 2 failed, 0 skipped\n")
}

// A phase that fails counts as one failure, and one without tests is not listed with
// numbers.
func TestSummaryOfPhases(t *testing.T) {
	t.Parallel()
	out, s := summaryOf(t, func(*phase) error { return nil })
	expect(t, out, "the phase  passed", "0 passed, 0 failed, 0 skipped\n")
	if !s.ok() {
		t.Error("it counts as failure")
	}
	out, s = summaryOf(t, func(*phase) error { return errors.New("exit status 2") })
	expect(t, out, "the phase: exit status 2", "0 passed, 1 failed, 0 skipped\n")
	if s.ok() {
		t.Error("it counts as success")
	}
	if (&summary{}).ok() {
		t.Error("that nothing has run counts as success")
	}
}

// The targets of a module run, and one that finds a failing input fails.
func TestFuzzModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.26\n",
		"m_test.go": `package m

import (
	"testing"
	"time"
)

func FuzzGood(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }

func FuzzBad(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 {
			t.Error("not empty")
		}
	})
}

func FuzzSlow(f *testing.F) {
	f.Add([]byte("a seed"))
	f.Fuzz(func(t *testing.T, b []byte) { time.Sleep(3 * time.Second) })
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, s := summaryOf(t, func(p *phase) error { return fuzzModule(dir, time.Second, 2, true, p) })
	expect(t, out, "not empty", "FAIL\tm FuzzBad: exit status 1", "FAIL\tm FuzzSlow: it has tried no input", "m FuzzBad", "m FuzzGood", "1 passed, 2 failed, 0 skipped\n")
	for _, f := range s.phases[0].fuzzed {
		if f.name == "m FuzzGood" && f.executions == 0 {
			t.Error("FuzzGood tried nothing")
		}
	}
}

func TestExecutions(t *testing.T) {
	t.Parallel()
	const output = `fuzz: elapsed: 0s, gathering baseline coverage: 0/22 completed
fuzz: elapsed: 3s, execs: 2558 (853/sec), new interesting: 61 (total: 83)
fuzz: elapsed: 8s, execs: 16620 (687/sec), new interesting: 90 (total: 112)
PASS
`
	if got := executions(output); got != 16620 {
		t.Errorf("got %d", got)
	}
	if got := executions("panic: no\n"); got != 0 {
		t.Errorf("got %d of output that names none", got)
	}
}

func TestEndedLate(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]bool{
		"fuzz: elapsed: 30s\n--- FAIL: FuzzA (30.06s)\n    context deadline exceeded\nFAIL\n":                                                     true,
		"--- FAIL: FuzzA (30.06s)\n    context deadline exceeded\nFAIL\n":                                                                         true,
		"--- FAIL: FuzzA (3s)\n    --- FAIL: FuzzA (0s)\n        context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzA/1\n": false,
		"panic: no\n": false,
		"PASS\n":      false,
	} {
		if got := endedLate(output); got != want {
			t.Errorf("%t for:\n%s", got, output)
		}
	}
}
