package main

import (
	"errors"
	"flag"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher"
)

func TestParseFlags(t *testing.T) {
	base := stretcher.Config{RetryWait: 3 * time.Second, LogLevel: "INFO"}
	with := func(change func(*stretcher.Config)) stretcher.Config {
		c := base
		change(&c)
		return c
	}
	bandwidth := func(n uint64) stretcher.Config {
		return with(func(c *stretcher.Config) { c.MaxBandWidth = n })
	}
	timeout := func(d time.Duration) stretcher.Config {
		return with(func(c *stretcher.Config) { c.Timeout = d })
	}
	for args, want := range map[string]stretcher.Config{
		"":                       base,
		"-max-bandwidth 1048576": bandwidth(1 << 20),
		"--max-bandwidth=10MB":   bandwidth(10e6),
		"-max-bandwidth 1MiB":    bandwidth(1 << 20),
		"-max-band-width 1MB":    bandwidth(1e6),
		"-max-bandwidth 1.5kb":   bandwidth(1500),
		"-max-bandwidth 0":       bandwidth(0),
		"-max-bandwidth=":        bandwidth(0),
		"-timeout 30":            timeout(30 * time.Second),
		"-timeout 0.25":          timeout(250 * time.Millisecond),
		"-timeout .5":            timeout(500 * time.Millisecond),
		"-timeout 500ms":         timeout(500 * time.Millisecond),
		"-timeout=2m":            timeout(2 * time.Minute),
		"--timeout 1h30m":        timeout(90 * time.Minute),
		"-timeout 0":             timeout(0),
		"-timeout 100000000":     timeout(100000000 * time.Second),
		"-timeout 1 -timeout 2":  timeout(2 * time.Second),
		"-retry 3":               with(func(c *stretcher.Config) { c.Retry = 3 }),
		"-retry-wait 0.5":        with(func(c *stretcher.Config) { c.RetryWait = 500 * time.Millisecond }),
		"-retry-wait 0":          with(func(c *stretcher.Config) { c.RetryWait = 0 }),
		"-connections 1":         with(func(c *stretcher.Config) { c.Connections = 1 }),
		"-command-timeout 30s":   with(func(c *stretcher.Config) { c.CommandTimeout = 30 * time.Second }),
		"-max-size 10GB":         with(func(c *stretcher.Config) { c.MaxSize = 10e9 }),
		"-log-level DEBUG":       with(func(c *stretcher.Config) { c.LogLevel = "DEBUG" }),
		"-log-level debug":       with(func(c *stretcher.Config) { c.LogLevel = "DEBUG" }),
		"-log-level Warn":        with(func(c *stretcher.Config) { c.LogLevel = "WARN" }),
		"--log-level=ERROR":      with(func(c *stretcher.Config) { c.LogLevel = "ERROR" }),
		"-random-delay 0":        base,
		"-header x-a:1 -header X-A:2 -header Host:h:80": with(func(c *stretcher.Config) { c.Headers = http.Header{"X-A": {"1", "2"}, "Host": {"h:80"}} }),
		"-retry 2 -- ":      with(func(c *stretcher.Config) { c.Retry = 2 }),
		"-rsync-verbose -v": base,
	} {
		got, _, err := parseFlags(strings.Fields(args))
		if err != nil {
			t.Errorf("%s: %v", args, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, expected %+v", args, got, want)
		}
	}
}

func TestParseFlagsErrors(t *testing.T) {
	for _, header := range []string{"s3cret", "X Y: s3cret", ": s3cret", "X: s3cret\r\nY: 1", "X:", "Range: s3cret", "accept-encoding: s3cret", "Host: a b s3cret"} {
		if _, _, err := parseFlags([]string{"-header", header}); err == nil || !strings.Contains(err.Error(), "-header: ") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("-header %q: error %v", header, err)
		}
	}
	const (
		bytes   = "expected a number of bytes"
		seconds = "expected a number of seconds, or a time"
		count0  = "expected a number of at least 0"
		count1  = "expected a number of at least 1"
		level   = "expected DEBUG, INFO, WARN or ERROR"
		verbose = "expected -v, -vv, -vvv or nothing"
	)
	for args, want := range map[string]string{
		"-no-such-flag":               "flag provided but not defined: -no-such-flag",
		"--Retry 1":                   "flag provided but not defined: -Retry",
		"---retry 1":                  "bad flag syntax",
		"-max-bandwidth":              "flag needs an argument",
		"-max-bandwidth fast":         bytes,
		"-max-bandwidth -1":           bytes,
		"-max-bandwidth -1MB":         bytes,
		"-max-bandwidth 10XB":         bytes,
		"-max-bandwidth nan":          bytes,
		"-max-bandwidth 99EB":         bytes,
		"-max-bandwidth 0.5":          bytes, // would be rounded to 0, which means no limit
		"-max-size -1":                bytes,
		"-max-size big":               bytes,
		"-max-size 16EiB":             bytes,
		"-retry":                      "flag needs an argument",
		"-retry=":                     count0,
		"-retry -1":                   count0,
		"-retry 1.5":                  count0,
		"-retry many":                 count0,
		"-retry 99999999999999999999": count0,
		"-connections 0":              count1,
		"-connections -1":             count1,
		"-random-delay -1":            seconds,
		"-random-delay soon":          seconds,
		"-random-delay=":              seconds,
		"-retry-wait -1":              seconds,
		"-retry-wait -1s":             seconds,
		"-retry-wait 3x":              seconds,
		"-timeout -0.5":               seconds,
		"-timeout Inf":                seconds,
		"-timeout NaN":                seconds,
		"-timeout 1e300":              seconds,
		"-timeout 9223372037":         seconds, // exceeds the range of time.Duration
		"-timeout 5parsecs":           seconds,
		"-command-timeout -1":         seconds,
		"-rsync-verbose -vvvv":        verbose,
		"-rsync-verbose v":            verbose,
		"-rsync-verbose --rsh=sh":     verbose,
		"-log-level all":              level,
		"-log-level TRACE":            level,
		"-log-level=":                 level,
		"-v=perhaps":                  "invalid boolean value",
		"file:///manifest.yml":        "try: echo file:///manifest.yml | stretcher",
		"/srv/app.yml":                `unexpected argument "/srv/app.yml": the manifest URL is read from stdin: try: echo file:///srv/app.yml | stretcher`,
		"https://h/?a=1&token=S":      `unexpected argument "https://h/?a=1&token=REDACTED": the manifest URL is read from stdin: try: echo 'https://h/?a=1&token=REDACTED' | stretcher`,
		"-retry 1 manifest.yml -v":    "unexpected argument",
	} {
		_, _, err := parseFlags(strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, expected one with %q", args, err, want)
		}
	}
	if stretcher.RsyncVerboseOpt != "-v" {
		t.Errorf("an invalid -rsync-verbose set the option to %q", stretcher.RsyncVerboseOpt)
	}
}

func TestParseFlagsHelpAndVersion(t *testing.T) {
	for _, arg := range []string{"-h", "--h", "-help", "--help"} {
		if _, _, err := parseFlags([]string{arg}); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: got %v, expected flag.ErrHelp", arg, err)
		}
	}
	for _, arg := range []string{"-v", "--v", "-version", "--version"} {
		if _, _, err := parseFlags([]string{arg, "-retry", "1"}); !errors.Is(err, errShowVersion) {
			t.Errorf("%s: got %v, expected errShowVersion", arg, err)
		}
	}
}

func TestRandomDelay(t *testing.T) {
	distinct := map[time.Duration]bool{}
	for range 20 {
		conf, _, err := parseFlags([]string{"-random-delay", "10"})
		if err != nil {
			t.Fatal(err)
		}
		if conf.InitSleep < 0 || conf.InitSleep >= 10*time.Second {
			t.Fatalf("the delay %s is not in [0s, 10s)", conf.InitSleep)
		}
		distinct[conf.InitSleep] = true
	}
	if len(distinct) < 2 {
		t.Errorf("the delay is always the same: %v", distinct)
	}
}
