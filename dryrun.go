//go:build linux

package stretcher

import (
	"context"
	"iter"
	"log"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destlock"
	"github.com/fujiwara/stretcher/internal/preview"
	"github.com/fujiwara/stretcher/internal/runlog"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// dryRun logs what run would do from here on: the commands, and each path that the
// strategy, nil for none, would create, change or delete. An error is that of run.
func (d *deployment) dryRun(ctx context.Context, s strategy, src *archive.Archive) error {
	c := &d.manifest.Commands
	n := d.wouldRun("pre", c.Pre)
	result := ""
	if s != nil {
		if n > 0 {
			log.Print("pre commands are not run: they may change the result")
		}
		total, err := d.listChanges(ctx, s, src)
		if err != nil {
			return err
		}
		result = total.In(d.manifest.Dest)
	}
	n += d.wouldRun("post", c.Post) + d.wouldRun("success", c.Success)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if s == nil {
		result = runlog.Count(n, "command") + " would be run"
	}
	log.Printf("Dry run: %s; nothing was changed", result)
	return nil
}

// listChanges logs what the strategy would create, change and delete.
func (d *deployment) listChanges(ctx context.Context, s strategy, src *archive.Archive) (preview.Total, error) {
	d.warnRootMode(src)
	if d.absent {
		log.Printf("listing what would be done if there were no %s", d.manifest.Dest)
	}
	var items iter.Seq[preview.Item]
	err := d.orWhole(ctx, s, src, func(src *archive.Archive) (err error) {
		items, err = s.preview(ctx, d, src)
		return err
	})
	list := capture.Lines()
	total, failed := preview.Write(list, items)
	unixfs.Warn("list what would be done", failed)
	list.Close()
	begun, lockErr := destlock.Running(d.manifest.Dest)
	unixfs.Warn("look for other deployments", lockErr)
	if begun {
		log.Printf("[WARN] another deployment to %s has begun meanwhile: the result may be wrong", d.manifest.Dest)
	}
	return total, err
}

// wouldRun logs the commands of a kind, and returns how many there are.
func (d *deployment) wouldRun(kind string, commands CommandLines) (n int) {
	for _, c := range commands.given() {
		log.Printf("would run %s command: %s", kind, c.label())
		n++
	}
	return n
}

// logFailed logs the error of a deployment, and returns it with a text that is safe to
// show.
func (d *deployment) logFailed(ctx context.Context, err error) error {
	if !d.conf.DryRun {
		return logged("Deploy manifest", err)
	}
	err = logged("Dry run", err)
	if ctx.Err() == nil {
		d.wouldRun("failure", d.manifest.Commands.Failure)
	}
	log.Print("Dry run: nothing was changed")
	return err
}

// presentDest returns what a dry run compares with: dest, or "" if that would have
// to be moved away by a pre command.
func (d *deployment) presentDest() string {
	if d.absent {
		return ""
	}
	return d.manifest.Dest
}
