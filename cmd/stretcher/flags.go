package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/runlog"
)

const usage = `Usage: stretcher [options] [URL]
       stretcher pack [options] DIR

Deploys the manifest at URL, which may also be the path of a file. Without an
argument, the URL is read from stdin, as sent by consul watch, a Serf agent or a
pipe. To make an archive and its manifest, see stretcher pack -h.

  -max-bandwidth SIZE    limit for the download of src, in bytes per second:
                         1048576, 10MB or 1MiB (default no limit)
  -connections N         connections for a download of more than 16 MiB
                         (default 4)
  -timeout TIME          time limit for the download of src (default no limit)
  -retry N               retries after a failed download (default 0)
  -retry-wait TIME       wait before each retry (default 3s)
  -incremental=false     download archives whole, also those with an index of
                         which dest has a part (default true)
  -random-delay TIME     sleep a random time of up to TIME on start (default 0)
  -command-timeout TIME  time limit for each command (default no limit)
  -header 'NAME: VALUE'  header for http and https requests; may be repeated
  -allow PREFIX          fetch only URLs under this prefix, such as
                         https://example.com/deploy; may be repeated
  -public-key FILE       require a minisign signature of the manifest, at its URL
                         plus .minisig, by this or another key; may be repeated
  -max-size SIZE         refuse archives that unpack to more (default no limit)
  -rollback DEST         deploy again the release of DEST before the current one
                         (sync_strategy: symlink); stdin is not read
  -check MANIFEST        deploy nothing: print what is wrong with the manifest
                         at a path or URL, or on stdin (-)
  -dry-run               show what a deployment would create, change, delete and
                         run, and do none of it
  -strict                refuse manifests with unknown or duplicate keys
  -state-dir DIR         remember deployed events in DIR, skip their repeats, and
                         keep a history of deployments there
  -metrics-file FILE     write metrics to FILE for node_exporter's textfile
                         collector
  -rsync-verbose OPT     verbose option for rsync: -v, -vv, -vvv or ""
                         (default -v)
  -log-level LEVEL       DEBUG, INFO, WARN or ERROR (default INFO)
  -log-format FORMAT     text or, for an object in each line, json (default text)
  -v, -version           show the version
  -h, -help              show this help

A TIME is a number of seconds, such as 1.5, or a number with a unit, such as
500ms, 30s or 2m.

Each option except -version and -help can also be set by an environment
variable: STRETCHER_ and its name in upper case with underscores, for example
STRETCHER_MAX_BANDWIDTH=10MB or STRETCHER_STRICT=true. The command line wins.
If the option may be repeated, its variable has one value per line. Commands
of the manifest do not get these variables.

The exit status is 0 after a success, 1 after a failure, and 2 for an invalid
option or argument. Under consul watch (CONSUL_INDEX is set and not empty) it
is 0 after a failure too, because the watch would exit otherwise.

Examples:
  consul watch -type event -name deploy stretcher -retry 3 -random-delay 10
  serf agent -event-handler='user:deploy=stretcher -retry 3 >> deploy.log 2>&1'
  echo s3://example.com/deploy.yml | ssh host stretcher -max-bandwidth 10MB
  stretcher -retry 3 s3://example.com/deploy.yml
  stretcher -rollback /srv/app
  stretcher -check deploy.yml
`

// errShowVersion is returned by parseFlags if the version was requested.
var errShowVersion = errors.New("show the version")

// options are what the command line and the environment request.
type options struct {
	conf   stretcher.Config
	action string // what to do: deployEvent, deployURL, or the flag that requests something else
	target string // URL or path that the action is about
}

const (
	deployEvent = "" // of stdin
	deployURL   = "a URL"
)

// action is the value of a flag that requests something else than a deployment, with
// a target.
type action struct {
	options *options
	flag    string
	expects string // of the target, for the error where it is something else
}

func (*action) String() string { return "" }

func (a *action) Set(s string) error {
	if s == "" || a.flag == "-rollback" && !filepath.IsAbs(s) {
		return errors.New("expected " + a.expects)
	}
	if a.options.action == a.flag {
		return errors.New("it was given twice")
	}
	return a.options.request(a.flag, s)
}

// request sets the action. There can be only one.
func (o *options) request(action, target string) error {
	if o.action != deployEvent && o.action != action {
		return fmt.Errorf("%s cannot be combined with %s", action, o.action)
	}
	o.action, o.target = action, target
	return nil
}

