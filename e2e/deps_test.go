package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// depsHost is a host on which sshd and nginx are missing.
//
// The policy that keeps daemons from being started is a file in /usr/sbin, and
// the packages come from a mirror. So as not to change the machine that runs the
// tests, deps.sh runs in a mount namespace in which /usr/sbin is a directory of
// the test, with an apt-get and a systemctl that record how they are called. This
// apt-get asks the policy as a package's maintainer script does.
type depsHost struct {
	*host
	policy string
}

func newDepsHost(t *testing.T, installation string) *depsHost {
	t.Helper()
	h := &depsHost{host: newHost(t)}
	h.policy = h.path("sbin", "policy-rc.d")
	h.script(h.path("bin", "apt-get"), fmt.Sprintf(`
		echo "apt-get $*" >>%[1]s
		[ "$1" = install ] || exit 0
		/usr/sbin/policy-rc.d nginx start && answer=0 || answer=$?
		echo "policy $answer" >>%[1]s
		%[2]s`, h.path("record"), installation))
	h.script(h.path("bin", "systemctl"), fmt.Sprintf(`
		if [ "$1" = is-enabled ]; then [ "$3" = ssh.service ]; exit; fi
		echo "systemctl $*" >>%s`, h.path("record")))
	for _, name := range depsPrograms(t) {
		if name == "sshd" || name == "nginx" {
			continue
		}
		h.script(h.path("bin", name), "exit 1")
	}
	// Without this file, the mount would have no directory to begin with.
	write(t, h.path("sbin", "unused"), nil)
	h.env = append(h.env, "PATH="+h.path("bin")+":/usr/bin:/bin")
	return h
}

// depsPrograms returns the programs of which deps.sh installs the packages.
func depsPrograms(t *testing.T) (names []string) {
	t.Helper()
	script := read(t, "deps.sh")
	_, list, _ := strings.Cut(string(script), "<<-LIST\n")
	list, _, ok := strings.Cut(list, "\tLIST\n")
	if !ok {
		t.Fatal("deps.sh has no list of programs")
	}
	for line := range strings.Lines(list) {
		names = append(names, strings.Fields(line)[0])
	}
	return names
}

func (h *depsHost) script(path, text string) {
	h.t.Helper()
	write(h.t, path, []byte("#!/bin/sh\n"+text+"\n"))
	if err := os.Chmod(path, 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// deps returns a command that runs deps.sh in the mount namespace. It skips the
// test if the system does not allow one.
func (h *depsHost) deps() *exec.Cmd {
	h.t.Helper()
	deps, err := filepath.Abs("deps.sh")
	if err != nil {
		h.t.Fatal(err)
	}
	unshare := []string{"--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	if out, err := h.command("unshare", append(unshare, "true")...).CombinedOutput(); err != nil {
		h.t.Skipf("this system does not allow a mount namespace: %v: %s", err, out)
	}
	// A shell cannot trap a signal that its parent ignores, as nohup does.
	return h.command("unshare", append(unshare, "sh", "-c", `mount --bind "$1" /usr/sbin && exec env --default-signal=HUP,INT,TERM "$2"`, "sh", h.path("sbin"), deps)...)
}

// wantPolicy checks that the only policy is the given one, or that there is none
// if want is "".
func (h *depsHost) wantPolicy(want string) {
	h.t.Helper()
	if want == "" {
		wantMissing(h.t, h.policy)
	} else {
		wantFile(h.t, h.policy, want)
	}
	wantMissing(h.t, h.policy+".before-stretcher-tests")
}

func TestDepsStartsNoDaemon(t *testing.T) {
	t.Parallel()
	const installs = `for daemon in sshd nginx; do printf '#!/bin/sh\n' >/usr/sbin/$daemon; chmod 755 /usr/sbin/$daemon; done`
	const wantRecord = "apt-get update -qq\napt-get install -y -qq --no-install-recommends nginx-light openssh-server\npolicy 101\n"

	for _, policy := range []string{"", "#!/bin/sh\n# the administrator's\nexit 104\n"} {
		start := func(t *testing.T, installation string) *depsHost {
			t.Helper()
			h := newDepsHost(t, installation)
			if policy != "" {
				h.script(h.policy, strings.TrimSuffix(strings.TrimPrefix(policy, "#!/bin/sh\n"), "\n"))
			}
			return h
		}
		wantSuccess := func(h *depsHost) {
			t.Helper()
			out := output(h.t, h.deps())
			if !strings.HasPrefix(out, "installing packages for the tests, without starting their daemons: nginx-light openssh-server") {
				h.t.Errorf("the output does not begin with what is installed:\n%s", out)
			}
			record, err := os.ReadFile(h.path("record"))
			if err != nil || !strings.HasSuffix(string(record), wantRecord+"systemctl disable --quiet ssh.service\n") {
				h.t.Errorf("%v; the calls were:\n%s", err, record)
			}
			h.wantPolicy(policy)
		}
		wantFailure := func(h *depsHost) {
			h.t.Helper()
			if out, err := h.deps().CombinedOutput(); err == nil {
				h.t.Errorf("deps.sh succeeded:\n%s", out)
			}
			wantFile(h.t, h.path("record"), wantRecord)
		}
		name := "without a policy before/"
		if policy != "" {
			name = "with a policy before/"
		}
		t.Run(name+"success", func(t *testing.T) {
			t.Parallel()
			wantSuccess(start(t, installs))
		})
		t.Run(name+"failure", func(t *testing.T) {
			t.Parallel()
			h := start(t, "exit 100")
			wantFailure(h)
			h.wantPolicy(policy)
		})
		for _, signal := range []string{"HUP", "INT", "TERM"} {
			t.Run(name+signal, func(t *testing.T) {
				t.Parallel()
				h := start(t, "kill -"+signal+" $PPID")
				wantFailure(h)
				h.wantPolicy(policy)
			})
		}
		// What a killed run leaves, the next run puts in order.
		t.Run(name+"KILL", func(t *testing.T) {
			t.Parallel()
			h := start(t, `[ -e "$0.again" ] || { touch "$0.again"; kill -KILL $PPID; }`+"\n"+installs)
			wantFailure(h)
			for _, daemon := range []string{"sshd", "nginx"} {
				if err := os.Remove(h.path("sbin", daemon)); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			wantSuccess(h)
		})
	}
}

// deps.sh becomes root only if its caller says how.
func TestDepsAsksForRoot(t *testing.T) {
	t.Parallel()
	h := newDepsHost(t, "exit 1")
	h.script(h.path("bin", "id"), "echo 1000")
	h.script(h.path("bin", "sudo"), "echo sudo >>"+h.path("record"))
	out, err := h.deps().CombinedOutput()
	if err == nil || !strings.Contains(string(out), "apt-get install --no-install-recommends nginx-light openssh-server") || !strings.Contains(string(out), "make test SUDO=sudo") {
		t.Errorf("%v\n%s", err, out)
	}
	wantMissing(t, h.path("record"))

	h.script(h.path("bin", "sudo"), "echo \"sudo $1\" >>"+h.path("record")+"\nexec \"$@\"")
	h.env = append(h.env, "SUDO=sudo")
	if out, err := h.deps().CombinedOutput(); err == nil {
		t.Errorf("deps.sh succeeded:\n%s", out)
	}
	wantFile(t, h.path("record"), "sudo tee\nsudo chmod\nsudo apt-get\napt-get update -qq\nsudo env\n"+
		"apt-get install -y -qq --no-install-recommends nginx-light openssh-server\npolicy 101\nsudo rm\n")
}
