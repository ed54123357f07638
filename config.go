package stretcher

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
)

// Version is the version of the agent. Linker flags set it; otherwise it comes
// from the build information, and is "devel" where that has none.
var Version string

func init() {
	if Version != "" {
		return
	}
	Version = "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		Version = info.Main.Version
	}
}

// Config says how a deployment is run. The zero value deploys at once, with
// one attempt at each download and no limits.
type Config struct {
	// MaxBandWidth limits the download of src, in bytes a second. 0 is no limit.
	MaxBandWidth uint64
	// Timeout limits the download of src, including all retries. 0 is no limit,
	// but an attempt that receives nothing for a minute fails.
	Timeout time.Duration
	// InitSleep is a pause before the manifest is fetched, so that a fleet does
	// not download in the same second. See RandomTime.
	InitSleep time.Duration
	// Retry is how many times a failed download is retried. 0 is never.
	Retry int
	// RetryWait is the pause before each retry. Up to a quarter of it is added at
	// random, so that a fleet does not retry in the same second.
	RetryWait time.Duration

	// Connections is the number of connections over which an archive of more than
	// 16 MiB is fetched. 0 is the default, 4.
	Connections int
	// Whole downloads archives whole. false fetches only what dest does not have of an
	// archive, if the manifest says where the archive's index is.
	Whole bool
	// MaxSize limits the unpacked size of the archive, in bytes. 0 is no limit.
	MaxSize int64
	// CommandTimeout limits the run time of each command of the manifest. 0 is no
	// limit.
	CommandTimeout time.Duration
	// LogLevel is the lowest level that is logged: DEBUG, INFO, WARN or ERROR, in
	// upper or lower case. "" is INFO.
	LogLevel string
	// LogFormat is "text" or, for one JSON object a line, "json": with time, level and
	// message, and for what commands print with command and stream. The prefix and
	// the flags of the standard logger then do not count. "" is text, and so is what
	// LogBuffer gets.
	LogFormat string
	// Strict makes unknown and duplicate keys of the manifest errors. false only
	// warns of them.
	Strict bool
	// Headers are added to http and https requests, and kept from the log and from
	// other hosts. nil adds none; one that the agent has to set is an error.
	Headers http.Header
	// Allow are prefixes of URLs: manifest, signature and src, and what these are
	// redirected to, have to be under one of them. nil allows every URL; a prefix
	// that is not an absolute URL is an error.
	Allow []string
	// StateDir is a directory in which the events that were deployed with success are
	// remembered, so that they are not deployed again, and a history of deployments is
	// kept. Run makes it if it is missing, but not its parents, and fails if it cannot be
	// written to. "" is none.
	StateDir string
	// MetricsFile is a file with metrics of the last deployment to each dest, in the text
	// format of Prometheus, which is replaced at the end of each deployment. If it cannot
	// be written, that is only logged. "" is none.
	MetricsFile string
	// PublicKeys are the files of the minisign public keys of which one must have
	// signed the manifest that RunContext fetches; the signature is at its URL plus
	// ".minisig". An MD5 or SHA-1 as its checksum is refused. nil asks for no
	// signature.
	PublicKeys []string
	// DryRun shows what a deployment would do, and changes nothing: commands are not
	// run. An error is that of the deployment. The list is logged with every LogLevel.
	// false deploys.
	DryRun bool
	// Abort, when closed, ends a cancelled run at once: running commands are
	// killed, the failure commands included. nil never does.
	Abort <-chan struct{}
}

func (c Config) check() error {
	for _, d := range []struct {
		name string
		bad  bool
	}{
		{"timeout", c.Timeout < 0},
		{"initial sleep", c.InitSleep < 0},
		{"retry count", c.Retry < 0},
		{"retry wait", c.RetryWait < 0},
		{"number of connections", c.Connections < 0},
		{"maximum size", c.MaxSize < 0},
		{"command timeout", c.CommandTimeout < 0},
	} {
		if d.bad {
			return fmt.Errorf("the %s is negative", d.name)
		}
	}
	if err := fetch.CheckAllow(c.Allow); err != nil {
		return err
	}
	if c.LogLevel != "" && !slices.Contains(runlog.Levels, strings.ToUpper(c.LogLevel)) {
		return fmt.Errorf("the log level %q is not one of %s", c.LogLevel, strings.Join(runlog.Levels, ", "))
	}
	if !slices.Contains([]string{"", "text", runlog.JSON}, c.LogFormat) {
		return fmt.Errorf("the log format %q is not text or json", c.LogFormat)
	}
	return fetch.CheckHeaders(c.Headers)
}

// startLog captures the log, without the secrets of Headers, until restore is called.
func (c Config) startLog() (restore func()) {
	if c.DryRun && (strings.EqualFold(c.LogLevel, "WARN") || strings.EqualFold(c.LogLevel, "ERROR")) {
		c.LogLevel = "INFO" // the list of changes is the result
	}
	end, show := capture.Start(c.LogLevel, c.LogFormat), redact.Hide(fetch.HeaderSecrets(c.Headers))
	return func() { show(); end() }
}

// logStart logs the first lines of a deployment.
func (c Config) logStart() {
	log.Println("Starting up stretcher agent", Version)
	if c.DryRun {
		log.Print("Dry run: nothing will be changed, and no command will be run")
	}
}

// fetchOptions returns what the configuration says about downloads.
func (c Config) fetchOptions() fetch.Options {
	return fetch.Options{
		Retries:      c.Retry,
		RetryWait:    c.RetryWait,
		Connections:  c.Connections,
		MaxBandwidth: c.MaxBandWidth,
		Headers:      c.Headers,
		Allow:        c.Allow,
		Version:      Version,
		Debug:        strings.EqualFold(c.LogLevel, "DEBUG"),
	}
}

// initSleep waits for InitSleep, or until ctx ends: then the error is its cause.
func (c Config) initSleep(ctx context.Context) error {
	if c.InitSleep == 0 {
		return nil
	}
	log.Printf("Sleeping %s", c.InitSleep)
	select {
	case <-time.After(c.InitSleep):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Nanoseconds is the number of nanoseconds in a second.
const Nanoseconds = 1000 * 1000 * 1000

// RandomTime returns a random duration in [0, delay) seconds. It is 0 where delay
// is not positive.
func RandomTime(delay float64) time.Duration {
	if !(delay > 0) {
		return 0
	}
	return time.Duration(rand.Float64() * delay * Nanoseconds)
}

var (
	// RsyncDefaultOpts are the first arguments of rsync(1).
	RsyncDefaultOpts = []string{"-a", "--delete"}
	// RsyncVerboseOpt is the argument after RsyncDefaultOpts; "" is left out.
	// See SetRsyncVerboseOpt.
	RsyncVerboseOpt = "-v"
)

// SetRsyncVerboseOpt sets RsyncVerboseOpt to "", -v, -vv or -vvv. Anything else
// is an error, and changes nothing.
func SetRsyncVerboseOpt(opt string) error {
	switch opt {
	case "", "-v", "-vv", "-vvv":
		RsyncVerboseOpt = opt
		return nil
	}
	return fmt.Errorf("invalid rsync verbose option %q: expected -v, -vv, -vvv or nothing", opt)
}
