package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// strace starts the agent under strace(1), whose output goes to the file "trace"
// of the site. It skips the test where the system forbids tracing.
func (s *site) strace(url string, options ...string) *running {
	s.t.Helper()
	strace := program(s.t, "strace")
	if out, err := s.command(strace, "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		s.t.Skipf("this system does not allow strace: %v: %s", err, out)
	}
	args := append([]string{"-f", "-qq", "-o", s.path("trace")}, options...)
	return s.startCommand(s.command(strace, append(args, plainPath(s.t))...), url)
}

var (
	flushed = regexp.MustCompile(`syncfs\(\d+\) *= |syncfs resumed>`)
	renames = regexp.MustCompile(`rename(at2?)?\(`)
)

// flushes returns the order of flushes to disk (F) and renames (R) in the trace.
// Many of a kind in a row count as one.
func (s *site) flushes() string {
	s.t.Helper()
	trace, err := os.ReadFile(s.path("trace"))
	if err != nil {
		s.t.Fatal(err)
	}
	var order strings.Builder
	for line := range strings.Lines(string(trace)) {
		call := ""
		switch {
		case flushed.MatchString(line):
			call = "F"
		case renames.MatchString(line):
			call = "R"
		}
		if !strings.HasSuffix(order.String(), call) {
			order.WriteString(call)
		}
	}
	return order.String()
}

// builtin and mv flush what they have staged before the first rename, and what
// they have changed before they report success, but only if that is anything.
func TestFlushes(t *testing.T) {
	t.Parallel()
	const calls = "trace=syncfs,fsync,fdatasync,sync,?rename,?renameat,renameat2"
	trees := tortured(30, false)
	repaired := trees[1].extracted()
	zero := repaired["zero"]
	zero.mode = 0o640
	repaired["zero"] = zero
	for _, strategy := range []string{"builtin", "mv", "rsync"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			for i, step := range []struct {
				what string
				tree tree
				want string
			}{
				{"first", trees[0], "FRF"},
				{"changed", trees[1], "FRF"},
				{"repaired", repaired, "F"},
				{"unchanged", repaired, ""},
			} {
				if strategy == "mv" && i > 0 {
					break // it needs a dest that does not exist
				}
				url := s.publish(fmt.Sprint(i), step.tree.pack(t), "sync_strategy: "+strategy)
				s.strace(url, "-e", calls).wait().wantSuccess()
				s.wantDeployed(step.tree)
				want := step.want
				if strategy == "rsync" {
					want = strings.ReplaceAll(want, "F", "")
				}
				if got := s.flushes(); got != want {
					t.Errorf("%s: flushes and renames %q, want %q", step.what, got, want)
				}
			}
		})
	}
}

// If what is staged cannot be flushed, the deployment fails and dest is unchanged.
// If that fails at the end, the deployment fails, too, and the next one succeeds.
func TestFlushFails(t *testing.T) {
	t.Parallel()
	trees := tortured(30, false)
	for _, test := range []struct {
		name, strategy, log string
		atEnd               bool
	}{
		{"builtin before", "builtin", "", false},
		{"builtin after", "builtin", "the new files are in place, but a power failure may undo that", true},
		{"mv before", "mv", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			want := tree{}
			options := []string{"-e", "inject=syncfs:error=EIO"}
			if test.strategy == "builtin" {
				want = trees[0]
				s.deploy(s.publish("old", want.pack(t), "sync_strategy: builtin"))
			}
			if test.atEnd {
				want = trees[1]
				options = append(options, "-P", s.dest) // and not what is staged
			}
			url := s.publish("new", trees[1].pack(t), "sync_strategy: "+test.strategy, s.hooks())
			s.strace(url, options...).wait().wantFailure(s.dest, "flush to disk: input/output error", test.log)
			s.wantFailureCommands(1)
			s.wantDeployed(want)
			s.deploy(url)
			s.wantDeployed(trees[1])
		})
	}
}
