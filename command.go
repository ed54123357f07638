package stretcher

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/redact"
)

const (
	// maxVariable limits the variables that this package sets, in bytes.
	maxVariable = 16 << 10
	// shortLabel is how many bytes of a command an error has that is about its text.
	shortLabel = 60
)

// CommandLine is a command for sh -c. One without any characters other than
// white space does nothing.
type CommandLine string

// CommandLines are run one after another, until one fails.
type CommandLines []CommandLine

// Commands are the commands of a manifest. The zero value has none.
type Commands struct {
	// Pre are run before the archive is extracted.
	Pre CommandLines `yaml:"pre"`
	// Post are run after dest has been synced.
	Post CommandLines `yaml:"post"`
	// Success are run when the deployment succeeded, with its log on stdin.
	Success CommandLines `yaml:"success"`
	// Failure are run when the deployment failed, with its log on stdin.
	Failure CommandLines `yaml:"failure"`
	// Env is added to the environment of all commands.
	Env map[string]string `yaml:"env"`
}

// String returns the command as the manifest has it.
func (c CommandLine) String() string { return string(c) }

// Invoke runs the command. Its stdout and stderr go to the standard logger and
// to LogBuffer, line by line while it runs. An exit status other than 0 is an
// error.
func (c CommandLine) Invoke() error {
	defer capture.Append()()
	return (&runner{}).logged(context.Background(), c)
}

// InvokePipe runs the command with src on its stdin; its stdout and stderr are
// those of this process. The command need not read src.
func (c CommandLine) InvokePipe(src io.Reader) error {
	return (&runner{}).piped(context.Background(), c, src)
}

// Invoke runs the commands as CommandLine.Invoke does, until one fails.
func (cs CommandLines) Invoke() error {
	defer capture.Append()()
	return (&runner{}).loggedAll(context.Background(), cs)
}

// InvokePipe runs the commands as CommandLine.InvokePipe does, until one fails.
// Each has all of src on its stdin.
func (cs CommandLines) InvokePipe(src *bytes.Buffer) error {
	return (&runner{}).pipedAll(context.Background(), cs, src)
}

func (c CommandLine) empty() bool { return strings.TrimSpace(string(c)) == "" }

// given returns the command lines that are not empty.
func (c CommandLines) given() CommandLines {
	return slices.DeleteFunc(slices.Clone(c), CommandLine.empty)
}

// label names the command in the log and in errors. Secrets are redacted first,
// since half a URL might not be recognized as one.
func (c CommandLine) label() string { return redact.Printable(proc.Label(redact.Text(string(c)))) }

func (c *Commands) empty() bool {
	for _, list := range c.kinds() {
		if len(list.given()) > 0 {
			return false
		}
	}
	return true
}

// kinds are the lists of commands by their keys in the manifest.
func (c *Commands) kinds() iter.Seq2[string, CommandLines] {
	return func(yield func(string, CommandLines) bool) {
		_ = yield("pre", c.Pre) && yield("post", c.Post) && yield("success", c.Success) && yield("failure", c.Failure)
	}
}

