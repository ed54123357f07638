package e2e

import (
	"archive/tar"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	sweepAll    = flag.Bool("sweep.all", false, "inject each fault, and not only some at random")
	sweepPoints = flag.Int("sweep.points", 100, "number of faults to inject for each strategy")
)

// fault is a point of the sweep: one call that fails, in a deployment of one of
// the versions.
type fault struct {
	version int
	call    string
	when    int
	err     syscall.Errno
}

func (f fault) String() string {
	return fmt.Sprintf("%s %d, %s, version %d", f.call, f.when, f.err, f.version)
}

// sweep is a site with a dest that a strategy deploys two versions to in turn.
type sweep struct {
	*site
	testing  *testing.T // of all faults, while that of the site is the one of a fault
	strategy string
	trees    [2]tree
	urls     [2]string
	has      tree // what dest has

	injected, tolerated int
}

// Each call on files that a deployment makes fails once. Whichever it is, the
// agent ends, tells of a failure, runs failure, and leaves dest in a state that the
// strategy promises. The next run makes dest equal to the archive, and leaves
// nothing else.
func TestFaultSweep(t *testing.T) {
	t.Parallel()
	seed := *tortureSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for i, strategy := range []string{"rsync", "mv", "builtin", "symlink"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			s := &sweep{site: newSite(t), testing: t, strategy: strategy, trees: tortured(12, false), has: tree{}}
			for i, tr := range s.trees {
				s.urls[i] = s.publish(fmt.Sprintf("version-%d", i), tr.pack(t), unpackedAgain(strategy), s.hooks())
			}
			faults := s.faults()
			all := len(faults)
			if !*sweepAll {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
				faults = faults[:min(len(faults), *sweepPoints)]
			}
			failed := 0
			for _, f := range faults {
				if ok := t.Run(f.String(), func(t *testing.T) {
					defer func() { s.t = s.testing }()
					s.t = t
					s.inject(f)
				}); !ok {
					failed++
				}
				if failed > 50 {
					t.Fatal("too many failures")
				}
			}
			t.Logf("seed %d: %d faults of %d in %s; the deployment succeeded nevertheless %d times, and %d were not reached",
				seed, len(faults), all, time.Since(start).Round(time.Second), s.tolerated, len(faults)-s.injected)
		})
	}
}

// faults returns all faults. It counts the calls of undisturbed deployments, of
// each version over the other one.
func (s *sweep) faults() []fault {
	s.t.Helper()
	var list []fault
	for i, version := range []int{1, 0, 1} {
		s.prepare(version)
		in := s.injector()
		s.startInjected(in, s.urls[version]).wait().wantSuccess()
		<-in.ended
		s.wantDeployed(s.trees[version])
		s.has = s.trees[version]
		if i == 0 {
			continue // there was nothing in dest yet
		}
		for _, c := range fsCalls {
			errs := []syscall.Errno{syscall.EIO}
			if c.changes {
				errs = append(errs, syscall.ENOSPC)
			}
			if strings.Contains(c.name, "read") || strings.Contains(c.name, "write") {
				errs = append(errs, syscall.EINTR)
			}
			for n := range in.counts[c.name] {
				for _, err := range errs {
					list = append(list, fault{version, c.name, n + 1, err})
				}
			}
		}
	}
	return list
}

func (s *sweep) injector() *injector {
	return &injector{below: append(lockDirs(), s.dir)}
}

// prepare makes dest what a deployment of the version finds.
func (s *sweep) prepare(version int) {
	s.t.Helper()
	if s.strategy == "mv" {
		if err := openTree(s.dest); err != nil {
			s.t.Fatal(err)
		}
		if err := os.RemoveAll(s.dest); err != nil {
			s.t.Fatal(err)
		}
		s.has = tree{}
		return
	}
	if other := s.trees[1-version]; len(s.has) > 0 && len(other.differences(s.has)) > 0 {
		s.deployPlainly(1 - version)
	}
}

// deployPlainly runs an undisturbed deployment.
func (s *sweep) deployPlainly(version int) {
	s.t.Helper()
	s.startCommand(s.command(plainPath(s.t)), s.urls[version]).wait().wantSuccess()
	s.wantDeployed(s.trees[version])
	if s.strategy == "symlink" {
		s.wantOneRelease()
	}
	s.has = s.trees[version].extracted()
	s.ran()
}

