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

func noVariables(string) string { return "" }

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
		"-header x-a:1 -header X-A:2 -header Host:h:80":  with(func(c *stretcher.Config) { c.Headers = http.Header{"X-A": {"1", "2"}, "Host": {"h:80"}} }),
		"-allow https://a.example/b -allow s3://bucket/": with(func(c *stretcher.Config) { c.Allow = []string{"https://a.example/b", "s3://bucket/"} }),
		"-retry 2 -- ":      with(func(c *stretcher.Config) { c.Retry = 2 }),
		"-rsync-verbose -v": base,
	} {
		got, err := parseFlags(strings.Fields(args), noVariables)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		} else if !reflect.DeepEqual(got.conf, want) {
			t.Errorf("%s: got %+v, expected %+v", args, got.conf, want)
		}
	}
}

func TestParseFlagsErrors(t *testing.T) {
	for _, header := range []string{"s3cret", "X Y: s3cret", ": s3cret", "X: s3cret\r\nY: 1", "X:", "Range: s3cret", "accept-encoding: s3cret", "Host: a b s3cret"} {
		if _, err := parseFlags([]string{"-header", header}, noVariables); err == nil || !strings.Contains(err.Error(), "-header: ") || strings.Contains(err.Error(), "s3cret") {
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
		"-no-such-flag":                         "flag provided but not defined: -no-such-flag",
		"--Retry 1":                             "flag provided but not defined: -Retry",
		"---retry 1":                            "bad flag syntax",
		"-max-bandwidth":                        "flag needs an argument",
		"-max-bandwidth fast":                   bytes,
		"-max-bandwidth -1":                     bytes,
		"-max-bandwidth -1MB":                   bytes,
		"-max-bandwidth 10XB":                   bytes,
		"-max-bandwidth nan":                    bytes,
		"-max-bandwidth 99EB":                   bytes,
		"-max-bandwidth 0.5":                    bytes, // would be rounded to 0, which means no limit
		"-max-size -1":                          bytes,
		"-max-size big":                         bytes,
		"-max-size 16EiB":                       bytes,
		"-retry":                                "flag needs an argument",
		"-retry=":                               count0,
		"-retry -1":                             count0,
		"-retry 1.5":                            count0,
		"-retry many":                           count0,
		"-retry 99999999999999999999":           count0,
		"-connections 0":                        count1,
		"-connections -1":                       count1,
		"-random-delay -1":                      seconds,
		"-random-delay soon":                    seconds,
		"-random-delay=":                        seconds,
		"-retry-wait -1":                        seconds,
		"-retry-wait -1s":                       seconds,
		"-retry-wait 3x":                        seconds,
		"-timeout -0.5":                         seconds,
		"-timeout Inf":                          seconds,
		"-timeout NaN":                          seconds,
		"-timeout 1e300":                        seconds,
		"-timeout 9223372037":                   seconds, // exceeds the range of time.Duration
		"-timeout 5parsecs":                     seconds,
		"-command-timeout -1":                   seconds,
		"-rsync-verbose -vvvv":                  verbose,
		"-allow=":                               `invalid value for flag -allow: "" is not a valid URL prefix: expected https://host/path`,
		"-allow example.com":                    `"example.com" is not a valid URL prefix`,
		"-allow s3://b -allow https://h/a/../b": `"https://h/a/../b" is not a valid URL prefix: its path has`,
		"-allow https://h/?token=s3cret":        `"https://h/?token=REDACTED" is not a valid URL prefix: a prefix has no query`,
		"-rsync-verbose v":                      verbose,
		"-rsync-verbose --rsh=sh":               verbose,
		"-log-level all":                        level,
		"-log-level TRACE":                      level,
		"-log-level=":                           level,
		"-v=perhaps":                            "invalid boolean value",
		"-state-dir=":                           `invalid value "" for flag -state-dir: expected a path`,
		"-metrics-file=":                        `invalid value "" for flag -metrics-file: expected a path`,
		"no-such.yml":                           `"no-such.yml" is neither a URL (s3://, gs://, http://, https:// or file://) nor the path of a file: no such file or directory`,
		"-retry 1 no-such.yml":                  `"no-such.yml" is neither a URL`,
		"-strict true s3://b/k":                 `"true" is neither a URL`,
		"ftp://h/app.yml":                       `"ftp://h/app.yml": unknown scheme "ftp": expected s3, gs, http, https or file`,
		"s3://b/1 s3://b/2":                     "expected one URL, got 2",
		"s3://b/1 -retry":                       "flag needs an argument: -retry",
		"s3://b/1 -rollback /srv/app":           "a URL cannot be combined with -rollback",
		"s3://b/1 -- -retry":                    `"-retry" is neither a URL`,
	} {
		_, err := parseFlags(strings.Fields(args), noVariables)
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
		if _, err := parseFlags([]string{arg}, noVariables); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: got %v, expected flag.ErrHelp", arg, err)
		}
	}
	for _, arg := range []string{"-v", "--v", "-version", "--version"} {
		if _, err := parseFlags([]string{arg, "-retry", "1"}, noVariables); !errors.Is(err, errShowVersion) {
			t.Errorf("%s: got %v, expected errShowVersion", arg, err)
		}
	}
}

