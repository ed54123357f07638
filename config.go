package stretcher

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Config says how a deployment is run. The zero value deploys at once, with
// one attempt at each download and no limits.
type Config struct {
	// MaxBandWidth limits the download of src, in bytes a second. 0 is no limit.
	MaxBandWidth uint64
	// Timeout bounds the download of src, all retries included. 0 is no limit;
	// a transfer that stalls for a minute ends all the same.
	Timeout time.Duration
	// InitSleep is waited before the manifest is fetched, so that a fleet does
	// not download in the same second. See RandomTime.
	InitSleep time.Duration
	// Retry is how often a failed download is tried again. 0 is never.
	Retry int
	// RetryWait is the pause before each retry; up to a quarter of it is added
	// at random.
	RetryWait time.Duration

	// Connections is over how many connections an archive of more than 16 MiB
	// is fetched. 0 is the default, 4.
	Connections int
	// MaxSize bounds the unpacked size of the archive, in bytes. 0 is no limit.
	MaxSize int64
	// CommandTimeout bounds each command of the manifest. 0 is no limit.
	CommandTimeout time.Duration
	// LogLevel is the least level that is logged: DEBUG, INFO, WARN or ERROR.
	// "" is INFO.
	LogLevel string
	// Abort, when closed, ends a cancelled run at once: running commands are
	// killed and the failure commands are not waited for. nil never does.
	Abort <-chan struct{}
}

const defaultConnections = 4

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
	if c.LogLevel != "" && !slices.Contains(logLevels, c.LogLevel) {
		return errors.New("the log level is none of " + strings.Join(logLevels, ", "))
	}
	return nil
}

// Nanoseconds is the number of nanoseconds in a second.
const Nanoseconds = 1000 * 1000 * 1000

// RandomTime returns a random duration in [0, delay) seconds, 0 where delay
// is not positive.
func RandomTime(delay float64) time.Duration {
	if !(delay > 0) {
		return 0
	}
	return time.Duration(rand.Float64() * delay * Nanoseconds)
}
