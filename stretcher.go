//go:build linux

// Package stretcher deploys an archive to a directory of this machine: an event
// names a manifest, the manifest names an archive, and the archive's files are
// put in place with commands run before and after.
//
// Run reads the event from the standard input, as the command stretcher does.
// Manifest.Deploy starts from a manifest instead. What a deployment does is
// written to the standard logger and kept in LogBuffer. Since both are shared
// by the whole process, only one deployment may run in a process at a time.
//
// An error of Run and Deploy has been logged already. Its text contains no
// secrets of URLs, so that it can be shown.
package stretcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/destlock"
	"github.com/fujiwara/stretcher/internal/proc"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/signature"
	"github.com/fujiwara/stretcher/internal/state"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// Run is RunContext with a context that is never cancelled.
func Run(conf Config) error {
	return RunContext(context.Background(), conf)
}

// RunContext reads an event from the standard input and deploys the manifest
// that the event names. An empty list of Consul events is not an error. With
// PublicKeys, nothing of a manifest is used before its signature is verified.
//
// When ctx ends, the step that is running is stopped and cleaned up, the failure
// commands are run, and the error is the cause of ctx.
func RunContext(ctx context.Context, conf Config) error {
	return runEvent(ctx, conf, func() (*event, error) { return readEvent(ctx, os.Stdin) })
}

// RunURL deploys the manifest at manifestURL, as RunContext does after an event. The
// standard input is not read, and what the environment says about an event does not
// count.
func RunURL(ctx context.Context, manifestURL string, conf Config) error {
	return runEvent(ctx, conf, func() (*event, error) { return newEvent(manifestURL, state.Event{}) })
}

func runEvent(ctx context.Context, conf Config, receive func() (*event, error)) error {
	defer conf.startLog()()
	conf.logStart()
	err := run(ctx, conf, receive)
	if errors.Is(err, ErrNoEvents) {
		log.Println("No event: nothing to deploy.")
		return nil
	}
	if errors.Is(err, errHandled) {
		return nil
	}
	return err
}

func run(ctx context.Context, conf Config, receive func() (*event, error)) (err error) {
	if err := conf.check(); err != nil {
		return logged("Configuration", err)
	}
	out := newOutcome(conf)
	defer func() { out.failed(err) }()
	if err := out.open(); err != nil {
		return logged("State directory", err)
	}
	keys, err := signature.ReadKeys(conf.PublicKeys)
	if err != nil {
		return logged("Configuration", err)
	}
	ev, err := receive()
	if errors.Is(err, ErrNoEvents) {
		return err
	}
	if ev != nil {
		out.received(ev)
	}
	if err != nil {
		out.recorded = ctx.Err() != nil // there was nothing to deploy yet
		return logged("Event", err)
	}
	if err := out.check(); errors.Is(err, errHandled) {
		return err
	} else if err != nil {
		return logged("Event", err)
	}
	if err := conf.initSleep(ctx); err != nil {
		return logged("Sleeping", err)
	}
	out.start = time.Now() // the sleep is not a part of the deployment
	log.Println("Loading manifest:", redact.URL(ev.manifestURL))
	data, err := conf.fetchManifest(ctx, ev.manifestURL, keys)
	if err != nil {
		return logged("Load manifest", err)
	}
	m, err := parseManifest(data, conf.Strict)
	if err == nil {
		err = m.checkExpires() // not left to check: the failure commands must not run either
	}
	if err != nil {
		return logged("Load manifest", fmt.Errorf("%s: %w", redact.URL(ev.manifestURL), err))
	}
	return newDeployment(m, ev, out).deployAndTell(ctx)
}

// deployAndTell is deploy with the success or failure commands after it.
func (d *deployment) deployAndTell(ctx context.Context) error {
	if d.conf.DryRun {
		return d.deploy(ctx)
	}
	if err := d.deploy(ctx); errors.Is(err, errHandled) {
		return err
	} else if err != nil {
		d.runFailure(ctx, err)
		log.Println(d.ending("Failed"))
		return err
	}
	d.runSuccess(ctx)
	log.Println(d.ending("Done"))
	return nil
}

// Deploy is DeployContext with a context that is never cancelled.
func (m *Manifest) Deploy(conf Config) error {
	return m.DeployContext(context.Background(), conf)
}

// DeployContext deploys the manifest, with its pre and post commands. Its success
// and failure commands are for the caller to run, as RunContext does. When ctx ends,
// the deployment fails with the cause of ctx. PublicKeys only make it refuse a weak
// checksum, because it does not have the bytes that were signed.
func (m *Manifest) DeployContext(ctx context.Context, conf Config) error {
	defer conf.startLog()()
	if err := conf.check(); err != nil {
		return logged("Configuration", err)
	}
	out := newOutcome(conf)
	if err := out.open(); err != nil {
		err = logged("State directory", err)
		out.failed(err)
		return err
	}
	return newDeployment(m, &event{}, out).deploy(ctx)
}

// deployment is one deployment of a manifest.
type deployment struct {
	manifest *Manifest // its Dest has no ".." and no trailing slash
	url      string    // of the manifest, without secrets; "" where it has none
	conf     Config
	commands *runner
	outcome  *outcome
	release  string // the release that Rollback deploys, "" for what the manifest names
	absent   bool   // a dry run is to take dest for missing, because a pre command may move it away

	downloading time.Duration // how long src was downloaded, with conf.Timeout
}

