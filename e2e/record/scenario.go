package main

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"
)

// command is a command line of the scenario.
type command struct {
	line  string
	files map[string]string // written before it
}

var scenario = []command{
	{line: "cat app.yml", files: map[string]string{
		"app.yml":             manifest,
		"build/version":       "version 1\n",
		"build/check":         "test -s catalogue.csv\n",
		"build/server":        noise(),
		"build/catalogue.csv": catalogue("in stock"),
	}},
	{line: "stretcher pack -o v1.tar.zst -manifest v1.yml -manifest-from app.yml build"},
	{line: "stretcher -max-bandwidth 6MB v1.yml"},
	{line: "stretcher pack -base v1.tar.zst -o v2.tar.zst -manifest v2.yml -manifest-from app.yml build", files: map[string]string{
		"build/version":       "version 2\n",
		"build/catalogue.csv": catalogue("sold out"),
	}},
	{line: "stretcher -max-bandwidth 6MB v2.yml"},
	{line: "cat live/version"},
	{line: "stretcher -rollback /srv/live"},
	{line: "cat live/version"},
}

const manifest = `dest: /srv/live
sync_strategy: symlink
commands:
  post:
    - cd "$STRETCHER_DEST" && sh check
  failure:
    - mail -s "deployment failed" ops@example.com
`

// noise is as large as a program, does not compress, and is always the same.
func noise() string {
	random := rand.NewChaCha8([32]byte{})
	data := make([]byte, 12<<20)
	random.Read(data) // never fails
	return string(data)
}

// catalogue is a large file, of which one line changes.
func catalogue(state string) string {
	var b strings.Builder
	for i := range 100_000 {
		if i != 50_000 {
			fmt.Fprintf(&b, "item-%06d;in stock\n", i)
		} else {
			fmt.Fprintf(&b, "item-%06d;%s\n", i, state)
		}
	}
	return b.String()
}

// neutral replaces what differs from one recording to the next, but is not how long
// something took: the directory, the clock, and the version.
type neutral struct {
	dir   string
	begin time.Time // what the clock showed first
}

// clock is what the clock shows first in the picture.
var clock = time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC)

var (
	times   = regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d|\d{8}T\d{6}\.\d{3}Z`)
	version = regexp.MustCompile(`(Starting up stretcher agent )\S+`)
)

func (n *neutral) replace(s string) string {
	s = strings.ReplaceAll(s, n.dir, "/srv")
	s = version.ReplaceAllString(s, "${1}1.0.0")
	return times.ReplaceAllStringFunc(s, func(s string) string {
		layout, zone := "2006/01/02 15:04:05", time.Local
		if strings.HasSuffix(s, "Z") {
			layout, zone = "20060102T150405.000Z", time.UTC
		}
		at, err := time.ParseInLocation(layout, s, zone)
		if err != nil {
			return s
		}
		if n.begin.IsZero() {
			n.begin = at.Truncate(time.Second)
		}
		return clock.Add(at.Sub(n.begin)).Format(layout)
	})
}
