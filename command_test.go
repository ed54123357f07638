package stretcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/proc"
)

func TestInvoke(t *testing.T) {
	for _, test := range []struct {
		command CommandLine
		log     string // without the line that tells of the command
		err     string
	}{
		{"true", "", ""},
		{"echo out; echo err >&2", "out\nerr\n", ""},
		{"printf 'no newline'", "no newline\n", ""},
		{`printf 'a\n\nb\r\n'`, "a\n\nb\n", ""},
		{"cat", "", ""}, // there is nothing on stdin
		{"exit 7", "", "failed: exit 7 exit status 7"},
		{"echo why; false", "why\n", "failed: echo why; false exit status 1"},
		{"kill -TERM $$", "", "failed: kill -TERM $$: terminated by signal SIGTERM"},
		{"echo '%s %d %%'", "%s %d %%\n", ""},
	} {
		var err error
		got := logOf(func() { err = test.command.Invoke() })
		if want := "invoking command: " + test.command.String() + "\n" + test.log; got != want {
			t.Errorf("%s: logged %q, expected %q", test.command, got, want)
		}
		if text := fmt.Sprint(err); test.err == "" && err != nil || test.err != "" && text != test.err {
			t.Errorf("%s: got error %v, expected %q", test.command, err, test.err)
		}
	}
	for _, empty := range []CommandLine{"", " ", "\n\t"} {
		if got := logOf(func() {
			if err := empty.Invoke(); err != nil {
				t.Error(err)
			}
			if err := empty.InvokePipe(strings.NewReader("x")); err != nil {
				t.Error(err)
			}
		}); got != "" {
			t.Errorf("%q: logged %q", string(empty), got)
		}
	}
}

func TestInvokeAll(t *testing.T) {
	t.Chdir(t.TempDir())
	cs := CommandLines{"echo 1 >> ran", "", "echo 2 >> ran; exit 3", "echo never >> ran"}
	var err error
	logOf(func() { err = cs.Invoke() })
	if err == nil || err.Error() != "failed: echo 2 >> ran; exit 3 exit status 3" {
		t.Errorf("got error %v", err)
	}
	if got, _ := os.ReadFile("ran"); string(got) != "1\n2\n" {
		t.Errorf("there ran %q", got)
	}
	logOf(func() { err = CommandLines(nil).Invoke() })
	if err != nil {
		t.Error(err)
	}
}

// Every command receives the whole buffer on its stdin, and the buffer stays as it is.
func TestInvokePipe(t *testing.T) {
	t.Chdir(t.TempDir())
	text := strings.Repeat("a line of the log\n", 20000) // more than a pipe holds
	src := bytes.NewBufferString(text)
	cs := CommandLines{"cat > first", "exec <&-; true", "head -c 10 > head", "cat > last", "exit 4", "touch never"}
	var err error
	logOf(func() { err = cs.InvokePipe(src) })
	if err == nil || err.Error() != "failed: exit 4 exit status 4" {
		t.Errorf("got error %v", err)
	}
	for name, want := range map[string]string{"first": text, "last": text, "head": text[:10]} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s got %d bytes, expected %d: %v", name, len(got), len(want), err)
		}
	}
	if _, err := os.Stat("never"); err == nil {
		t.Error("a command after a failing one was run")
	}
	if src.String() != text {
		t.Error("the buffer is not what it was")
	}
	logOf(func() { err = CommandLine("test -z \"$(cat)\"").InvokePipe(new(bytes.Buffer)) })
	if err != nil {
		t.Error(err)
	}
}

func TestRunnerTimeout(t *testing.T) {
	r := &runner{proc.Options{Timeout: 50 * time.Millisecond}}
	var err error
	logOf(func() { err = r.logged(t.Context(), "sleep 600") })
	if err == nil || err.Error() != "failed: sleep 600: timeout after 50ms" {
		t.Errorf("got error %v", err)
	}
}

