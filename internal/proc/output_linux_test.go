package proc

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// All that a command has printed is logged, also if the log is slow: if somebody has
// paused the terminal, for example.
func TestRunSlowLog(t *testing.T) {
	t.Parallel()
	const lines = 20_000 // more than a pipe holds
	for _, script := range []string{"seq 20000", "seq 20000 & wait; setsid sleep 10 &"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			paused := false
			w := NewLineWriter(log.New(&logged, "", 0), func() {
				if strings.Contains(logged.String(), "\n18000\n") && !paused {
					paused = true
					time.Sleep(outputWait + time.Second)
				}
			})
			cmd := shell("", script)
			cmd.Stdout = w
			if err := Run(t.Context(), "NAME", cmd, Options{}); err != nil {
				t.Error(err)
			}
			if n := bytes.Count(logged.Bytes(), []byte("\n")); n != lines || !paused {
				t.Errorf("%d lines were logged, expected %d", n, lines)
			}
		})
	}
}

// The pipe may have more than 64 KiB of it: on machines with larger pages, or if the
// command has enlarged it.
func TestRunSlowLogOfLargePipe(t *testing.T) {
	const size, lines = 1 << 20, 80_000
	if os.Getenv("LARGE_PIPE") != "" {
		if _, err := unix.FcntlInt(1, unix.F_SETPIPE_SZ, size); err != nil {
			t.Skip(err)
		}
		fmt.Println("begin")
		time.Sleep(100 * time.Millisecond)
		os.Stdout.WriteString(strings.Repeat("0123456789\n", lines))
		os.Exit(0)
	}
	var logged bytes.Buffer
	paused := false
	cmd := exec.Command(os.Args[0], "-test.run=^TestRunSlowLogOfLargePipe$")
	cmd.Stdout = NewLineWriter(log.New(&logged, "", 0), func() {
		if !paused {
			paused = true
			time.Sleep(outputWait + time.Second)
		}
	})
	said := logOf(func() {
		if err := Run(t.Context(), "NAME", cmd, Options{Env: append(os.Environ(), "LARGE_PIPE=1")}); err != nil {
			t.Error(err)
		}
	})
	if strings.Contains(logged.String(), "SKIP") {
		t.Skip("the pipe cannot be enlarged")
	}
	if n := strings.Count(logged.String(), "0123456789\n"); n != lines || strings.Contains(said, "WARN") {
		t.Errorf("%d lines were logged, expected %d: %s", n, lines, said)
	}
}

// A process that is left behind may also hold the stdin, without reading it.
func TestRunLeavesProcessWithStdin(t *testing.T) {
	cmd := shell("", "exec 3<&0; setsid sleep 10 <&3 >/dev/null 2>&1 &")
	cmd.Stdin = strings.NewReader(strings.Repeat("a line of the log\n", 20000))
	cmd.Stdout = NewLineWriter(log.New(io.Discard, "", 0), func() {})
	logged := logOf(func() {
		if err := Run(t.Context(), "NAME", cmd, Options{}); err != nil {
			t.Error(err)
		}
	})
	if !strings.HasPrefix(logged, "[WARN] NAME left a process behind that holds its stdin: ") {
		t.Errorf("logged %q", logged)
	}
}
