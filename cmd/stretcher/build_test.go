package main

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The command as it is shipped, not as a test binary: its version comes from
// the link flags, and 200 MB that a command prints do not make it grow.
func TestBuilt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	build := exec.Command("go", "build", "-o", w.path("stretcher"), "-tags", "disable_grpc_modules", "-ldflags", "-s -w -X github.com/fujiwara/stretcher.Version=1.2.3-test", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if got := w.run(w.path("stretcher"), "-version"); got != "stretcher version 1.2.3-test\n" {
		t.Errorf("-version prints %q", got)
	}

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
	cmd.Stdin = strings.NewReader("file://" + w.path("manifest.yml"))
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
		t.Errorf("%d bytes came on stderr, the command printed %d", logged, size)
	}
	fields := strings.Fields(w.read("memory")) // VmHWM: 12345 kB
	peak, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak memory: %d KiB", peak)
	if peak >= 64<<10 {
		t.Errorf("peak memory is %d KiB", peak)
	}

	log := w.read("seen.log")
	if len(log) > 8<<20+1000 || len(log) < 8<<20 {
		t.Errorf("the log that hooks get has %d bytes", len(log))
	}
	for _, want := range []string{
		`^.* Starting up stretcher agent 1\.2\.3-test\n`,
		`\n\[\.\.\. \d+ bytes of the log left out here \.\.\.\]\n`,
		` the end of it\n.* Deploy manifest succeeded\.\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("the log that hooks get has no %s", want)
		}
	}
}
