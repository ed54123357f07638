package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestBuilt runs the program as it is shipped, not as a test binary: it is small, its
// version comes from the link flags, it starts without work of ours, and its memory does
// not grow when a command prints 200 MB.
func TestBuilt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	build := exec.Command("go", "build", "-o", w.path("stretcher"), "-ldflags", "-s -w -X github.com/fujiwara/stretcher.Version=1.2.3-test", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(w.path("stretcher"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("size: %d bytes", info.Size())
	if info.Size() > 20e6 {
		t.Errorf("the program has %d bytes, want at most 20 MB", info.Size())
	}
	if got := w.run(w.path("stretcher"), "-version"); got != "version: 1.2.3-test\n" {
		t.Errorf("-version prints %q", got)
	}
	checkStart(t, w.path("stretcher"))

	const size = 200_000_000
	w.write("manifest.yml", `commands:
  pre:
    - yes "$(printf %01000d 7)" | head -c `+strconv.Itoa(size)+`
    - echo the end of it
  success:
    - cat > seen.log
    - grep VmHWM /proc/$PPID/status > memory
`)
	cmd := exec.Command(w.path("stretcher"))
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+w.path("tmp"))
	cmd.Stdin = strings.NewReader(w.url("manifest.yml"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	logged, err := io.Copy(io.Discard, stderr)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if logged < size {
		t.Errorf("stderr received %d bytes, but the command printed %d", logged, size)
	}
	fields := strings.Fields(w.read("memory")) // VmHWM: 12345 kB
	peak, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak memory: %d KiB", peak)
	if peak >= 64<<10 {
		t.Errorf("peak memory is %d KiB, want less than 64 MiB", peak)
	}

	log := w.read("seen.log")
	if len(log) > 8<<20+1000 || len(log) < 8<<20 {
		t.Errorf("the log that hooks receive has %d bytes, want 8 MiB", len(log))
	}
	for _, want := range []string{
		`^.* Starting up stretcher agent 1\.2\.3-test\n`,
		`\n\[\.\.\. \d+ bytes of the log left out here \.\.\.\]\n`,
		` the end of it\n.* Deploy manifest succeeded\.\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("the log that hooks receive has no match of %s", want)
		}
	}
}

// checkStart fails if packages of this module have work to do before main is called,
// which every start would pay for. A regular expression or a table that is made then
// needs more memory than this.
func checkStart(t *testing.T, program string) {
	const most = 1000 // bytes a package
	trace := exec.Command(program, "-version")
	trace.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var stderr bytes.Buffer
	trace.Stderr = &stderr
	if err := trace.Run(); err != nil {
		t.Fatal(err)
	}
	// init internal/bytealg @0.008 ms, 0 ms clock, 0 bytes, 0 allocs (package runtime)
	if !strings.HasPrefix(stderr.String(), "init ") {
		t.Errorf("the runtime does not say what it initializes: %s", &stderr)
	}
	lines := regexp.MustCompile(`(?m)^init github\.com/fujiwara/stretcher(\S*) @.* (\d+) bytes, \d+ allocs$`).FindAllStringSubmatch(stderr.String(), -1)
	for _, line := range lines {
		if n, err := strconv.Atoi(line[2]); err != nil || n > most {
			t.Errorf("when it starts, the package %q allocates %s bytes, more than %d: make patterns and tables when they are needed (sync.OnceValue)", strings.TrimPrefix(line[1], "/"), line[2], most)
		}
	}
}
