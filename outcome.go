//go:build linux

package stretcher

import (
	"errors"
	"fmt"
	"log"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fujiwara/stretcher/internal/checksum"
	"github.com/fujiwara/stretcher/internal/metrics"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/state"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// errHandled ends a run whose event has been handled with success before. That is no
// failure, and has been logged.
var errHandled = errors.New("the event has been handled already")

// outcome is how a run ends, as far as that is known yet. Every run has one, which is
// recorded once: in the state directory and in the metrics file, if there are any.
type outcome struct {
	conf       Config
	dir        *state.Dir // nil without a state directory
	deployment state.Deployment
	start      time.Time    // of the run, without the sleep before it
	downloaded atomic.Int64 // bytes of src
	recorded   bool
}

// newOutcome returns the outcome of a run that begins. A dry run is not recorded, and
// does not ask what is.
func newOutcome(conf Config) *outcome {
	if conf.DryRun {
		conf.StateDir, conf.MetricsFile = "", ""
	}
	return &outcome{conf: conf, deployment: state.Deployment{DestUnknown: true}, start: time.Now()}
}

// open opens the state directory. A success could not be recorded in one that cannot
// be opened, so nothing may be deployed then. A metrics file that cannot be written is
// no reason not to deploy.
func (o *outcome) open() (err error) {
	if o.conf.MetricsFile != "" {
		unixfs.Warn("metrics file", metrics.Check(o.conf.MetricsFile))
	}
	if o.conf.StateDir != "" {
		o.dir, err = state.Open(o.conf.StateDir)
	}
	return err
}

// received takes the event of the run.
func (o *outcome) received(ev *event) {
	o.deployment.Manifest = redact.Printable(redact.URL(ev.manifestURL))
	if ev.origin.Kind != "" {
		o.deployment.Event = &ev.origin
	}
}

// read takes the manifest of the run, which may be wrong.
func (o *outcome) read(m *Manifest) {
	if m.Src == "" {
		o.deployment.DestUnknown = m.Commands.empty()
		return
	}
	o.destIs(m.Dest)
	if _, err := checksum.New(m.CheckSum); err == nil {
		o.deployment.Checksum = m.CheckSum
	}
}

// destIs takes the dest of the run, which may be wrong.
func (o *outcome) destIs(dest string) {
	if filepath.IsAbs(dest) {
		o.deployment.Dest, o.deployment.DestUnknown = redact.Printable(unixfs.CleanPath(dest)), false
	}
}

// check returns errHandled if the event has been handled. Without a state directory, no
// event has.
func (o *outcome) check() error {
	ev := o.deployment.Event
	if o.dir == nil || ev == nil {
		return nil
	}
	handled, err := o.dir.Handled(*ev)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if handled == nil {
		return nil
	}
	log.Printf("Skipping %s: %s", redact.Printable(ev.String()), handled.Reason(*ev))
	return errHandled
}

// lockName returns what a deployment without a dest locks, so that the same event
// does not run its commands twice at the same time. It is "" if nothing tells.
func (o *outcome) lockName() string {
	if o.dir == nil || o.deployment.Event == nil {
		return ""
	}
	return o.dir.LockName(*o.deployment.Event)
}

// succeeded makes the deployment a success. Only after that, and if there is no error,
// may it be called one: whoever sees that it succeeded has to find its event handled.
func (o *outcome) succeeded() error {
	if err := o.record(state.Success, ""); err != nil {
		return fmt.Errorf("remember the success: %w: what was deployed stays in place, and is deployed again if the event is delivered again", err)
	}
	return nil
}

// failed records that the run failed, unless its end has been recorded.
func (o *outcome) failed(err error) {
	if err == nil || o.recorded || errors.Is(err, ErrNoEvents) || errors.Is(err, errHandled) {
		return
	}
	unixfs.Warn("record the failure", o.record(state.Failure, err.Error()))
}

func (o *outcome) record(result, failure string) error {
	now := time.Now()
	d := o.deployment
	d.Time, d.Duration = o.start.UTC().Truncate(time.Millisecond), float64(now.Sub(o.start).Milliseconds())/1000
	d.Result, d.Error, d.Bytes = result, failure, o.downloaded.Load()
	d = d.Shortened()
	var totals map[string]state.Totals
	var err error
	if o.dir != nil {
		totals, err = o.dir.Record(d)
	}
	if err != nil && result == state.Success {
		if d.Event != nil {
			return err
		}
		unixfs.Warn("record the success", err) // there is nothing that could be repeated
		err = nil
	}
	o.recorded = true
	if o.conf.MetricsFile != "" {
		unixfs.Warn("metrics file", metrics.Update(o.conf.MetricsFile, d, totals, now))
	}
	return err
}