func newDeployment(m *Manifest, ev *event, out *outcome) *deployment {
	out.read(m)
	return &deployment{manifest: m, url: redact.URL(ev.manifestURL), conf: out.conf, commands: newRunner(m, out.conf, ev), outcome: out}
}

// deploy checks the manifest and deploys it. A manifest that is wrong fails before
// anything has been done.
func (d *deployment) deploy(ctx context.Context) (err error) {
	defer func() { d.outcome.failed(err) }() // before the failure commands
	if err := d.manifest.check(d.conf); err != nil {
		if d.url != "" {
			err = fmt.Errorf("%s: %w", d.url, err)
		}
		return d.logFailed(ctx, err)
	}
	log.Println("Manifest:", d.manifest.summary())
	if d.manifest.Src != "" {
		d.manifest = d.manifest.cleaned()
	}
	if err := d.run(ctx); errors.Is(err, errHandled) {
		return err
	} else if err != nil {
		return d.logFailed(ctx, err)
	}
	if !d.conf.DryRun {
		log.Println("Deploy manifest succeeded." + capture.Warnings())
	}
	return nil
}

// ending returns the last line of the log: the result, dest and the whole time.
func (d *deployment) ending(result string) string {
	// Without src, nothing is deployed to dest: the file may not even be a manifest.
	if d.manifest.Src != "" && d.manifest.Dest != "" {
		result += ": " + redact.Printable(d.manifest.Dest)
	}
	return result + " in " + time.Since(d.outcome.start).Round(time.Millisecond).String()
}

// run deploys the archive, if the manifest has one, with the pre and post
// commands around it.
func (d *deployment) run(ctx context.Context) error {
	m := d.manifest
	if err := d.commands.checkSizes(&m.Commands); err != nil {
		return err
	}
	// Without src, the first pre or post command is the first step, and tries the shell
	// as well.
	tried := m.Src == "" && !d.conf.DryRun && len(m.Commands.Pre.given())+len(m.Commands.Post.given()) > 0
	if !m.Commands.empty() && !tried {
		if err := proc.CheckShell(ctx, d.commands.Env); err != nil {
			return err
		}
	}
	var src *archive.Archive
	var sync strategy
	if m.Src != "" {
		var err error
		if sync, err = newStrategy(m); err != nil {
			return err
		}
		d.outcome.deployment.Strategy = sync.name()
	}
	lock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := d.outcome.check(); err != nil { // another agent may have handled the event meanwhile
		return err
	}
	if err := m.checkExpires(); err != nil { // it may have waited for long
		return fmt.Errorf("manifest: %w", err)
	}
	if m.Src != "" {
		if err := d.outcome.dir.CheckOutside(m.Dest); err != nil {
			return err
		}
		if err := d.prepare(sync); err != nil {
			return err
		}
		if src, err = d.source(ctx, sync); err != nil {
			return err
		}
		defer func() { unixfs.Warn("free the archive", src.Close()) }()
	}
	if d.conf.DryRun {
		return d.dryRun(ctx, sync, src)
	}
	if err := d.commands.loggedAll(ctx, m.Commands.Pre); err != nil {
		return fmt.Errorf("pre command: %w", err)
	}
	err = d.sync(ctx, sync, src)
	unixfs.Warn("free the archive", src.Close()) // post may need its space, or unmount dest
	if err == nil {
		if err = d.commands.loggedAll(ctx, m.Commands.Post); err != nil {
			err = fmt.Errorf("post command: %w", err)
		}
	}
	// ctx may have ended after the last blocking step.
	if err := conclude(sync, cmp.Or(err, context.Cause(ctx))); err != nil {
		return err
	}
	return d.outcome.succeeded()
}

// lock keeps other deployments from dest until it is released. Without a dest, it keeps
// the same event from being handled at the same time, if that can be told.
func (d *deployment) lock(ctx context.Context) (*destlock.Lock, error) {
	dest := d.manifest.Dest
	if d.manifest.Src == "" {
		dest = d.outcome.lockName()
	}
	if dest == "" {
		return nil, nil
	}
	if _, err := unixfs.RealPath(dest); err != nil { // it leads through a file, for example
		return nil, cmp.Or(destcheck.Problem(dest), err)
	}
	if d.conf.DryRun { // a lock is a file
		return nil, destlock.Wait(ctx, dest)
	}
	return destlock.Acquire(ctx, dest)
}

// runSuccess runs the success commands. Their failure is logged only: the
// deployment has succeeded.
func (d *deployment) runSuccess(ctx context.Context) {
	d.runHooks(ctx, "success", d.manifest.Commands.Success, "")
}

// runFailure runs the failure commands after the deployment failed with err.
func (d *deployment) runFailure(ctx context.Context, err error) {
	ctx, cancel := d.commands.Afterwards(ctx)
	defer cancel()
	d.runHooks(ctx, "failure", d.manifest.Commands.Failure, err.Error())
}

// runHooks runs the commands of a result, success or failure.
func (d *deployment) runHooks(ctx context.Context, result string, commands CommandLines, text string) {
	d.commands.Env = append(d.commands.Env, resultVariables(result, text, time.Since(d.outcome.start))...)
	if err := d.commands.pipedAll(ctx, commands, capture.Copy()); err != nil {
		log.Printf("[ERROR] %s command: %v", result, err)
	}
}