func TestRunnerCancelled(t *testing.T) {
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	pid := filepath.Join(t.TempDir(), "pid")
	var err error
	logOf(func() {
		log.SetOutput(writerFunc(func() { // on its first line
			if _, err := os.Stat(pid); err == nil {
				cancel(stopped)
			}
		}))
		err = (&runner{}).logged(ctx, CommandLine("echo $$ > "+pid+"; echo started; sleep 600"))
	})
	if !errors.Is(err, stopped) {
		t.Errorf("got error %v", err)
	}
	logOf(func() { err = (&runner{}).logged(ctx, "touch "+CommandLine(pid)+".never") })
	if !errors.Is(err, stopped) || !strings.Contains(err.Error(), "not started") {
		t.Errorf("with a context that has ended: got error %v", err)
	}
	if _, err := os.Stat(pid + ".never"); err == nil {
		t.Error("a command was started with a context that has ended")
	}
}

// A deployment that has returned logs nothing more, also where it was aborted while
// a process holds the output of its command and goes on printing. Neither LogBuffer
// nor the log of the next deployment gets such a line.
func TestNothingLoggedLater(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	abort := make(chan struct{})
	close(abort)
	m := &Manifest{Commands: Commands{Pre: CommandLines{"setsid sh -c 'echo $$ > child; while echo late; do :; done' & sleep 600"}}}
	logOf(func() {
		go func() {
			defer cancel()
			for ctx.Err() == nil {
				if info, err := os.Stat("child"); err == nil && info.Size() > 0 {
					time.Sleep(50 * time.Millisecond) // it is printing then
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		if err := m.DeployContext(ctx, Config{Abort: abort}); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v", err)
		}
		first := LogBuffer.String() // the race detector watches it
		if !strings.Contains(first, "late\n") {
			t.Errorf("the command has not printed anything: %.200q", first)
		}
		time.Sleep(20 * time.Millisecond)
		if LogBuffer.String() != first {
			t.Error("a line was logged after the deployment had returned")
		}
		next := &Manifest{Commands: Commands{Pre: CommandLines{"sleep 0.1"}}}
		if err := next.Deploy(Config{}); err != nil {
			t.Error(err)
		}
		if got := LogBuffer.String(); strings.Contains(got, "late\n") {
			t.Errorf("the next deployment has logged %.200q", got)
		}
	})
	child, err := os.ReadFile("child")
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(child))); err == nil {
		syscall.Kill(pid, syscall.SIGKILL) // it may have ended by SIGPIPE
	}
}

func TestRunnerEnvironment(t *testing.T) {
	t.Setenv("OF_THE_AGENT", "agent")
	m := &Manifest{Src: "http://user:pw@h/a?sig=pw", Dest: "/d", CheckSum: "c", Commands: Commands{Env: map[string]string{"OWN": "own", "STRETCHER_SRC": "mine"}}}
	r := newRunner(m, Config{}, &event{manifestURL: "s3://b/m.yml", id: "i\x00d"})
	got := logOf(func() {
		if err := r.logged(t.Context(), `echo "$OF_THE_AGENT $OWN $STRETCHER_SRC $STRETCHER_DEST $STRETCHER_CHECKSUM $STRETCHER_MANIFEST_URL $STRETCHER_EVENT_ID"`); err != nil {
			t.Error(err)
		}
	})
	if _, got, _ = strings.Cut(got, "\n"); got != "agent own http://user:REDACTED@h/a?sig=REDACTED /d c s3://b/m.yml id\n" {
		t.Errorf("it has %q", got)
	}
	// An error may be too long for a variable of the environment.
	r.Env = append(r.Env, "STRETCHER_ERROR="+forEnvironment(strings.Repeat("x", 1<<20)))
	logOf(func() {
		if err := r.logged(t.Context(), `test ${#STRETCHER_ERROR} -gt 10000`); err != nil {
			t.Error(err)
		}
	})
}