// inject runs a deployment with a fault, and then one without.
func (s *sweep) inject(f fault) {
	s.t.Helper()
	s.prepare(f.version)
	s.ran()
	in := s.injector()
	in.call, in.when, in.err = f.call, f.when, f.err
	o := s.startInjected(in, s.urls[f.version]).wait()
	<-in.ended
	if in.hit != "" {
		s.injected++
	}
	s.t.Logf("failed: %s; exit status %d", in.hit, o.code)
	s.wantPromise(f, o)
	if s.strategy == "mv" {
		s.prepare(f.version)
	}
	s.deployPlainly(f.version)
	if s.t.Failed() {
		s.t.Logf("the log:\n%s", tail(o.log, 6<<10))
	}
}

// wantPromise checks what a deployment with a fault has left.
func (s *sweep) wantPromise(f fault, o *outcome) {
	s.t.Helper()
	if o.code != 0 && o.code != 1 || strings.Contains(o.log, "goroutine ") {
		s.t.Fatalf("exit status %d", o.code)
	}
	for _, p := range s.survivors() {
		s.t.Errorf("a process survived: %s", p)
	}
	failed := strings.Contains(o.log, "[ERROR] Deploy manifest failed:")
	ran := s.ran()
	if got := slices.Contains(ran, "failure:failure"); got != failed {
		s.t.Errorf("the failure command ran: %v, want %v", got, failed)
	}
	if failed != (o.code == 1) && strings.Contains(o.log, "Manifest:") {
		s.t.Errorf("exit status %d, and a failure in the log: %v", o.code, failed)
	}
	found := readTree(s.t, s.dest)
	maps.DeleteFunc(found, func(path string, _ node) bool { // it may not have been possible to remove it
		return o.code == 1 && strings.HasPrefix(path, ".stretcher-")
	})
	old, next := s.has, s.trees[f.version]
	if o.code == 0 {
		s.tolerated++
		for _, d := range next.differences(found) {
			s.t.Errorf("after a success, dest differs from the archive: %s", d)
		}
		return
	}
	switch s.strategy {
	case "mv":
		for path := range found {
			s.t.Errorf("after a failure, dest has %s", path)
		}
	case "symlink":
		isOld, isNew := old.differences(found), next.differences(found)
		if len(isOld) > 0 && len(isNew) > 0 {
			s.t.Errorf("dest is neither the old version: %s\nnor the new one: %s", strings.Join(isOld, ", "), strings.Join(isNew, ", "))
		}
	case "builtin":
		isOld, isNew := old.contents().differences(found.contents()), next.contents().differences(found.contents())
		if len(isOld) > 0 && len(isNew) > 0 {
			s.t.Errorf("dest is neither the old version: %s\nnor the new one: %s", strings.Join(isOld, ", "), strings.Join(isNew, ", "))
		}
		v := &victim{site: s.site, signal: syscall.SIGKILL, trees: s.trees}
		v.wantWhole(found)
	}
}

// If it is not known whether new files inherit an ACL, their modes could be wrong.
func TestUnreadableDefaultACL(t *testing.T) {
	t.Parallel()
	trees := tortured(10, false)
	for _, strategy := range []string{"rsync", "mv", "builtin", "symlink"} {
		s := newSite(t)
		url := s.publish("app", trees[0].pack(t), "sync_strategy: "+strategy, s.hooks())
		in := &injector{call: "fgetxattr", when: 1, err: syscall.EIO, below: []string{s.dir}}
		s.startInjected(in, url).wait().wantFailure("default ACL: input/output error")
		<-in.ended
		s.wantFailureCommands(1)
		s.wantDeployed(tree{})
	}
}

// contents returns the tree without attributes, which are not undone where the
// contents of a file are the same in both versions.
func (tr tree) contents() tree {
	bare := tree{}
	for path, n := range tr.extracted() {
		n.mode, n.mtime = 0, 0
		if n.kind == tar.TypeSymlink {
			n.mode = 0o777 // which extracted sets
		}
		bare[path] = n
	}
	return bare
}