// check reports what the system would not take as a command or a variable.
func (c *Commands) check(add func(err error, path string, item ...int)) {
	for kind, list := range c.kinds() {
		for i, line := range list {
			if strings.ContainsRune(string(line), 0) {
				add(fmt.Errorf(`commands.%s: "%s" has a NUL byte`, kind, proc.Shorten(line.label(), shortLabel)), "commands."+kind, i)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if err := proc.CheckVariable(name, c.Env[name]); err != nil {
			add(fmt.Errorf("commands.env: %w", err), "commands.env."+name)
		}
	}
}

// checkSize reports that the command is too long to be started with the environment.
func (c CommandLine) checkSize(kind string, env []string) error {
	if err := proc.CheckSize([]string{"sh", "-c", string(c)}, env, "put it in a script file in the archive"); err != nil {
		return fmt.Errorf(`%s command "%s": %w`, kind, proc.Shorten(c.label(), shortLabel), err)
	}
	return nil
}

// runner runs the commands of one deployment. The zero value runs them with the
// environment of this process and without limits.
type runner struct{ proc.Options }

func newRunner(m *Manifest, conf Config, ev *event) *runner {
	return &runner{proc.Options{Env: m.environment(ev), Timeout: conf.CommandTimeout, Abort: conf.Abort}}
}

// unlimited returns a runner for a command that is not one of the manifest's.
func (r *runner) unlimited() *runner {
	return &runner{proc.Options{Env: r.Env, Abort: r.Abort}}
}

// checkSizes reports, before anything has been done, that a command is too long to be
// started with the environment that it will have.
func (r *runner) checkSizes(c *Commands) error {
	for kind, list := range c.kinds() {
		env := r.Env
		if kind == "success" || kind == "failure" {
			env = append(slices.Clone(env), resultVariables(kind, strings.Repeat("x", maxVariable), 0)...)
		}
		for _, line := range list {
			if err := line.checkSize(kind, env); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *runner) loggedAll(ctx context.Context, cs CommandLines) error {
	for _, c := range cs {
		if err := r.logged(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) pipedAll(ctx context.Context, cs CommandLines, src *bytes.Buffer) error {
	for _, c := range cs {
		if err := r.piped(ctx, c, bytes.NewReader(src.Bytes())); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) logged(ctx context.Context, c CommandLine) error {
	if c.empty() {
		return nil
	}
	log.Println("invoking command:", c.label())
	return r.log(ctx, c.label(), exec.Command("sh", "-c", c.String()))
}

func (r *runner) piped(ctx context.Context, c CommandLine, src io.Reader) error {
	if c.empty() {
		return nil
	}
	log.Println("invoking command:", c.label())
	cmd := exec.Command("sh", "-c", c.String())
	cmd.Stdin = src
	cmd.Stdout, cmd.Stderr = capture.Direct(c.label())
	return proc.Run(ctx, c.label(), cmd, r.Options)
}

// log runs cmd with its output in the log. Errors call the command name.
func (r *runner) log(ctx context.Context, name string, cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = capture.Output(name)
	return proc.Run(ctx, name, cmd, r.Options)
}

// resultVariables are what success and failure commands have in their environment
// besides that of the others.
func resultVariables(result, text string, took time.Duration) []string {
	return []string{
		"STRETCHER_DURATION=" + strconv.FormatFloat(took.Seconds(), 'f', 3, 64),
		"STRETCHER_RESULT=" + result,
		"STRETCHER_ERROR=" + forEnvironment(text),
	}
}

// environment returns the environment of the commands: that of the agent,
// commands.env of the manifest, and what deployment they are part of.
func (m *Manifest) environment(ev *event) []string {
	env := proc.Environment(m.Commands.Env,
		"STRETCHER_RESULT", "STRETCHER_ERROR", "STRETCHER_DURATION", // of a deployment whose command started this one
		"CONSUL_INDEX", // with it, a deployment that a command starts would exit with 0 also after a failure
	)
	return append(env,
		"STRETCHER_MANIFEST_URL="+forEnvironment(redact.URL(ev.manifestURL)),
		"STRETCHER_SRC="+forEnvironment(redact.URL(m.Src)),
		"STRETCHER_CHECKSUM="+forEnvironment(m.CheckSum),
		"STRETCHER_DEST="+strings.ReplaceAll(m.Dest, "\x00", ""),
		"STRETCHER_EVENT_ID="+forEnvironment(ev.id))
}

// forEnvironment returns s as the value of a variable: redacted, without NUL
// bytes, and cut to a length with which commands can still be started.
func forEnvironment(s string) string {
	return proc.Shorten(strings.ReplaceAll(redact.Text(s), "\x00", ""), maxVariable)
}
