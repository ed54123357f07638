// Command stretcher deploys the manifest that its argument names, or an event on
// stdin.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pack" {
		packMain(os.Args[2:])
		return
	}
	format := os.Getenv(variableName("log-format")) // parseFlags takes it away
	o, err := parseFlags(os.Args[1:], takeVariable)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if errors.Is(err, errShowVersion) {
		fmt.Println("version:", stretcher.Version) // as the original: provisioning recipes compare it
		return
	}
	if err != nil {
		exitUsage(err, "stretcher", cmp.Or(o.conf.LogFormat, format))
	}
	if os.Getenv("GOGC") == "" {
		// With Go's default of 100, a list of a million files would take twice its
		// size on a host that has other work to do. A short run has no collection at
		// all; with 50 from the beginning, one would start here.
		runtime.AddCleanup(new(firstCollection), func(percent int) { debug.SetGCPercent(percent) }, 50)
	}
	if o.action == "-check" {
		if !check(o.target, o.conf) {
			os.Exit(1) // also under Consul: this is no handler of a watch
		}
		return
	}
	ctx, abort := onSignals()
	o.conf.Abort = abort
	switch o.action {
	case deployEvent:
		err = stretcher.RunContext(ctx, o.conf)
	case deployURL:
		err = stretcher.RunURL(ctx, o.target, o.conf)
	case "-rollback":
		err = stretcher.Rollback(ctx, o.target, o.conf)
	}
	if err != nil {
		exitFailed() // the error is in the log
	}
}

// firstCollection is an object that the first garbage collection finds unused. It has a
// pointer, because objects without one may share their memory with others (see
// runtime.AddCleanup).
type firstCollection struct{ _ *int }

// exitUsage exits after invalid usage of a command.
func exitUsage(err error, command, logFormat string) {
	l := runlog.New(os.Stderr, new(bytes.Buffer), "", logFormat)
	l.Print("ERROR", fmt.Sprintf("%s: %v\nhint: %s -h lists the options\n", command, redact.Error(err), command))
	os.Exit(2)
}

// exitFailed exits after a failure. Under Consul the exit status is 0, because
// consul watch would exit after any other status of its handler.
func exitFailed() {
	if os.Getenv("CONSUL_INDEX") != "" {
		os.Exit(0)
	}
	os.Exit(1)
}

// sameStop is the time after the first signal during which further signals are
// considered part of the same stop. systemd signals every process of a unit, and
// consul watch also forwards its signal to its child, which thus receives two.
const sameStop = 300 * time.Millisecond

// onSignals returns a context that is cancelled by the first signal and a channel
// that is closed by the second. A third signal exits the process immediately.
func onSignals() (context.Context, <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(context.Background())
	abort := make(chan struct{})
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // nohup makes it ignored
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Without a handler, a write to a closed stderr would kill the process in the
	// middle of a deployment. SIGPIPE must not be ignored instead, because the
	// commands would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		s := <-signals
		cancel(fmt.Errorf("interrupted by %s", unix.SignalName(s.(syscall.Signal))))
		for first := time.Now(); time.Since(first) < sameStop; {
			<-signals
		}
		close(abort)
		<-signals
		exitFailed()
	}()
	return ctx, abort
}
