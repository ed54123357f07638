package e2e

import (
	"fmt"
	"path/filepath"
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
	flushed    = regexp.MustCompile(`syncfs\(\d+\) *= |syncfs resumed>`)
	flushedDir = regexp.MustCompile(`fsync\(\d+\) *= |fsync resumed>`)
	renames    = regexp.MustCompile(`rename(at2?)?\(`)
	marks      = regexp.MustCompile(`rename(at2?)?\(.*\.yml"|unlinkat\(\d+, "\d.*\.yml"`)
)

// flushes returns the order of flushes to disk, of a file system (F) or of a
// directory (D), of renames (R), and of what marks a release as finished or no longer
// as that (M), in the trace. Many of a kind in a row count as one.
func (s *site) flushes() string {
	s.t.Helper()
	var order strings.Builder
	for line := range strings.Lines(string(read(s.t, s.path("trace")))) {
		call := ""
		switch {
		case flushed.MatchString(line):
			call = "F"
		case flushedDir.MatchString(line):
			call = "D"
		case marks.MatchString(line):
			call = "M"
		case renames.MatchString(line):
			call = "R"
		}
		if !strings.HasSuffix(order.String(), call) {
			order.WriteString(call)
		}
	}
	return order.String()
}

const flushCalls = "trace=syncfs,fsync,fdatasync,sync,?rename,?renameat,renameat2,unlinkat"

// builtin and mv flush what they have staged before the first rename, and what
// they have changed before they report success, but only if that is anything.
func TestFlushes(t *testing.T) {
	t.Parallel()
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
				s.strace(url, "-e", flushCalls).wait().wantSuccess()
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

// symlink flushes a release before it marks it as finished, the mark before the
// link is switched, and the link before it reports success, or after it has put it
// back.
func TestFlushesOfReleases(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	trees := tortured(30, false)
	urls := map[string]string{}
	for name, tr := range map[string]tree{"old": trees[0], "new": trees[1]} {
		urls[name] = s.publish(name, tr.pack(t), "sync_strategy: symlink")
	}
	third := trees[1].extracted()
	delete(third, "zero")
	urls["failing"] = s.publish("failing", third.pack(t), "sync_strategy: symlink", "commands:\n  post: [\"false\"]")
	for _, step := range []struct {
		what, manifest string
		tree           tree
		fails          bool
		want           string
	}{
		{"first", "old", trees[0], false, "FMDRD"},
		{"unchanged", "old", trees[0], false, ""},
		{"changed", "new", trees[1], false, "FMDRD"},
		{"old one again", "old", trees[0], false, "RD"},
		{"failing", "failing", trees[0], true, "FMDRDMRDM"}, // the last one is of the removal of the release
	} {
		o := s.strace(urls[step.manifest], "-e", flushCalls).wait()
		if step.fails {
			o.wantFailure()
		} else {
			o.wantSuccess()
		}
		s.wantDeployed(step.tree)
		if got := s.flushes(); got != step.want {
			t.Errorf("%s: flushes and renames %q, want %q", step.what, got, step.want)
		}
	}
}

// If what is staged cannot be flushed, the deployment fails and dest is unchanged.
// If that fails at the end, the deployment fails, too, and the next one succeeds. A
// link to a release is put back then.
func TestFlushFails(t *testing.T) {
	t.Parallel()
	trees := tortured(30, false)
	for _, test := range []struct {
		name, strategy, log string
		call                string // the one that fails
		at                  string // where it fails, for %s being dest; "" is everywhere
		new                 bool   // dest is the new version nevertheless
		left                bool   // the release is left to the next run
	}{
		{name: "builtin before", strategy: "builtin", call: "syncfs"},
		{name: "builtin after", strategy: "builtin", call: "syncfs", at: "%s", new: true,
			log: "the new files are in place, but a power failure may undo that"},
		{name: "mv before", strategy: "mv", call: "syncfs"},
		{name: "symlink before", strategy: "symlink", call: "syncfs", log: "make a release in"},
		{name: "symlink mark", strategy: "symlink", call: "fsync", at: "%s.releases", log: "finish the release"},
		{name: "symlink link", strategy: "symlink", call: "fsync", at: "%s/..", left: true, log: "[ERROR] put"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			want := tree{}
			options := []string{"-e", "inject=" + test.call + ":error=EIO"}
			if test.strategy != "mv" {
				want = trees[0]
				s.deploy(s.publish("old", want.pack(t), "sync_strategy: "+test.strategy))
			}
			if test.at != "" {
				options = append(options, "-P", filepath.Clean(fmt.Sprintf(test.at, s.dest)))
			}
			if test.new {
				want = trees[1]
			}
			url := s.publish("new", trees[1].pack(t), "sync_strategy: "+test.strategy, s.hooks())
			s.strace(url, options...).wait().wantFailure(s.dest, "flush to disk: input/output error", test.log)
			s.wantFailureCommands(1)
			if test.left {
				for _, d := range want.differences(readTree(t, s.dest)) {
					t.Errorf("dest differs from the archive: %s", d)
				}
			} else {
				s.wantDeployed(want)
			}
			s.deploy(url)
			s.wantDeployed(trees[1])
		})
	}
}