// parseFlags returns what the arguments request, and where they leave something
// open, the variables of the environment; or else flag.ErrHelp, errShowVersion, or
// an error that describes invalid usage, together with what was parsed before it.
// variable returns the value of a variable.
func parseFlags(args []string, variable func(name string) string) (*options, error) {
	o := &options{conf: stretcher.Config{RetryWait: 3 * time.Second, LogLevel: "INFO"}}
	conf := &o.conf
	var delay time.Duration
	var showVersion bool
	var maxSize uint64
	var incremental bool
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
	f.BoolVar(&conf.DryRun, "dry-run", false, "")
	f.BoolVar(&conf.Strict, "strict", false, "")
	f.Func("state-dir", "", path(&conf.StateDir))
	f.Func("metrics-file", "", path(&conf.MetricsFile))
	f.BoolVar(&incremental, "incremental", true, "")
	f.Func("rsync-verbose", "", stretcher.SetRsyncVerboseOpt)
	f.Func("log-level", "", func(s string) error {
		if conf.LogLevel = strings.ToUpper(s); !slices.Contains(runlog.Levels, conf.LogLevel) {
			return errors.New("expected DEBUG, INFO, WARN or ERROR")
		}
		return nil
	})
	f.Func("log-format", "", func(s string) error {
		if s != "text" && s != runlog.JSON {
			return errors.New("expected text or json")
		}
		conf.LogFormat = s
		return nil
	})
	f.Var(&action{o, "-rollback", "the absolute path of a dest"}, "rollback", "")
	f.Var(&action{o, "-check", "the path or URL of a manifest, or -"}, "check", "")
	f.Var(repeated(func(s string) error {
		conf.Allow = append(conf.Allow, s)
		return nil
	}), "allow", "")
	f.Var(repeated(func(s string) error {
		conf.PublicKeys = append(conf.PublicKeys, s)
		return nil
	}), "public-key", "")
	var headers []string
	f.Var(repeated(func(s string) error {
		headers = append(headers, s)
		return nil
	}), "header", "")

	urls, err := parseArguments(f, args)
	if err != nil {
		return o, err
	}
	if showVersion {
		return o, errShowVersion
	}
	for _, arg := range urls {
		if o.action == "-check" {
			return o, fmt.Errorf("-check takes one manifest: unexpected argument %q", arg)
		}
		url, err := fetch.ArgumentURL(arg)
		if err != nil {
			return o, err
		}
		if err := o.request(deployURL, url); err != nil {
			return o, err
		}
	}
	if len(urls) > 1 {
		return o, fmt.Errorf("expected one URL, got %d", len(urls))
	}
	fromEnvironment, err := parseVariables(f, o, variable)
	if err != nil {
		return o, err
	}
	// Not by f.Func: its errors contain the value.
	invalid := func(name string, err error) error {
		source := "flag -" + name
		if fromEnvironment[name] {
			source = variableName(name)
		}
		return fmt.Errorf("invalid value for %s: %w", source, err)
	}
	if err := addHeaders(conf, headers); err != nil {
		return o, invalid("header", err)
	}
	if err := fetch.CheckAllow(conf.Allow); err != nil {
		return o, invalid("allow", err)
	}
	conf.InitSleep = stretcher.RandomTime(delay.Seconds())
	conf.MaxSize, conf.Whole = int64(maxSize), !incremental
	return o, nil
}

// parseArguments parses options before and after the other arguments, which it
// returns. After "--" there are no options.
func parseArguments(f *flag.FlagSet, args []string) (others []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		rest := f.Args()
		if parsed := len(args) - len(rest); parsed > 0 && args[parsed-1] == "--" {
			return append(others, rest...), nil
		}
		if len(rest) == 0 {
			return others, nil
		}
		others, args = append(others, rest[0]), rest[1:]
	}
}

// parseVariables sets the flags that were not given from variables, and returns the
// names of those that it set. Each variable is asked for, so that variable can remove
// it from the environment. An empty one counts as unset.
func parseVariables(f *flag.FlagSet, o *options, variable func(name string) string) (set map[string]bool, err error) {
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[canonical(fl.Name)] = true })
	hasAction := o.action != deployEvent
	set = map[string]bool{}
	f.VisitAll(func(fl *flag.Flag) {
		if fl.Name == "v" || fl.Name == "version" {
			return // provisioning often sets STRETCHER_VERSION to the version to install
		}
		name := variableName(fl.Name)
		value := variable(name)
		_, isAction := fl.Value.(*action)
		if value == "" || given[canonical(fl.Name)] || isAction && hasAction || err != nil {
			return
		}
		set[fl.Name] = true
		if failed := setFromVariable(fl.Value, value); failed != nil {
			err = fmt.Errorf("invalid value %q for %s: %w", value, name, failed)
		}
	})
	return set, err
}

// variableName returns the name of the variable for a flag.
func variableName(flag string) string {
	return "STRETCHER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// canonical returns the usual name of a flag.
func canonical(name string) string {
	if name == "max-band-width" {
		return "max-bandwidth"
	}
	return name
}

// setFromVariable sets a flag to the value of its variable, which has one value per
// line if the flag may be repeated.
func setFromVariable(to flag.Value, value string) error {
	if _, ok := to.(repeated); ok {
		if strings.TrimSpace(value) == "" {
			return errors.New("it has only white space")
		}
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			if err := to.Set(line); err != nil {
				return err
			}
		}
		return nil
	}
	err := to.Set(value)
	if b, ok := to.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() && err != nil {
		return errors.New("expected true or false")
	}
	return err
}

// takeVariable returns the value of a variable and removes it from the environment,
// so that no command gets it.
func takeVariable(name string) string {
	value := os.Getenv(name)
	_ = os.Unsetenv(name) // cannot fail on Unix
	return value
}
