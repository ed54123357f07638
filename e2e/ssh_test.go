package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sshd is an SSH server on which the user who runs the tests can log in.
type sshd struct {
	*host
	daemon *server
	user   string
	port   int
}

func startSSHD(t *testing.T) *sshd {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshd{host: newHost(t), user: me.Username}
	if os.Geteuid() == 0 {
		// As root, sshd confines its unauthenticated part to this directory,
		// which Debian's service creates at its start.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keygen, daemon := program(t, "ssh-keygen"), program(t, "sshd")
	for _, key := range []string{"host-key", "id"} {
		output(t, s.command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", s.path(key)))
	}
	s.daemon = startServer(t, "sshd", func() *exec.Cmd {
		s.port = freePort(t)
		write(t, s.path("etc", "sshd_config"), fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s
PidFile %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PasswordAuthentication no
`, s.port, s.path("host-key"), s.path("sshd.pid"), s.path("id.pub")))
		return s.command(daemon, "-D", "-e", "-f", s.path("etc", "sshd_config"))
	}, func() error {
		return accepts(fmt.Sprintf("127.0.0.1:%d", s.port))
	})
	return s
}

// run runs a command over ssh, as "echo stdin | ssh host command" does.
func (s *sshd) run(stdin, command string) (code int, out string) {
	s.t.Helper()
	ssh := s.client(stdin, command)
	data, err := ssh.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	wantNoRace(s.t, string(data))
	return ssh.ProcessState.ExitCode(), string(data)
}

// client returns an ssh client that runs a command on the server, and has not been
// started yet.
func (s *sshd) client(stdin, command string) *exec.Cmd {
	s.t.Helper()
	ssh := s.command(program(s.t, "ssh"), "-F", "/dev/null", "-p", fmt.Sprint(s.port), "-i", s.path("id"), "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+s.path("known_hosts"),
		s.user+"@127.0.0.1", command)
	ssh.Stdin = strings.NewReader(stdin)
	return ssh
}

func TestSSH(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	if code, out := s.run("", "exit 42"); code != 42 {
		t.Fatalf("ssh does not pass the exit status of a command: %d, want 42:\n%s", code, out)
	}
	r := newRelease(t, "one")
	stretcher := "TMPDIR=" + s.path("tmp") + " " + stretcherPath

	code, out := s.run(s.publish("one", r, r.manifest)+"\n", stretcher)
	if code != 0 || !strings.Contains(out, "Deploy manifest succeeded.") {
		t.Errorf("exit status %d, want 0:\n%s", code, out)
	}
	r.wantDeployed(t, s.path("dest"))

	// A line is enough: the agent does not wait for the end of its stdin, which
	// ssh leaves open.
	ssh := s.client("", stretcher)
	ssh.Stdin = nil
	stdin, err := ssh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	again := launch(t, "ssh", ssh)
	if _, err := fmt.Fprintln(stdin, s.publish("one", r, r.manifest)); err != nil {
		t.Fatal(err)
	}
	again.waitForOutput("Deploy manifest succeeded.", 1)
	select {
	case <-again.done:
	case <-time.After(patience):
		t.Errorf("stretcher has not exited while stdin is open:\n%s", again.output())
	}

	two := newRelease(t, "two")
	for _, failing := range []struct {
		name, stdin, args string
		code              int
		says              string
	}{
		{"wrong checksum", s.publish("bad", two, two.badManifest), "", 1, "Checksum mismatch"},
		{"failing command", s.publish("fails", two, two.manifest, "commands: {pre: [exit 7]}"), "", 1, "failed: exit 7 exit status 7"},
		{"nothing on stdin", "", "", 1, "stdin is empty"},
		{"unknown flag", "", " -no-such-flag", 2, "no-such-flag"},
	} {
		t.Run(failing.name, func(t *testing.T) {
			code, out := s.run(failing.stdin, stretcher+failing.args)
			if code != failing.code || !strings.Contains(out, failing.says) {
				t.Errorf("exit status %d, want %d and %q:\n%s", code, failing.code, failing.says, out)
			}
			r.wantDeployed(t, s.path("dest"))
		})
	}
}

// A deployment goes on when its connection breaks, to its end or until it is
// stopped by a signal. It can be found by the lock file, which has its pid.
func TestSSHBroken(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	for _, test := range []struct {
		name, result string
		signal       syscall.Signal
	}{
		{"goes on", "success\n", 0},
		{"is stopped", "failure post command: failed: ", syscall.SIGTERM},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRelease(t, test.name)
			pid, proceed, result := s.path("pid"), s.path("go"), s.path("result")
			for _, left := range []string{pid, proceed, result} {
				os.Remove(left)
			}
			hook := fmt.Sprintf("echo $PPID > %s.new; mv %[1]s.new %[1]s; until test -e %s; do sleep 0.02; done; seq 20000", pid, proceed)
			report := fmt.Sprintf("echo \"$STRETCHER_RESULT $STRETCHER_ERROR\" > %s.new; mv %[1]s.new %[1]s", result)
			url := s.publish("broken", r, r.manifest, fmt.Sprintf("commands: {post: [%q], success: [%q], failure: [%[2]q]}", hook, report))
			ssh := s.client(url+"\n", "TMPDIR="+s.path("tmp")+" "+stretcherPath)
			if err := ssh.Start(); err != nil {
				t.Fatal(err)
			}
			var agent int
			waitFor(t, "the post command", func() error {
				data, err := os.ReadFile(pid)
				if err == nil {
					agent, err = strconv.Atoi(strings.TrimSpace(string(data)))
				}
				return err
			})
			session := s.sessionOf(agent)
			if err := ssh.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			ssh.Wait() // it was killed
			waitFor(t, "the end of the session", func() error {
				if parent := parentOf(session); parent == s.daemon.cmd.Process.Pid {
					return errors.New("sshd has not noticed that the connection is broken")
				}
				return nil
			})
			if !s.lockedBy(agent) {
				t.Errorf("no lock file has the pid %d", agent)
			}
			if test.signal != 0 {
				if err := syscall.Kill(agent, test.signal); err != nil {
					t.Fatalf("the deployment does not go on: %v", err)
				}
			} else {
				write(t, proceed, nil)
			}
			waitFor(t, "the result", func() error {
				data, err := os.ReadFile(result)
				if err == nil && !strings.HasPrefix(string(data), strings.TrimSuffix(test.result, "\n")) {
					t.Fatalf("the result is %q, expected %q", data, test.result)
				}
				return err
			})
			waitFor(t, "the end of the agent", func() error {
				if parentOf(agent) != 0 {
					return errors.New("it is running")
				}
				return nil
			})
			r.wantDeployed(t, s.path("dest"))
		})
	}
}

// sessionOf returns the process of sshd for the connection that a process belongs
// to.
func (s *sshd) sessionOf(pid int) int {
	s.t.Helper()
	for pid > 1 {
		parent := parentOf(pid)
		if parent == s.daemon.cmd.Process.Pid {
			return pid
		}
		pid = parent
	}
	s.t.Fatal("the agent does not descend from sshd")
	return 0
}

// parentOf returns the parent of a process, 0 if it has ended.
func parentOf(pid int) (parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var state string
	fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
	if state == "Z" {
		return 0
	}
	return parent
}

// lockedBy reports whether a lock file of this user has a pid.
func (s *sshd) lockedBy(pid int) bool {
	files, err := filepath.Glob(lockDir() + "/*.lock")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file) // an error if it is gone
		if err == nil && strings.HasPrefix(string(data), fmt.Sprintf("%d ", pid)) {
			return true
		}
	}
	return false
}
