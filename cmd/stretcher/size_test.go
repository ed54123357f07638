package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What exceeds the limits of Linux for the arguments and the environment of a
// program is refused before anything is downloaded or run.
func TestTooLong(t *testing.T) {
	_, err := exec.LookPath("rsync")
	withRsync := err == nil
	const (
		oneArgument = `140005 bytes, more than the 131071 that Linux allows in one argument: `
		together    = `\d+ bytes of arguments and \d+ of environment, together more than the 126976 that Linux allows \(a quarter of ulimit -s, at most 6 MiB\): `
		inScript    = `put it in a script file in the archive`
		inFile      = `put the excludes in a file in the archive, and name it as exclude_from`
		command     = ` command "echo x{55}\.\.\.": `
	)
	for _, test := range []struct {
		name, manifest string
		size           int // of LONG in the manifest
		stack          int // ulimit -s, in KiB
		want           string
		rsync          bool
	}{
		{"pre", "pre: ['echo LONG']", 140_000, 8192, `pre` + command + oneArgument + inScript, false},
		{"post", "post: ['touch ran', 'echo LONG']", 140_000, 8192, `post` + command + oneArgument + inScript, false},
		{"success", "success: ['echo LONG']", 140_000, 8192, `success` + command + oneArgument + inScript, false},
		{"failure", "failure: ['echo LONG']", 140_000, 8192, `failure` + command + oneArgument + inScript, false},
		{"variable", "env: {BIG: LONG}, pre: [touch ran]", 140_000, 8192, `file://.*/manifest.yml: manifest: commands.env: the variable BIG has 140004 bytes, more than the 131071 that Linux allows in one: put its value in a file`, false},
		{"exclude", "pre: [touch ran]}\nsync_strategy: rsync\nexcludes: [LONG]\n#", 139_995, 8192, `excludes: ` + oneArgument + inFile, true},
		{"together", "post: ['echo LONG']", 125_000, 512, `post` + command + together + inScript, false},
		{"with the environment", "env: {BIG: LONG}, pre: ['echo LONG']", 65_000, 512, `pre` + command + together + inScript, false},
		{"with a long error", "failure: ['echo LONG']", 110_000, 512, `failure` + command + together + inScript, false},
		{"excludes", "pre: [touch ran]}\nsync_strategy: rsync\nexcludes: [LONG, LONG]\n#", 50_000, 512, `excludes: ` + together + inFile, true},
		{"fits", "env: {BIG: LONG}, post: ['echo LONG > /dev/null', touch ran]", 131_000, 8192, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.rsync && !withRsync {
				t.Skip("rsync is not installed")
			}
			w := newWorld(t)
			w.write("manifest.yml", w.archive(w.path("dest"))+strings.ReplaceAll("commands: {"+test.manifest+"}\n", "LONG", strings.Repeat("x", test.size)))
			cmd := exec.Command("sh", "-c", fmt.Sprintf("ulimit -S -s %d && exec stretcher", test.stack))
			cmd.Stdin = strings.NewReader("file://" + w.path("manifest.yml"))
			a := w.startCommand(cmd, nil)
			ran := func() bool {
				_, err := os.Stat(w.path("ran"))
				return err == nil
			}
			if test.want == "" {
				a.exits(0)
				if !ran() {
					t.Error("the commands were not run")
				}
				return
			}
			a.exits(1)
			a.logged(`\[ERROR\] Deploy manifest failed: ` + test.want + "$")
			if ran() {
				t.Error("a command was run")
			}
			if log := a.log.String(); strings.Contains(log, "Checksum ok") || strings.Contains(log, strings.Repeat("x", 600)) {
				t.Errorf("it downloaded the archive, or logged the whole text")
			}
			w.clean()
		})
	}
}

// The failure commands are run without a variable that is too long for Linux.
func TestFailureWithoutLongVariable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", `commands: {env: {BIG: `+strings.Repeat("x", 140_000)+`, SMALL: kept}, post: [touch ran], failure: ['echo "$SMALL $BIG: $STRETCHER_ERROR" > told']}`)
	w.start("manifest.yml", nil).exits(1)
	if got := w.read("told"); !strings.HasPrefix(got, "kept : ") || !strings.Contains(got, "the variable BIG has 140004 bytes") {
		t.Errorf("the failure command was told %q", got)
	}
}

// Commands need a shell that works. Without commands, none is needed.
func TestShell(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("stretcher")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.write("bad/sh", "neither a program nor a script")
	w.run("mkdir", "none")
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: builtin\ncommands: {post: [touch ran]}\n")
	w.write("plain.yml", w.archive(w.path("dest"))+"sync_strategy: builtin\n")
	w.write("commands.yml", "commands: {pre: [touch ran]}\n")
	w.write("success.yml", "commands: {success: [touch ran]}\n")
	for path, want := range map[string]string{
		"none": `exec: "sh": executable file not found in \$PATH`,
		"bad":  `fork/exec .*/bad/sh: exec format error`,
	} {
		start := func(manifest string) *agent {
			cmd := exec.Command(binary)
			cmd.Stdin = strings.NewReader("file://" + w.path(manifest))
			return w.startCommand(cmd, []string{"PATH=" + w.path(path)})
		}
		a := start("manifest.yml")
		a.exits(1)
		a.logged(`\[ERROR\] Deploy manifest failed: commands are run by sh, which does not work: ` + want + `: install a shell, or set PATH$`)
		if strings.Contains(a.log.String(), "Checksum ok") {
			t.Error("it downloaded the archive")
		}
		start("plain.yml").exits(0)

		// Without src, nothing has been done before the first command.
		a = start("commands.yml")
		a.exits(1)
		a.logged(`\[ERROR\] Deploy manifest failed: pre command: failed: touch ran: ` + want + `$`)
		a = start("success.yml")
		a.exits(1)
		a.logged(`\[ERROR\] Deploy manifest failed: commands are run by sh, which does not work: ` + want)
	}
}