func TestRandomDelay(t *testing.T) {
	distinct := map[time.Duration]bool{}
	for range 20 {
		o, err := parseFlags([]string{"-random-delay", "10"}, noVariables)
		if err != nil {
			t.Fatal(err)
		}
		if o.conf.InitSleep < 0 || o.conf.InitSleep >= 10*time.Second {
			t.Fatalf("the delay %s is not in [0s, 10s)", o.conf.InitSleep)
		}
		distinct[o.conf.InitSleep] = true
	}
	if len(distinct) < 2 {
		t.Errorf("the delay is always the same: %v", distinct)
	}
}

// A URL may stand between options.
func TestParseFlagsURL(t *testing.T) {
	for args, retry := range map[string]int{
		"s3://bucket/key":                        0,
		"-retry 3 s3://bucket/key":               3,
		"s3://bucket/key -retry 3":               3,
		"-strict s3://bucket/key --retry=3":      3,
		"-retry 3 -- s3://bucket/key":            3,
		"-retry 1 s3://bucket/key -retry 3 --":   3,
		"-strict=false s3://bucket/key -retry 3": 3,
	} {
		o, err := parseFlags(strings.Fields(args), noVariables)
		if err != nil || o.action != deployURL || o.target != "s3://bucket/key" || o.conf.Retry != retry {
			t.Errorf("%s: got %+v, %v", args, o, err)
		}
	}
}

func TestParseFlagsVariables(t *testing.T) {
	for name, test := range map[string]struct {
		args      string
		variables map[string]string
		check     func(o *options) bool
	}{
		"set":                       {"", map[string]string{"RETRY": "3"}, func(o *options) bool { return o.conf.Retry == 3 }},
		"overridden":                {"-retry 1", map[string]string{"RETRY": "3"}, func(o *options) bool { return o.conf.Retry == 1 }},
		"wrong, but overridden":     {"-retry 1", map[string]string{"RETRY": "many"}, func(o *options) bool { return o.conf.Retry == 1 }},
		"dashes":                    {"", map[string]string{"MAX_BANDWIDTH": "10MB"}, func(o *options) bool { return o.conf.MaxBandWidth == 10e6 }},
		"second name":               {"", map[string]string{"MAX_BAND_WIDTH": "10MB"}, func(o *options) bool { return o.conf.MaxBandWidth == 10e6 }},
		"second name overridden":    {"-max-bandwidth 1", map[string]string{"MAX_BAND_WIDTH": "10MB"}, func(o *options) bool { return o.conf.MaxBandWidth == 1 }},
		"overridden by second name": {"-max-band-width 1", map[string]string{"MAX_BANDWIDTH": "10MB"}, func(o *options) bool { return o.conf.MaxBandWidth == 1 }},
		"true":                      {"", map[string]string{"STRICT": "true"}, func(o *options) bool { return o.conf.Strict }},
		"false":                     {"", map[string]string{"STRICT": "0"}, func(o *options) bool { return !o.conf.Strict }},
		"true to false":             {"-strict=false", map[string]string{"STRICT": "1"}, func(o *options) bool { return !o.conf.Strict }},
		"empty":                     {"", map[string]string{"LOG_LEVEL": "", "STRICT": "", "HEADER": ""}, func(o *options) bool { return o.conf.LogLevel == "INFO" && !o.conf.Strict && o.conf.Headers == nil }},
		"version":                   {"", map[string]string{"VERSION": "1.2.3", "V": "true", "HELP": "1", "H": "x"}, func(o *options) bool { return o.action == deployEvent }},
		"lines": {"", map[string]string{"HEADER": "X-A: 1\n\n  X-B: 2\r\nX-A: 3\n"}, func(o *options) bool {
			return reflect.DeepEqual(o.conf.Headers, http.Header{"X-A": {"1", "3"}, "X-B": {"2"}})
		}},
		"replaced":   {"-header X-C:3", map[string]string{"HEADER": "X-A: 1\nX-B: 2"}, func(o *options) bool { return reflect.DeepEqual(o.conf.Headers, http.Header{"X-C": {"3"}}) }},
		"action":     {"", map[string]string{"ROLLBACK": "/srv/app"}, func(o *options) bool { return o.action == "-rollback" && o.target == "/srv/app" }},
		"other dest": {"-rollback /srv/b", map[string]string{"ROLLBACK": "/srv/a"}, func(o *options) bool { return o.action == "-rollback" && o.target == "/srv/b" }},
		"URL":        {"s3://b/k", map[string]string{"ROLLBACK": "/srv/app"}, func(o *options) bool { return o.action == deployURL && o.target == "s3://b/k" }},
	} {
		asked := map[string]bool{}
		o, err := parseFlags(strings.Fields(test.args), func(name string) string {
			asked[name] = true
			return test.variables[strings.TrimPrefix(name, "STRETCHER_")]
		})
		if err != nil || !test.check(o) {
			t.Errorf("%s: got %+v, %v", name, o, err)
		}
		// Each is removed from the environment, whether or not it was used.
		for name := range strings.FieldsSeq("MAX_BANDWIDTH MAX_BAND_WIDTH HEADER ROLLBACK STRICT RETRY") {
			if !asked["STRETCHER_"+name] {
				t.Errorf("%s: STRETCHER_%s was not asked for", test.args, name)
			}
		}
		// The commands of a manifest get these, and the last two are not ours.
		for name := range strings.FieldsSeq("MANIFEST_URL SRC CHECKSUM DEST EVENT_ID RESULT ERROR DURATION VERSION V") {
			if asked["STRETCHER_"+name] {
				t.Errorf("STRETCHER_%s is the variable of a flag", name)
			}
		}
	}
}

