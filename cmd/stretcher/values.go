package main

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/fetch"

	"github.com/dustin/go-humanize"
)

// repeated is the value of a flag that may be repeated. It is called with each
// value.
type repeated func(string) error

func (repeated) String() string { return "" }

func (r repeated) Set(s string) error { return r(s) }

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

// path returns a parser of a path, which is stored in *to. "" is an error, since it is
// more likely a shell's variable that is not set than a wish for none.
func path(to *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("expected a path")
		}
		*to = s
		return nil
	}
}

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
