package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// byHand is the deployment with which the agent is compared. Its arguments are
// the URL of the archive, its SHA-256, a directory for temporary files, and dest.
const byHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
mkdir "$3/tree"
tar xf "$3/archive" -C "$3/tree"
rsync -a --delete -v "$3/tree/" "$4/"
rm -rf "$3/archive" "$3/tree"
`

// dest is the directory that both sides deploy to.
func (b *bench) dest() string { return filepath.Join(cmp.Or(b.disk, b.dir), "dest") }

// tmp is the directory that both sides use for temporary files.
func (b *bench) tmp() string { return filepath.Join(b.dir, "tmp") }

// side is one way of deploying an archive. It returns how long that took.
type side struct {
	name string
	run  func(context.Context, archive) (time.Duration, error)
}

func (b *bench) sides() []side {
	return []side{
		{"by hand", b.byHand},
		{"default", func(ctx context.Context, a archive) (time.Duration, error) { return b.byAgent(ctx, a, "") }},
		{"builtin", func(ctx context.Context, a archive) (time.Duration, error) { return b.byAgent(ctx, a, "builtin") }},
	}
}

// byHand deploys the archive by hand.
func (b *bench) byHand(ctx context.Context, a archive) (time.Duration, error) {
	return b.shell(ctx, byHand, a.url, a.sum, b.tmp(), b.dest())
}

// shell runs a script and returns how long that took.
func (b *bench) shell(ctx context.Context, script string, args ...string) (time.Duration, error) {
	return b.timed(command(ctx, "sh", append([]string{"-ec", script, "sh"}, args...)...), nil)
}

// deployment returns a command that runs the agent to deploy the archive. The
// strategy "" is the default.
func (b *bench) deployment(ctx context.Context, a archive, strategy string, args ...string) (*exec.Cmd, error) {
	manifest := fmt.Sprintf("src: %q\nchecksum: %s\ndest: %q\n%s\n", a.url, a.sum, b.dest(), a.index)
	if strategy != "" {
		manifest += fmt.Sprintf("sync_strategy: %s\n", strategy)
	}
	path := filepath.Join(b.dir, "manifest.yml")
	if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
		return nil, err
	}
	cmd := command(ctx, b.agent, args...)
	cmd.Stdin = bytes.NewReader([]byte(fileURL(path) + "\n"))
	cmd.Env = append(os.Environ(), "TMPDIR="+b.tmp())
	return cmd, nil
}

// byAgent deploys the archive with the agent.
func (b *bench) byAgent(ctx context.Context, a archive, strategy string) (time.Duration, error) {
	cmd, err := b.deployment(ctx, a, strategy)
	if err != nil {
		return 0, err
	}
	return b.timed(cmd, nil)
}

// command returns a command that is killed together with its children when ctx
// is done.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// timed runs the command and returns how long that took. If watch is not nil, it
// is called with the process ID while the command runs, until the channel is
// closed. The CPU time of the command and of all that it started is in b.cpu then.
//
// For both sides, the output goes through a pipe. The children of the command
// hold the pipe too, so none of them is still running when timed returns.
func (b *bench) timed(cmd *exec.Cmd, watch func(pid int, done <-chan struct{})) (time.Duration, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if watch != nil {
			watch(cmd.Process.Pid, done)
		}
	}()
	err := cmd.Wait()
	took := time.Since(start)
	close(done)
	<-watched
	b.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		const most = 2000
		tail := output.Bytes()
		return 0, fmt.Errorf("%s: %w\n%s", cmd, err, tail[max(0, len(tail)-most):])
	}
	left, err := os.ReadDir(b.tmp())
	if err == nil && len(left) > 0 {
		err = errors.New("not removed: " + filepath.Join(b.tmp(), left[0].Name()))
	}
	return took, err
}

func fileURL(path string) string {
	return (&url.URL{Scheme: "file", Path: path}).String()
}
