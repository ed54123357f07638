package stretcher

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestConfigCheck(t *testing.T) {
	for _, c := range []Config{
		{},
		{MaxBandWidth: math.MaxUint64, Timeout: time.Hour, InitSleep: 1, Retry: 1, RetryWait: 1, Connections: 1, MaxSize: 1, CommandTimeout: 1, LogLevel: "DEBUG"},
		{LogLevel: "ERROR"},
		{LogLevel: "debug"},
		{LogLevel: "Warn"},
		{LogFormat: "text"},
		{LogFormat: "json"},
		{Allow: []string{"https://example.com", "s3://bucket/deploy/", "file:///srv"}},
	} {
		if err := c.check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for want, c := range map[string]Config{
		"the timeout is negative":                               {Timeout: -1},
		"the initial sleep is negative":                         {InitSleep: -1},
		"the retry count is negative":                           {Retry: -1},
		"the retry wait is negative":                            {RetryWait: -1},
		"the number of connections is negative":                 {Connections: -1},
		"the maximum size is negative":                          {MaxSize: -1},
		"the command timeout is negative":                       {CommandTimeout: -1},
		`"example.com" is not a valid URL prefix: expected`:     {Allow: []string{"https://example.com", "example.com"}},
		`the log level "information" is not one of DEBUG, INFO`: {LogLevel: "information"},
		`the log format "JSON" is not text or json`:             {LogFormat: "JSON"},
	} {
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got error %v, expected %q", c, err, want)
		}
		m := &Manifest{Commands: Commands{Pre: CommandLines{"exit 1"}}}
		if err := m.Deploy(c); c.LogLevel == "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("deploy with %+v: got error %v, expected %q", c, err, want)
		}
	}
}

func TestRandomTime(t *testing.T) {
	for range 1000 {
		if d := RandomTime(0.5); d < 0 || d >= time.Second/2 {
			t.Fatalf("%s is not in [0s, 500ms)", d)
		}
	}
	for _, delay := range []float64{0, -1, math.Inf(-1), math.NaN()} {
		if d := RandomTime(delay); d != 0 {
			t.Errorf("RandomTime(%f) is %s", delay, d)
		}
	}
}
