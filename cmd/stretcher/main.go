// Command stretcher reads an event from stdin and deploys the manifest that it
// names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

const usage = `Usage: stretcher [options]

Reads a manifest URL from stdin, as sent by consul watch, a Serf agent or a
pipe, and deploys that manifest.

  -max-bandwidth SIZE    limit for the download of src, in bytes per second:
                         1048576, 10MB or 1MiB (default no limit)
  -connections N         connections for a download of more than 16 MiB
                         (default 4)
  -timeout TIME          time limit for the download of src (default no limit)
  -retry N               retries after a failed download (default 0)
  -retry-wait TIME       wait before each retry (default 3s)
  -random-delay TIME     sleep a random time of up to TIME on start (default 0)
  -command-timeout TIME  time limit for each command (default no limit)
  -header 'NAME: VALUE'  header for http and https requests; may be repeated
  -max-size SIZE         refuse archives that unpack to more (default no limit)
  -rollback DEST         deploy again the release of DEST before the current one
                         (sync_strategy: symlink); stdin is not read
  -strict                refuse manifests with unknown or duplicate keys
  -rsync-verbose OPT     verbose option for rsync: -v, -vv, -vvv or ""
                         (default -v)
  -log-level LEVEL       DEBUG, INFO, WARN or ERROR (default INFO)
  -v, -version           show the version
  -h, -help              show this help

A TIME is a number of seconds, such as 1.5, or a number with a unit, such as
500ms, 30s or 2m.

The exit status is 0 after a success, 1 after a failure, and 2 for an invalid
option. Under consul watch (CONSUL_INDEX is set and not empty) it is 0 after a
failure too, because the watch would exit otherwise.

Examples:
  consul watch -type event -name deploy stretcher -retry 3 -random-delay 10
  serf agent -event-handler='user:deploy=stretcher -retry 3 >> deploy.log 2>&1'
  echo s3://example.com/deploy.yml | ssh host stretcher -max-bandwidth 10MB
  stretcher -rollback /srv/app
`

func main() {
	conf, rollback, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if errors.Is(err, errShowVersion) {
		fmt.Println("version:", stretcher.Version) // as the original: provisioning recipes compare it
		return
	}
	if err != nil {
		priority := runlog.JournalPrefix("ERROR")
		fmt.Fprintf(os.Stderr, "%sstretcher: %s\n%shint: stretcher -h lists the options\n", priority, redact.Printable(err.Error()), priority)
		os.Exit(2)
	}
	if os.Getenv("GOGC") == "" {
		// With Go's default of 100, a list of a million files would take twice its
		// size on a host that has other work to do.
		debug.SetGCPercent(50)
	}
	ctx, abort := onSignals()
	conf.Abort = abort
	if rollback != "" {
		err = stretcher.Rollback(ctx, rollback, conf)
	} else {
		err = stretcher.RunContext(ctx, conf)
	}
	if err != nil {
		exitFailed() // the error is in the log
	}
}

// exitFailed exits after a failure. Under Consul the exit status is 0, because
// consul watch would exit after any other status of its handler.
func exitFailed() {
	if os.Getenv("CONSUL_INDEX") != "" {
		os.Exit(0)
	}
	os.Exit(1)
}

// errShowVersion is returned by parseFlags if the version was requested.
var errShowVersion = errors.New("show the version")

