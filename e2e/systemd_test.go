package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

var exampleUnits = []string{
	"systemd/stretcher-consul.service",
	"systemd/stretcher-serf.service",
	"fleet/stretcher-catchup@.service",
}

// unitSettings returns the settings of the [Service] section of an example unit.
func unitSettings(t *testing.T, unit string) map[string][]string {
	t.Helper()
	text := read(t, filepath.Join("..", "examples", unit))
	_, service, _ := strings.Cut(string(text), "\n[Service]\n")
	service, _, _ = strings.Cut(service, "\n[Install]\n")
	settings := map[string][]string{}
	for line := range strings.Lines(strings.ReplaceAll(service, "\\\n", " ")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	return settings
}

// The units are as restricted as they say, and all in the same way.
func TestUnitsAreHardened(t *testing.T) {
	t.Parallel()
	hardening := func(unit string) map[string][]string {
		settings := unitSettings(t, unit)
		maps.DeleteFunc(settings, func(key string, _ []string) bool {
			return !slices.ContainsFunc([]string{"Cap", "Lock", "Private", "Protect", "Restrict", "SystemCall"}, func(prefix string) bool {
				return strings.HasPrefix(key, prefix) && !strings.HasPrefix(key, "Restart")
			})
		})
		return settings
	}
	for _, unit := range exampleUnits {
		path := filepath.Join("..", "examples", unit)
		if got, want := hardening(unit), hardening(exampleUnits[0]); len(got) < 10 || !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s has the restrictions %v, %s has %v", unit, got, exampleUnits[0], want)
		}
		// It checks a template by an instance of it.
		instance := filepath.Join(t.TempDir(), strings.ReplaceAll(filepath.Base(unit), "@", "@hello"))
		text := read(t, path)
		write(t, instance, text)
		cmd := exec.Command(program(t, "systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=50", instance)
		cmd.Env = append(os.Environ(), "SYSTEMD_COLORS=0", "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: the rating is above 5.0, or there is none: %v\n%s", unit, err, out)
		}
		_, rating, _ := strings.Cut(string(out), "Overall exposure level for "+filepath.Base(instance)+": ")
		rating, _, _ = strings.Cut(rating, " ")
		// Other versions than that of Debian 12 may rate differently.
		version, err := exec.Command(cmd.Path, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		said := "rates it as " + rating + ", out of 10"
		if unit == exampleUnits[0] {
			said = "rates this as " + rating + ", out of 10"
		}
		if strings.HasPrefix(string(version), "systemd 252 ") && !bytes.Contains(text, []byte(said)) {
			t.Errorf("%s does not say %q", unit, said)
		}
	}
}

// The real systemd runs the units, in a container: deployments of all that an archive
// can contain, commands, restarts while a deployment runs, and a complete journal.
func TestUnitsUnderSystemd(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can boot a container")
	}
	shared, mounts := t.TempDir(), t.TempDir()
	for _, name := range []string{"boot.sh", "inside.sh"} {
		script := read(t, filepath.Join("testdata", "systemd", name))
		write(t, filepath.Join(shared, name), script)
	}
	if err := os.CopyFS(filepath.Join(shared, "examples"), os.DirFS(filepath.Join("..", "examples"))); err != nil {
		t.Fatal(err)
	}
	writeCloudInit(t, shared)
	h := newHost(t)
	unshare := func(args ...string) *exec.Cmd {
		return h.command(program(t, "unshare"), append([]string{"--mount", "--propagation", "private"}, args...)...)
	}
	// Where the tests run in a container themselves, it may not be allowed to have
	// one of its own.
	probe := fmt.Sprintf("mount -t tmpfs tmpfs %q && mkdir %[1]q/u %[1]q/w && mount -t overlay -o lowerdir=/,upperdir=%[1]q/u,workdir=%[1]q/w overlay /mnt && mknod %[1]q/d c 1 3 && test -w /sys/fs/cgroup", mounts)
	if out, err := unshare("sh", "-c", probe).CombinedOutput(); err != nil {
		t.Skipf("this machine does not allow a container: %v\n%s", err, out)
	}
	program(t, "systemd-nspawn")
	name := fmt.Sprintf("stretcher-e2e-%d", os.Getpid())
	t.Cleanup(func() { removeControlGroups(t, name) }) // after the container has ended
	boot := launch(t, "container", unshare("--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", filepath.Join(shared, "boot.sh"), name, mounts, shared, stretcherPath, filepath.Dir(tool(t, "consul"))))
	select {
	case <-boot.done:
	case <-time.After(3 * patience):
		t.Error("the container is still running")
		boot.stop()
	}
	log, err := os.ReadFile(filepath.Join(shared, "log"))
	if err != nil {
		t.Fatalf("%v\n%s", err, boot.output())
	}
	wantNoRace(t, string(log))
	if code := boot.cmd.ProcessState.ExitCode(); code != 0 || !strings.HasSuffix(string(log), "all is well\n") {
		t.Errorf("exit status %d\n%s", code, tail(string(log), 32<<10))
	}
}

