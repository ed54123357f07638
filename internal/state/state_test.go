package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// newDir opens a new state directory.
func newDir(t *testing.T) *Dir {
	t.Helper()
	return reopen(t, &Dir{filepath.Join(t.TempDir(), "state")})
}

// reopen opens a state directory as the next run of the agent does.
func reopen(t *testing.T, d *Dir) *Dir {
	t.Helper()
	d, err := Open(d.path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *Dir) record(t *testing.T, e Event, result string) map[string]Totals {
	t.Helper()
	totals, err := d.Record(Deployment{Event: &e, Dest: "/srv/app", Result: result, Bytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	return totals
}

func (d *Dir) isHandled(t *testing.T, e Event) bool {
	t.Helper()
	h, err := d.Handled(e)
	if err != nil {
		t.Fatal(err)
	}
	return h != nil
}

// write writes a file of the directory.
func (d *Dir) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(d.file(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *Dir) readAll(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(d.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestHandled(t *testing.T) {
	t.Parallel()
	type check struct {
		event Event
		want  bool
	}
	for name, test := range map[string]struct {
		succeeded, failed []Event
		checks            []check
	}{
		"consul": {
			[]Event{{Consul, "deploy", "a"}, {Consul, "deploy", "b"}}, []Event{{Consul, "deploy", "c"}},
			[]check{{Event{Consul, "deploy", "a"}, true}, {Event{Consul, "other", "b"}, true}, {Event{Consul, "deploy", "c"}, false}, {Event{Consul, "deploy", "d"}, false}},
		},
		"consul without an ID": {[]Event{{Consul, "deploy", ""}}, nil, []check{{Event{Consul, "deploy", ""}, false}}},
		"serf": {
			[]Event{{Serf, "deploy", "7"}, {Serf, "deploy", "9"}, {Serf, "deploy", "8"}}, []Event{{Serf, "deploy", "10"}},
			[]check{{Event{Serf, "deploy", "8"}, true}, {Event{Serf, "deploy", "9"}, true}, {Event{Serf, "deploy", "10"}, false}, {Event{Serf, "restart", "3"}, false}, {Event{SerfQuery, "deploy", "3"}, false}},
		},
		"serf with a large time":  {[]Event{{Serf, "deploy", "18446744073709551615"}}, nil, []check{{Event{Serf, "deploy", "18446744073709551614"}, true}}},
		"serf without a time":     {[]Event{{Serf, "deploy", ""}, {Serf, "deploy", "-1"}, {Serf, "deploy", "1e3"}}, nil, []check{{Event{Serf, "deploy", ""}, false}, {Event{Serf, "deploy", "1"}, false}}},
		"serf without a name":     {[]Event{{Serf, "", "5"}}, nil, []check{{Event{Serf, "", "5"}, true}, {Event{Serf, "", "6"}, false}}},
		"query":                   {[]Event{{SerfQuery, "deploy", "7"}}, nil, []check{{Event{SerfQuery, "deploy", "7"}, true}, {Event{Serf, "deploy", "7"}, false}}},
		"by hand":                 {[]Event{{}}, nil, []check{{Event{}, false}}},
		"long, or not UTF-8":      {[]Event{{Consul, "", strings.Repeat("x", 1<<20)}, {Serf, "a\xff", "5"}}, nil, []check{{Event{Consul, "", strings.Repeat("x", 1<<20)}, true}, {Event{Consul, "", strings.Repeat("x", 1<<20-1)}, false}, {Event{Serf, "a\xff", "5"}, true}, {Event{Serf, "a\ufffd", "5"}, false}}},
		"an ID that looks hashed": {[]Event{{Consul, "", "sha256:00"}}, nil, []check{{Event{Consul, "", "sha256:00"}, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDir(t)
			for _, e := range test.failed {
				d.record(t, e, Failure)
			}
			for _, e := range test.succeeded {
				d.record(t, e, Success)
			}
			for _, e := range test.failed {
				d.record(t, e, Failure)
			}
			d = reopen(t, d)
			for _, c := range test.checks {
				if got := d.isHandled(t, c.event); got != c.want {
					t.Errorf("%.100v is handled: %v", c.event, got)
				}
			}
		})
	}
}

// At least the last 1,000 events of Consul are remembered, and the times of the last
// 1,000 names of Serf, whatever the other sends.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	var list []Handled
	const many = 3000
	for i := range many {
		list = remember(list, Event{Consul, "deploy", fmt.Sprint("id-", i)}, time.Time{})
		list = remember(list, Event{Serf, fmt.Sprint("name-", i), "5"}, time.Time{})
		list = remember(list, Event{Serf, "name-0", fmt.Sprint(10 + i)}, time.Time{}) // is used again and again
	}
	if len(list) != 2*maxEvents {
		t.Errorf("%d events are remembered, want %d", len(list), 2*maxEvents)
	}
	for i := range many {
		recent := i >= many-maxEvents
		if got := find(list, Event{Consul, "deploy", fmt.Sprint("id-", i)}) != nil; got != recent {
			t.Fatalf("event %d of %d is remembered: %v", i, many, got)
		}
		if got := find(list, Event{Serf, fmt.Sprint("name-", i), "5"}) != nil; got != (i > many-maxEvents || i == 0) {
			t.Fatalf("name %d of %d is remembered: %v", i, many, got)
		}
	}
}

func TestTotals(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.record(t, Event{}, Success)
	d.record(t, Event{}, Success)
	d.record(t, Event{}, Failure)
	if _, err := reopen(t, d).Record(Deployment{Result: Failure, DestUnknown: true, Dest: "not counted"}); err != nil {
		t.Fatal(err)
	}
	totals, err := d.Record(Deployment{Result: Success})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Totals{"/srv/app": {Successes: 2, Failures: 1, Bytes: 30}, UnknownDest: {Failures: 1}, "": {Successes: 1}}
	for dest, got := range totals {
		if got.Last.IsZero() {
			t.Errorf("%q has no time", dest)
		}
		got.Last = time.Time{}
		if got != want[dest] {
			t.Errorf("%q: %+v, want %+v", dest, got, want[dest])
		}
	}
	if len(totals) != len(want) {
		t.Errorf("there are totals of %d dests, want %d", len(totals), len(want))
	}
}

// Totals of more dests than a host has, as with a dest of its own for each release,
// do not grow without limit, and are not dropped silently.
func TestTotalsAreBounded(t *testing.T) {
	c := &contents{}
	logged := logOf(t, func() {
		for i := range maxDests + 2 {
			c.count(Deployment{Dest: fmt.Sprint("/srv/", i), Result: Success}, time.Unix(int64(i), 0))
		}
	})
	if _, ok := c.Totals["/srv/1"]; len(c.Totals) != maxDests || ok {
		t.Errorf("there are totals of %d dests, of an old one: %v", len(c.Totals), ok)
	}
	if !strings.Contains(logged, `dropped the totals of "/srv/0"`) || strings.Count(logged, "\n") != 2 {
		t.Errorf("it logged %q", logged)
	}
}

// A state that is damaged, or that another version wrote, is kept for whoever wants
// to see it, and deployments go on.
func TestDamagedState(t *testing.T) {
	d := newDir(t)
	d.record(t, Event{Consul, "deploy", "a"}, Success)
	whole := d.readAll(t, "state.json")
	for _, content := range []string{"", whole[:len(whole)/2], whole + whole, "null", "[]", "{}", `{"version":"1"}`, `{"version":1,"events":{}}`, `{"version":1,"totals":{"/":{"bytes":-1}}}`,
		`{"version":2,"events":"otherwise"}`, "root:S3CR3T:0:0", strings.Repeat("\x00", len(whole)), strings.Repeat("[", 20<<20)} {
		d.write(t, "state.json", content)
		var handled bool
		logged := logOf(t, func() { handled = reopen(t, d).isHandled(t, Event{Consul, "deploy", "a"}) })
		if handled {
			t.Errorf("%.20q: the event is handled", content)
		}
		want := "is damaged, or not a state file"
		if strings.Contains(content, `"version":2`) {
			want = "has the format 2 of a newer version of stretcher"
		}
		want = "[WARN] " + d.file("state.json") + " " + want + ": it is now state.json.corrupt, and all events count as not handled\n"
		if !strings.HasSuffix(logged, want) || strings.Count(logged, "\n") != 1 {
			t.Errorf("%.20q: it logged %q, want %q", content, logged, want)
		}
		if d.readAll(t, "state.json.corrupt") != content {
			t.Errorf("%.20q is not kept", content)
		}
		d.record(t, Event{Consul, "deploy", "a"}, Success)
		if !reopen(t, d).isHandled(t, Event{Consul, "deploy", "a"}) {
			t.Errorf("%.20q: nothing is remembered after it", content)
		}
	}
}

// Totals that could not be stored are not returned: the counters of the metrics would
// go back at the next deployment.
func TestRecordFails(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.record(t, Event{}, Success)
	if err := os.MkdirAll(d.file("state.json.tmp/in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, result := range []string{Success, Failure} {
		if totals, err := d.Record(Deployment{Dest: "/srv/app", Result: result}); err == nil || totals != nil {
			t.Errorf("%s: got %v, %v", result, totals, err)
		}
	}
	if n := strings.Count(d.readAll(t, "history.jsonl"), "\n"); n != 3 {
		t.Errorf("the history has %d lines, expected 3", n)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path string
		make func(t *testing.T, path string) // in a directory that is made for it, nil for none
		want string
	}{
		"no parent":     {filepath.Join(parent, "a/b"), nil, "no such file or directory: make its parent directory first"},
		"a file":        {file, nil, "file is not a directory"},
		"below a file":  {filepath.Join(file, "a"), nil, "not a directory"},
		"for everybody": {"", func(t *testing.T, path string) { os.Chmod(path, 0o777) }, "may be written to by everybody, who could mark events as handled: chmod o-w it"},
		"of another user": {"", func(t *testing.T, path string) {
			if err := os.Chown(path, 12345, -1); err != nil {
				t.Skip("only root may give a directory away")
			}
		}, "belongs to the user with ID 12345, who could mark events as handled: chown it"},
		"state is a pipe": {"", func(t *testing.T, path string) { pipe(t, filepath.Join(path, "state.json")) }, "state.json is not a regular file: remove it"},
		"state is a link": {"", func(t *testing.T, path string) { os.Symlink("x", filepath.Join(path, "state.json")) }, "too many levels of symbolic links"},
		"history is a directory": {"", func(t *testing.T, path string) { os.Mkdir(filepath.Join(path, "history.jsonl"), 0o700) },
			"is a directory"},
		"lock is a directory": {"", func(t *testing.T, path string) { os.Mkdir(filepath.Join(path, "lock"), 0o700) }, "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.make != nil {
				test.path = t.TempDir()
				test.make(t, test.path)
			}
			if _, err := Open(test.path); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// The directory is outside of dest, whatever names the two have.
func TestCheckOutside(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	path := func(name string) string { return filepath.Join(parent, name) }
	if err := errors.Join(os.MkdirAll(path("srv/app/state"), 0o700), os.Symlink("srv/app", path("link")),
		os.Mkdir(path("srv/app-state"), 0o700), os.Mkdir(path("outside"), 0o700), os.Symlink("../../outside", path("srv/app/out"))); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		state, dest string
		inside      bool
	}{
		{"srv/app", "srv/app", true},
		{"srv/app/state", "srv/app", true},
		{"link/state", "srv/app", true},
		{"srv/app/state", "link", true},
		{"srv/app/state", "srv/app/x/..", true},
		{"srv/app/new", "srv/app", true},
		{"srv/app-state", "srv/app", false},
		{"srv", "srv/app", false},
		{"srv/app/out", "srv/app", false},
		{"outside", "srv/app", false},
		{"missing/state", "missing", true},
		{"state", "missing", false},
	} {
		err := (&Dir{path(test.state)}).CheckOutside(path(test.dest))
		if inside := err != nil && strings.Contains(err.Error(), "is in dest "); inside != test.inside {
			t.Errorf("state directory %s and dest %s: %v", test.state, test.dest, err)
		}
	}
	if err := (*Dir)(nil).CheckOutside("/srv/app"); err != nil {
		t.Error(err)
	}
}

func pipe(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.record(t, Event{Consul, "deploy", "a"}, Success)
	for name, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, "state.json": 0o600, "history.jsonl": 0o600, "lock": 0o600} {
		if info, err := os.Stat(d.file(name)); err != nil || info.Mode() != want {
			t.Errorf("%q has mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// What killed writers left is removed.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.write(t, "state.json.tmp", "half of")
	d.write(t, "history.jsonl.tmp", "half of")
	d = reopen(t, d)
	if _, err := os.Stat(d.file("state.json.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state.json.tmp is still there: %v", err)
	}
	d.write(t, "history.jsonl", strings.Repeat(strings.Repeat("x", 99)+"\n", maxHistory/100))
	d.record(t, Event{}, Success)
	if _, err := os.Stat(d.file("history.jsonl.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("history.jsonl.tmp is still there: %v", err)
	}
}

// A full disk is found by Open, and by Record as an error of a success, which then is
// not one.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := tartest.MountTmpfs(t, "size=64k")
	d := reopen(t, &Dir{filepath.Join(disk, "state")})
	d.record(t, Event{Consul, "deploy", "a"}, Success)
	before := d.readAll(t, "history.jsonl")
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 512))
	}
	filler.Close()
	if !unixfs.IsFull(err) {
		t.Fatal(err)
	}
	if _, err := Open(d.path); !unixfs.IsFull(err) {
		t.Errorf("open: %v", err)
	}
	if _, err := d.Record(Deployment{Event: &Event{Consul, "deploy", "b"}, Result: Success}); !unixfs.IsFull(err) {
		t.Errorf("record a success: %v", err)
	}
	if got := d.readAll(t, "history.jsonl"); got != before {
		t.Errorf("the history has a success that is none: %s", got)
	}
	if !d.isHandled(t, Event{Consul, "deploy", "a"}) || d.isHandled(t, Event{Consul, "deploy", "b"}) {
		t.Error("the state is not what it was")
	}
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	d.record(t, Event{Consul, "deploy", "b"}, Success)
	if !d.isHandled(t, Event{Consul, "deploy", "a"}) || !d.isHandled(t, Event{Consul, "deploy", "b"}) {
		t.Error("the state is lost")
	}
}

// Agents that record at the same time lose nothing of each other.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	const agents, each = 6, 5
	var wg sync.WaitGroup
	for agent := range agents {
		wg.Go(func() {
			for i := range each {
				d, err := Open(d.path)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := d.Record(Deployment{Event: &Event{Consul, "deploy", fmt.Sprint(agent, "-", i)}, Dest: "/srv/app", Result: Success, Bytes: 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for agent := range agents {
		for i := range each {
			if !d.isHandled(t, Event{Consul, "deploy", fmt.Sprint(agent, "-", i)}) {
				t.Errorf("event %d of agent %d is lost", i, agent)
			}
		}
	}
	if got := d.record(t, Event{}, Success)["/srv/app"]; got.Successes != agents*each+1 {
		t.Errorf("%d deployments are counted, want %d", got.Successes, agents*each+1)
	}
	if got := strings.Count(d.readAll(t, "history.jsonl"), "\n"); got != agents*each+1 {
		t.Errorf("the history has %d lines, want %d", got, agents*each+1)
	}
}

func FuzzState(f *testing.F) {
	for _, seed := range []string{"", "null", `{"version":1,"events":[{"kind":"serf","name":"deploy","ltime":7,"at":"2026-11-29T21:00:00Z"}],"totals":{"/srv/app":{"successes":1}}}`, `{"version":9}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data)
		if err != nil {
			if len(err.Error()) > 100 {
				t.Errorf("a long error: %v", err)
			}
			return
		}
		for _, e := range []Event{{Consul, "deploy", "a"}, {Serf, "deploy", "7"}} {
			c.Events = remember(c.Events, e, time.Now())
			if find(c.Events, e) == nil {
				t.Errorf("%v is not remembered after %q", e, data)
			}
		}
		c.count(Deployment{Dest: "/srv/app", Result: Success}, time.Now())
	})
}

// logOf returns what f logs.
func logOf(t *testing.T, f func()) string {
	t.Helper()
	var buf bytes.Buffer
	old := log.Writer()
	log.SetOutput(&buf)
	defer log.SetOutput(old)
	f()
	return buf.String()
}
