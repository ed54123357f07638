package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"testing"
	"time"
)

// sshd is an SSH server on which the user who runs the tests can log in.
type sshd struct {
	*host
	user string
	port int
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
	startServer(t, "sshd", func() *exec.Cmd {
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
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return s
}

// run runs a command over ssh, as "echo stdin | ssh host command" does.
func (s *sshd) run(stdin, command string) (code int, out string) {
	s.t.Helper()
	ssh := s.command(program(s.t, "ssh"), "-F", "/dev/null", "-p", fmt.Sprint(s.port), "-i", s.path("id"), "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+s.path("known_hosts"),
		s.user+"@127.0.0.1", command)
	ssh.Stdin = strings.NewReader(stdin)
	data, err := ssh.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	wantNoRace(s.t, string(data))
	return ssh.ProcessState.ExitCode(), string(data)
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
