// Package rsync runs rsync(1) for a local sync.
package rsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/rsyncoutput"
)

// Output is what rsync has printed.
type Output = rsyncoutput.Output

// DryRun are the options with which rsync changes nothing, and Run keeps what it lists
// for Output.Changes.
var DryRun = rsyncoutput.DryRun

// Run runs rsync with arguments, of which --stats is one, and passes on what it prints,
// but the statistics only if showStats. It says every 10 seconds that rsync is still
// running. name is how the log calls it. The error has the cause that rsync has given,
// and otherwise is that of proc.Run. The writers are closed.
func Run(ctx context.Context, name string, args []string, showStats bool, o proc.Options, stdout, stderr *proc.LineWriter) (*Output, error) {
	defer stdout.Close()
	defer stderr.Close()
	output := rsyncoutput.New(stdout, !showStats)
	messages := output.Beside(stderr)
	if slices.Contains(args, DryRun[len(DryRun)-1]) {
		output.KeepItems()
	}
	cmd := exec.Command("rsync", args...)
	cmd.Stdout, cmd.Stderr = output, messages
	start := time.Now()
	o.Quiet = true
	stop := progress.Reporter{}.Show("rsync", func() string {
		return fmt.Sprintf("still running after %s, %d names listed", time.Since(start).Round(time.Second), output.Listed())
	})
	err := proc.Run(ctx, name, cmd, o)
	stop()
	_ = output.Close() // a LineWriter has no errors
	_ = messages.Close()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() && output.Cause() != "" {
		err = fmt.Errorf("%w: %s", err, output.Cause())
	}
	return output, err
}

// ExcludeFile returns the path of the file that exclude_from names in dir, which
// has the extracted archive. A name that leads out of dir, and anything but a
// regular file, is an error.
func ExcludeFile(dir, name string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	relative := filepath.Clean(strings.TrimLeft(name, "/"))
	info, err := root.Stat(relative)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("not in the archive: %w", fs.ErrNotExist)
	case err == nil && !info.Mode().IsRegular():
		err = errors.New("not a regular file")
	}
	if err != nil {
		return "", fmt.Errorf("exclude_from %s: %w", name, err)
	}
	return filepath.Join(dir, relative), nil
}
