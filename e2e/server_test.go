package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a process that a test has started.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string // path of the file with its output
	done chan struct{}
}

// startServer starts a server and waits until it is ready. The command that start
// returns must listen on ports from freePorts. Because another process may have
// taken one of them in the meantime, a server that exits before it is ready is
// started again, with other ports.
func startServer(t *testing.T, name string, start func() *exec.Cmd, ready func() error) *server {
	t.Helper()
	for attempt := 1; ; attempt++ {
		s := launch(t, name, start())
		err := poll(func() error {
			select {
			case <-s.done:
				return errGone
			default:
				return ready()
			}
		})
		if err == nil {
			return s
		}
		s.stop()
		if !errors.Is(err, errGone) || attempt == 3 {
			t.Fatalf("%s is not ready: %v\n%s", name, err, s.output())
		}
	}
}

// launch starts a long-lived process, which is stopped at the end of the test. If
// the test fails, its output is logged.
func launch(t *testing.T, name string, cmd *exec.Cmd) *server {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	s := &server{t: t, cmd: cmd, log: out.Name(), done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait() // its exit status is in cmd.ProcessState
		close(s.done)
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, tail(s.output(), 16<<10))
		}
	})
	return s
}

// stop ends the server and all processes that it has started.
func (s *server) stop() {
	s.t.Helper()
	select {
	case <-s.done:
		return
	default:
	}
	group := -s.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		syscall.Kill(group, syscall.SIGKILL)
		<-s.done
	}
}

func (s *server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *server) output() string {
	s.t.Helper()
	data, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Error(err)
	}
	return string(data)
}

// waitForOutput waits until the server's output contains text n times.
func (s *server) waitForOutput(text string, n int) {
	s.t.Helper()
	waitFor(s.t, fmt.Sprintf("%q %d times in the output", text, n), func() error {
		if found := strings.Count(s.output(), text); found < n {
			return fmt.Errorf("found %d times", found)
		}
		return nil
	})
}

var (
	portsMu  sync.Mutex
	nextPort = 10000 + os.Getpid()*64%20000
)

// freePorts returns n ports of 127.0.0.1 on which nothing listens, neither with
// TCP nor with UDP. They are below the range that the kernel uses for outgoing
// connections, and every call returns different ports.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 20000 {
			t.Fatal("no free port")
		}
		if nextPort++; nextPort >= 32000 {
			nextPort = 10000
		}
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		l.Close()
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		p.Close()
		ports = append(ports, nextPort)
	}
	return ports
}

func freePort(t *testing.T) int {
	t.Helper()
	return freePorts(t, 1)[0]
}

// accepts returns nil if a server accepts a connection to its address.
func accepts(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
