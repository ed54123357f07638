package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// packSources returns a tar of this tree.
func packSources(t *testing.T, h *host) string {
	t.Helper()
	sources := h.path("sources.tar")
	list := h.command("git", "-C", sourceDir(t), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	tree := h.command("tar", "-C", sourceDir(t), "--null", "-T", "-", "-cf", sources)
	tree.Stdin = strings.NewReader(output(t, list))
	output(t, tree)
	return sources
}

// buildPackages unpacks the sources to dir and builds there what make dist does, for
// one system.
func buildPackages(t *testing.T, h *host, sources, dir, version string) {
	t.Helper()
	if err := os.MkdirAll(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, h.command("tar", "-C", dir, "-xf", sources))
	if err := os.Symlink(filepath.Dir(tool(t, "nfpm")), dir+"/bin/tools"); err != nil {
		t.Fatal(err)
	}
	cmd := h.command(dir+"/packaging/dist.sh", "linux/amd64")
	cmd.Env = append(os.Environ(), "TMPDIR="+h.path("tmp"), "PACKAGE_VERSION="+version, "VERSION=", "SOURCE_DATE_EPOCH=1764460800", "MAINTAINER=Tester <tester@example.org>")
	t.Log(output(t, cmd))
}

// sourceDir returns the directory of the program's module.
func sourceDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPackages(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("../.git"); err != nil {
		t.Skip("this is no checkout of git, which lists the files of the tree")
	}
	h := newHost(t)
	first, second := h.path("first"), h.path("another", "place")
	sources := packSources(t, h)
	buildPackages(t, h, sources, first, "1.2.3")
	// Another clone has files of another time, and of another mode if the umask differs.
	output(t, h.command("sh", "-c", `umask 077; mkdir "$1" && tar -C "$1" -xmf "$2" --no-same-permissions && chmod -R go= "$1"`, "sh", h.path("clone"), sources))
	closed := h.path("closed.tar")
	output(t, h.command("tar", "-C", h.path("clone"), "-cf", closed, "."))
	buildPackages(t, h, closed, second, "1.2.3")
	name := first + "/dist/stretcher_1.2.3_linux_amd64"

	t.Run("same bytes", func(t *testing.T) {
		output(t, h.command("diff", "-r", first+"/dist", second+"/dist"))
		check := h.command("sha256sum", "-c", "SHA256SUMS")
		check.Dir = first + "/dist"
		if got := strings.Count(output(t, check), ": OK\n"); got != 4 {
			t.Errorf("%d files have a checksum, want 4", got)
		}
	})
	buildPackages(t, h, sources, h.path("third"), "1.2.4")
	newer := h.path("third/dist/stretcher_1.2.4_linux_amd64")
	t.Run("deb", func(t *testing.T) { testDebian(t, name+".deb", newer+".deb") })
	t.Run("rpm", func(t *testing.T) { testRPM(t, name+".rpm", newer+".rpm") })
	t.Run("apk", func(t *testing.T) { testAPK(t, name+".apk") })
	t.Run("archive", func(t *testing.T) {
		output(t, h.command("tar", "-C", h.path("work"), "-xzf", name+".tar.gz"))
		if got := output(t, h.command(h.path("work/stretcher_1.2.3_linux_amd64/stretcher"), "-version")); got != "version: 1.2.3\n" {
			t.Errorf("got %q", got)
		}
	})
}

// testDebian installs a package by dpkg below a directory, deploys with it, upgrades it
// and purges it.
func testDebian(t *testing.T, old, newer string) {
	h := newHost(t)
	root := h.path("root")
	for _, d := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/var/lib/dpkg/status", nil)
	dpkg := func(args ...string) {
		t.Helper()
		// The scripts run outside of root, and know that by DPKG_ROOT.
		output(t, h.command(program(t, "dpkg"), append([]string{"--root=" + root, "--force-script-chrootless", "--force-not-root", "--force-bad-path", "--log=" + h.path("dpkg.log")}, args...)...))
	}
	dpkg("--install", old)
	wantVersion(t, h, root, "1.2.3")
	wantMissing(t, root+"/etc") // nothing is enabled
	wantPackagedUnit(t, root+"/lib/systemd/system/stretcher-consul.service")
	wantUsable(t, h, root)

	dpkg("--install", newer)
	wantVersion(t, h, root, "1.2.4")
	dpkg("--remove", "stretcher")
	wantMissing(t, root+"/usr/bin/stretcher")
	if _, err := os.Stat(root + "/var/lib/stretcher"); err != nil {
		t.Error("the removal has removed the history:", err)
	}
	dpkg("--purge", "stretcher")
	wantMissing(t, root+"/var/lib/stretcher")
	wantMissing(t, root+"/usr")

	lint := h.command(program(t, "lintian"), "--allow-root", "--fail-on", "error,warning", old)
	lint.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // where it leaves files
	output(t, lint)
}

// wantVersion checks which version of the program is installed below root.
func wantVersion(t *testing.T, h *host, root, version string) {
	t.Helper()
	if got := output(t, h.command(root+"/usr/bin/stretcher", "-version")); got != "version: "+version+"\n" {
		t.Errorf("got %q, want version %s", got, version)
	}
}

// wantPackagedUnit checks that a unit starts the program where the package has it.
func wantPackagedUnit(t *testing.T, path string) {
	t.Helper()
	unit := string(read(t, path))
	if !strings.Contains(unit, " /usr/bin/stretcher ") || strings.Contains(unit, "/usr/local") {
		t.Errorf("the unit is\n%s", unit)
	}
}

// wantUsable deploys with the program that is installed below root, with its history
// there.
func wantUsable(t *testing.T, h *host, root string) {
	t.Helper()
	r := newRelease(t, "one")
	write(t, h.path("work", "app.tar.gz"), r.archive)
	write(t, h.path("work", "deploy.yml"), []byte(r.manifest(fileURL(h.path("work", "app.tar.gz")), h.path("dest"), "sync_strategy: builtin")))
	if err := os.MkdirAll(root+"/var/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, h.command(root+"/usr/bin/stretcher", "-state-dir", root+"/var/lib/stretcher", "deploy.yml"))
	r.wantDeployed(t, h.path("dest"))
}

// packaged are some of the files of the .rpm and of the .apk, with their modes.
var packaged = map[string]os.FileMode{
	"usr/bin/stretcher": 0o755,
	"usr/lib/systemd/system/stretcher-consul.service":    0o644,
	"usr/lib/systemd/system/stretcher-serf.service":      0o644,
	"usr/share/man/man8/stretcher.8.gz":                  0o644,
	"usr/share/bash-completion/completions/stretcher":    0o644,
	"usr/share/zsh/site-functions/_stretcher":            0o644,
	"usr/share/fish/vendor_completions.d/stretcher.fish": 0o644,
	"usr/share/doc/stretcher/copyright":                  0o644,
	"usr/share/doc/stretcher/docs/manifest.md":           0o644,
}

// The manual page is one that both formatters take without a warning.
func TestManPage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	page := filepath.Join(sourceDir(t), "packaging/stretcher.8")
	output(t, h.command(program(t, "mandoc"), "-Tlint", "-Wwarning", page))
	if groff, err := exec.LookPath("groff"); err == nil {
		if got := output(t, h.command(groff, "-ww", "-mandoc", "-Tascii", "-z", page)); got != "" {
			t.Errorf("groff: %s", got)
		}
	}
}

// The shells offer every option that the program has.
func TestCompletions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.env = append(h.env, "TERM=dumb")
	file := func(name string) string { return filepath.Join(sourceDir(t), "packaging/completions", name) }
	options := func(args ...string) (list []string) {
		for _, m := range regexp.MustCompile(`(?m)^  (-[a-z][a-z-]*)(?:, (-[a-z]+))?`).FindAllStringSubmatch(output(t, h.command(stretcherPath, args...)), -1) {
			list = append(list, m[1])
			if m[2] != "" {
				list = append(list, m[2])
			}
		}
		slices.Sort(list)
		return list
	}
	bash := func(words ...string) []string {
		script := `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stretcher; printf '%s\n' "${COMPREPLY[@]}"`
		return strings.Fields(output(t, h.command("bash", append([]string{"-c", script, "bash", file("stretcher.bash"), "stretcher"}, words...)...)))
	}
	fish := func(line string) (list []string) {
		for l := range strings.Lines(output(t, h.command(program(t, "fish"), "-c", `source $argv[1]; complete -C $argv[2]`, file("stretcher.fish"), line))) {
			word, _, _ := strings.Cut(strings.TrimSpace(l), "\t")
			list = append(list, word)
		}
		return list
	}
	// The rest of zsh's completion needs a terminal: this sees what it is called with.
	zsh := func(words ...string) []string {
		script := `_arguments() { print -l -- "$@" }; f=$1; shift; words=("$@"); CURRENT=$#; source $f`
		out := output(t, h.command(program(t, "zsh"), append([]string{"-f", "-c", script, "zsh", file("_stretcher"), "stretcher"}, words...)...))
		var list []string
		for _, m := range regexp.MustCompile(`(?m)^\*?(-[a-z-]+?)(=-)?\[`).FindAllStringSubmatch(out, -1) {
			list = append(list, m[1])
		}
		return list
	}
	for _, test := range []struct {
		shell     string
		got, want []string
	}{
		{"bash", bash("-"), options("-h")},
		{"bash", bash("pack", "-"), options("pack", "-h")},
		{"fish", fish("stretcher -"), options("-h")},
		{"fish", fish("stretcher pack -"), options("pack", "-h")},
		{"zsh", zsh("-"), options("-h")},
		{"zsh", zsh("pack", "-"), options("pack", "-h")},
		{"bash", bash("pa"), []string{"pack"}},
		{"fish", fish("stretcher pa"), []string{"pack"}},
		{"bash", bash("-log-level", "D"), []string{"DEBUG"}},
		{"bash", bash("-log-level", "=", "D"), []string{"DEBUG"}},
		{"fish", fish("stretcher -log-level D"), []string{"DEBUG"}},
		{"bash", bash("pack", "-format", ""), []string{"gz", "tar", "zst"}},
	} {
		var got []string
		for _, word := range test.got {
			got = append(got, strings.TrimSuffix(word, "=false"))
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s offers %q, want %q", test.shell, got, test.want)
		}
	}
}