// removeControlGroups removes the control groups of a container that has ended.
func removeControlGroups(t *testing.T, name string) {
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		var groups []string
		filepath.WalkDir(filepath.Join(hierarchy, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		for _, group := range slices.Backward(groups) {
			waitFor(t, "the end of its processes", func() error { return os.Remove(group) })
		}
	}
}

// The capabilities that the units leave to deployments are enough for archives of all
// that root can unpack. Without one of them, such a deployment fails.
func TestUnitCapabilities(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root has capabilities to leave out")
	}
	h := newHost(t)
	if out, err := h.command("mknod", "device", "c", "1", "3").CombinedOutput(); err != nil {
		t.Skipf("this machine does not allow devices: %s", out)
	}
	output(t, h.command("sh", "-c", `
		mkdir -p tree/dir && echo data > tree/dir/file && echo data > tree/setuid && mknod tree/device c 1 3 &&
		chown 12345:54321 tree/dir tree/dir/file && chmod 4755 tree/setuid && chmod 700 tree/dir && chmod 0 tree/dir/file &&
		tar -cf ../tree.tar -C tree .`))
	archive := read(t, h.path("tree.tar"))
	deploy := func(capabilities []string) *outcome {
		h.t.Helper()
		if err := os.RemoveAll(h.path("dest")); err != nil {
			t.Fatal(err)
		}
		manifest := fmt.Sprintf("src: %s\nchecksum: %x\ndest: %s\nsync_strategy: builtin\ncommands:\n  post: ['setpriv --reuid 65534 --regid 65534 --clear-groups true']\n",
			fileURL(h.path("tree.tar")), sha256.Sum256(archive), h.path("dest"))
		write(t, h.path("app.yml"), []byte(manifest))
		set := "-all"
		for _, c := range capabilities {
			set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
		}
		cmd := h.command(program(t, "setpriv"), "--bounding-set", set, "--inh-caps", "-all", stretcherPath, fileURL(h.path("app.yml")))
		return h.run(cmd).wait()
	}
	all := strings.Fields(strings.Join(unitSettings(t, exampleUnits[0])["CapabilityBoundingSet"], " "))
	// Those that this machine does not have anyway cannot be tested here.
	var had []string
	for _, c := range all {
		if exec.Command(program(t, "setpriv"), "--bounding-set", "-all,+"+strings.ToLower(strings.TrimPrefix(c, "CAP_")), "true").Run() == nil {
			had = append(had, c)
		}
	}
	deploy(had).wantSuccess()
	if got := output(t, h.command("stat", "-c", "%a %u:%g %F", h.path("dest/setuid"), h.path("dest/dir/file"), h.path("dest/device"))); got != "4755 0:0 regular file\n0 12345:54321 regular file\n644 0:0 character special file\n" {
		t.Errorf("dest has\n%s", got)
	}
	for _, c := range []string{"CAP_CHOWN", "CAP_MKNOD", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID"} {
		deploy(slices.DeleteFunc(slices.Clone(had), func(other string) bool { return other == c })).wantFailure()
	}
}

// writeCloudInit makes two scripts of the user data for cloud-init: one that writes the
// files, and one of the commands.
func writeCloudInit(t *testing.T, dir string) {
	t.Helper()
	var user struct {
		WriteFiles []struct{ Path, Permissions, Content string } `yaml:"write_files"`
		RunCmd     [][]string                                    `yaml:"runcmd"`
	}
	text := read(t, filepath.Join("..", "examples", "cloud-init", "user-data.yml"))
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&user); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("#cloud-config\n")) || len(user.WriteFiles) == 0 || len(user.RunCmd) == 0 {
		t.Fatalf("the user data are %+v", user)
	}
	var files, commands strings.Builder
	for i, f := range user.WriteFiles {
		content := filepath.Join(dir, fmt.Sprintf("cloud-%d", i))
		write(t, content, []byte(f.Content))
		fmt.Fprintf(&files, "install -D -m %s /e2e/%s %s\n", f.Permissions, filepath.Base(content), quote(f.Path))
	}
	for _, command := range user.RunCmd {
		for _, word := range command {
			commands.WriteString(quote(word) + " ")
		}
		commands.WriteString("\n")
	}
	write(t, filepath.Join(dir, "cloud-files.sh"), []byte(files.String()))
	write(t, filepath.Join(dir, "cloud-commands.sh"), []byte(commands.String()))
}

// The configuration for a Serf agent starts stretcher as the unit of a Serf agent does.
func TestExampleSerfConfiguration(t *testing.T) {
	t.Parallel()
	var config struct {
		Handlers []string `json:"event_handlers"`
	}
	path := filepath.Join("..", "examples", "serf", "stretcher.json")
	text := read(t, path)
	if err := json.Unmarshal(text, &config); err != nil || len(config.Handlers) != 1 {
		t.Fatalf("%v: %q", err, config.Handlers)
	}
	if start := unitSettings(t, "systemd/stretcher-serf.service")["ExecStart"]; !strings.HasSuffix(start[0], `"-event-handler=`+config.Handlers[0]+`"`) {
		t.Errorf("the handler is %q, that of the unit is in %q", config.Handlers[0], start)
	}
	// Serf reads it.
	absolute, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	startSerfAgent(t, func(bind, rpc string) *exec.Cmd {
		return h.command(tool(t, "serf"), "agent", "-config-file", absolute, "-node=n", "-profile=local", "-bind="+bind, "-rpc-addr="+rpc)
	})
}