// parseFlags returns the configuration that the command line requests, and the dest
// that is to be rolled back, if any; or else flag.ErrHelp, errShowVersion, or an
// error that describes invalid usage.
func parseFlags(args []string) (conf stretcher.Config, rollback string, err error) {
	conf = stretcher.Config{RetryWait: 3 * time.Second, LogLevel: "INFO"}
	var delay time.Duration
	var showVersion bool
	var maxSize uint64
	f := flag.NewFlagSet("stretcher", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&showVersion, "v", false, "")
	f.BoolVar(&showVersion, "version", false, "")
	f.Func("max-bandwidth", "", size(&conf.MaxBandWidth))
	f.Func("max-band-width", "", size(&conf.MaxBandWidth)) // its name in later releases of the original
	f.Func("max-size", "", size(&maxSize))
	f.Func("connections", "", count(&conf.Connections, 1))
	f.Func("retry", "", count(&conf.Retry, 0))
	f.Func("retry-wait", "", seconds(&conf.RetryWait))
	f.Func("timeout", "", seconds(&conf.Timeout))
	f.Func("random-delay", "", seconds(&delay))
	f.Func("command-timeout", "", seconds(&conf.CommandTimeout))
	f.BoolVar(&conf.Strict, "strict", false, "")
	f.Func("rsync-verbose", "", stretcher.SetRsyncVerboseOpt)
	f.Func("log-level", "", func(s string) error {
		if conf.LogLevel = strings.ToUpper(s); !slices.Contains(runlog.Levels, conf.LogLevel) {
			return errors.New("expected DEBUG, INFO, WARN or ERROR")
		}
		return nil
	})
	f.Func("rollback", "", func(s string) error {
		if s == "" {
			return errors.New("expected the dest of a manifest")
		}
		rollback = s
		return nil
	})
	var headers []string
	f.Func("header", "", func(s string) error {
		headers = append(headers, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return conf, rollback, err
	}
	// Not by f.Func: its errors contain the value.
	if err := addHeaders(&conf, headers); err != nil {
		return conf, rollback, fmt.Errorf("invalid value for flag -header: %w", err)
	}
	if f.NArg() > 0 {
		return conf, rollback, unexpectedArgument(f.Arg(0))
	}
	if showVersion {
		return conf, rollback, errShowVersion
	}
	conf.InitSleep = stretcher.RandomTime(delay.Seconds())
	conf.MaxSize = int64(maxSize)
	return conf, rollback, nil
}

// unexpectedArgument is the error for an argument that is not an option. Where that
// is the URL or the path of a manifest, it says how to pass it.
func unexpectedArgument(arg string) error {
	manifest := redact.URL(arg)
	err := fmt.Errorf("unexpected argument %q: the manifest URL is read from stdin", manifest)
	if strings.HasPrefix(arg, "/") {
		manifest = "file://" + arg
	}
	if !strings.Contains(manifest, "://") {
		return err
	}
	if strings.ContainsFunc(manifest, func(r rune) bool { return !strings.ContainsRune(shellSafe, r) }) {
		manifest = "'" + strings.ReplaceAll(manifest, "'", `'\''`) + "'"
	}
	return fmt.Errorf("%w: try: echo %s | stretcher", err, manifest)
}

// shellSafe are characters that a shell takes as they are.
const shellSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._-+=@%,"

// size returns a parser of a number of bytes, with or without a unit, which is
// stored in *to. "" means 0.
func size(to *uint64) func(string) error {
	return func(s string) error {
		if s == "" {
			*to = 0
			return nil
		}
		n, err := humanize.ParseBytes(s)
		rounded := n == 0 && strings.ContainsAny(s, "123456789") // 0 would mean no limit
		if err != nil || n > math.MaxInt64 || rounded {
			return errors.New("expected a number of bytes, as 1048576, 10MB or 1MiB")
		}
		*to = n
		return nil
	}
}

// addHeaders adds headers of the form "Name: value" to the configuration.
func addHeaders(conf *stretcher.Config, headers []string) error {
	for _, s := range headers {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("expected a name and a value, as in 'Name: value'")
		}
		value = strings.Trim(value, " \t")
		if err := fetch.CheckHeaders(http.Header{name: {value}}); err != nil {
			return err
		}
		if conf.Headers == nil {
			conf.Headers = http.Header{}
		}
		conf.Headers.Add(name, value)
	}
	return fetch.CheckHeaders(conf.Headers)
}

// count returns a parser of an integer of at least the given value, which is
// stored in *to.
func count(to *int, least int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			return fmt.Errorf("expected a number of at least %d", least)
		}
		*to = n
		return nil
	}
}

// seconds returns a parser of a duration, which is stored in *to. The duration is a
// number of seconds, or a number with a unit as in time.ParseDuration.
func seconds(to *time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if n, notNumber := strconv.ParseFloat(s, 64); notNumber == nil {
			d, err = time.Duration(n*float64(time.Second)), nil
			if !(n <= math.MaxInt64/float64(time.Second)) { // rejects NaN too
				err = strconv.ErrRange
			}
		}
		if err != nil || d < 0 {
			return errors.New("expected a number of seconds, or a time as 500ms, 30s, 2m")
		}
		*to = d
		return nil
	}
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
