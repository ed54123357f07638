package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testRPM installs a package by rpm in an empty root directory, deploys with it, verifies
// it, upgrades it and erases it. Its scripts are run in that root, by the shell of this
// machine and with a systemctl that records what it is told.
func testRPM(t *testing.T, old, newer string) {
	h := newHost(t)
	root := h.path("root")
	rpm := func(args ...string) *exec.Cmd {
		command := append([]string{program(t, "rpm"), "--root", root, "--dbpath", "/var/lib/rpm"}, args...)
		if os.Geteuid() != 0 {
			command = append([]string{"unshare", "--map-root-user"}, command...)
		}
		return h.command(command[0], command[1:]...)
	}
	if err := os.MkdirAll(root+"/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := rpm("--initdb").CombinedOutput(); err != nil {
		t.Skipf("this system does not allow another root directory: %v: %s", err, out)
	}
	h.copyShell(root)
	write(t, root+"/bin/systemctl", []byte("#!/bin/sh\necho \"$*\" >> /systemctl\n"))
	if err := os.Chmod(root+"/bin/systemctl", 0o755); err != nil {
		t.Fatal(err)
	}
	// wantTold checks what the scripts have told systemctl since the last call.
	wantTold := func(want string) {
		t.Helper()
		wantFile(t, root+"/systemctl", want)
		if err := os.Remove(root + "/systemctl"); err != nil {
			t.Error(err)
		}
	}

	output(t, rpm("--install", old))
	wantTold("daemon-reload\n")
	wantVersion(t, h, root, "1.2.3")
	wantMissing(t, root+"/etc") // nothing is enabled
	for name, mode := range packaged {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s has the mode %v, want %v", name, info.Mode(), mode)
		}
	}
	list := output(t, rpm("--query", "--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]", "stretcher"))
	for line := range strings.Lines(list) {
		owner, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		// A directory of others would be theirs no longer.
		if owner != "root:root" || regexp.MustCompile(`^/(etc.*|usr/bin|usr/lib/systemd/system|usr/share/man/man8)$`).MatchString(path) {
			t.Errorf("the package has %s", line)
		}
	}
	unit := root + "/usr/lib/systemd/system/stretcher-consul.service"
	wantPackagedUnit(t, unit)
	wantUsable(t, h, root)

	if out := output(t, rpm("--verify", "stretcher")); out != "" {
		t.Errorf("what is installed differs from the package:\n%s", out)
	}
	write(t, unit, append(read(t, unit), '\n'))
	if out, err := rpm("--verify", "stretcher").CombinedOutput(); err == nil || !strings.Contains(string(out), "/usr/lib/systemd/system/stretcher-consul.service") {
		t.Errorf("a changed file is not found: %v: %s", err, out)
	}

	output(t, rpm("--upgrade", newer))
	wantTold("daemon-reload\ndaemon-reload\n") // by the newer package, and by the older one
	wantVersion(t, h, root, "1.2.4")
	output(t, rpm("--verify", "stretcher"))
	output(t, rpm("--erase", "stretcher"))
	wantTold("disable --now stretcher-consul.service stretcher-serf.service\ndaemon-reload\n")
	wantMissing(t, root+"/usr/share/doc/stretcher")
	for name := range packaged {
		wantMissing(t, filepath.Join(root, name))
	}
	if _, err := os.Stat(root + "/var/lib/stretcher/history.jsonl"); err != nil {
		t.Error("the history was removed:", err)
	}
}

// copyShell copies sh, and what it needs, below root.
func (h *host) copyShell(root string) {
	h.t.Helper()
	libraries := regexp.MustCompile(`/\S+`).FindAllString(output(h.t, h.command("ldd", "/bin/sh")), -1)
	for _, path := range append(libraries, "/bin/sh") {
		if err := os.MkdirAll(root+filepath.Dir(path), 0o755); err != nil {
			h.t.Fatal(err)
		}
		output(h.t, h.command("cp", "--dereference", path, root+path))
	}
}