func TestParseFlagsVariableErrors(t *testing.T) {
	for variable, want := range map[string]string{
		"RETRY=many":                 `invalid value "many" for STRETCHER_RETRY: expected a number of at least 0`,
		"STRICT=perhaps":             `invalid value "perhaps" for STRETCHER_STRICT: expected true or false`,
		"TIMEOUT= ":                  `invalid value " " for STRETCHER_TIMEOUT: expected a number of seconds`,
		"MAX_BAND_WIDTH=fast":        `invalid value "fast" for STRETCHER_MAX_BAND_WIDTH: expected a number of bytes`,
		"LOG_LEVEL=all":              `invalid value "all" for STRETCHER_LOG_LEVEL: expected DEBUG`,
		"RSYNC_VERBOSE=--rsh=sh":     `invalid value "--rsh=sh" for STRETCHER_RSYNC_VERBOSE: invalid rsync verbose option`,
		"HEADER=s3cret":              "invalid value for STRETCHER_HEADER: expected a name and a value",
		"HEADER=X: 1\nRange: s3cret": "invalid value for STRETCHER_HEADER: the header Range cannot be set",
	} {
		name, value, _ := strings.Cut(variable, "=")
		_, err := parseFlags(nil, func(n string) string {
			if n == "STRETCHER_"+name {
				return value
			}
			return ""
		})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got error %v, expected one with %q", variable, err, want)
		}
	}
	// -h and -v work whatever the environment has.
	for arg, want := range map[string]error{"-h": flag.ErrHelp, "-v": errShowVersion} {
		if _, err := parseFlags([]string{arg}, func(string) string { return "wrong" }); !errors.Is(err, want) {
			t.Errorf("%s: got %v, expected %v", arg, err, want)
		}
	}
}

// No error shows the value of a header, wherever it comes from.
func FuzzParseFlags(f *testing.F) {
	f.Add("-retry 3 s3://bucket/key --", "X-A", "1\nX-B: 2")
	f.Add("-header=X -strict=perhaps -- -x", "Range", "\x00")
	f.Add("--rollback /srv/app -max-size 1e9", "", "")
	const secret = "S3CRET-of-a-header"
	f.Fuzz(func(t *testing.T, args, name, value string) {
		if strings.Contains(args+name, secret) {
			t.Skip("what is public has the secret")
		}
		header := name + ": " + value + secret
		for _, source := range []string{"flag", "variable"} {
			list, variable := strings.Fields(args), ""
			if source == "flag" {
				list = append([]string{"-header", header}, list...)
			} else {
				variable = header
			}
			o, err := parseFlags(list, func(name string) string {
				if name == "STRETCHER_HEADER" {
					return variable
				}
				return ""
			})
			if err != nil && strings.Contains(err.Error(), secret) || o == nil {
				t.Errorf("%q with the %s %q: %v", args, source, header, err)
			}
		}
	})
}
