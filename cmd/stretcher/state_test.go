package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deliver starts stretcher with what consul watch writes for an event.
func (w *world) deliver(id, manifest string, flags ...string) *agent {
	w.t.Helper()
	cmd := exec.Command("stretcher", flags...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`[{"ID":%q,"Name":"deploy","Payload":%q}]`, id, base64.StdEncoding.EncodeToString([]byte(w.url(manifest)))))
	return w.startCommand(cmd, nil)
}

// count returns the number of lines of a file, 0 if there is none.
func (w *world) count(name string) int {
	data, _ := os.ReadFile(w.path(name))
	return strings.Count(string(data), "\n")
}

// An event that is delivered to two agents at the same time is deployed once: the
// second waits, and then finds it handled.
func TestSameEventAtOnce(t *testing.T) {
	t.Parallel()
	serf := func(ltime string) []string {
		return []string{"SERF_EVENT=user", "SERF_USER_EVENT=deploy", "SERF_USER_LTIME=" + ltime}
	}
	for _, test := range []struct {
		name          string
		dest          bool
		first, second []string // nil is an event of Consul
	}{
		{"consul", true, nil, nil},
		{"consul, commands only", false, nil, nil},
		{"serf", true, serf("8"), serf("8")},
		{"serf, with an older one", true, serf("8"), serf("7")},
		{"serf, with an older one, commands only", false, serf("8"), serf("7")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			manifest := "commands: {post: [echo post >> post; n=0; until test -e go || test $((n += 1)) -gt 10000; do sleep 0.02; done], success: [echo success >> success]}\n"
			if test.dest {
				manifest = w.archive(w.path("dest")) + "sync_strategy: builtin\n" + manifest
			}
			w.write("manifest.yml", manifest)
			start := func(serf []string) *agent {
				if serf == nil {
					return w.deliver("a-1", "manifest.yml", "-state-dir", "state")
				}
				return w.start("manifest.yml", serf, "-state-dir", "state")
			}
			first := start(test.first)
			w.until("the first is at its post command", func() bool { return w.count("post") == 1 })
			second := start(test.second)
			second.logged(fmt.Sprintf(`waiting for another deployment to .*: pid %d, since`, first.pid()))
			w.write("go", "")
			first.exits(0)
			second.exits(0)
			second.logged(`Skipping the .*: (it|one with Lamport time 8) was handled at `)
			if strings.Contains(second.log.String(), "[ERROR]") || strings.Contains(second.log.String(), "succeeded") {
				t.Error("the second did more than to skip the event")
			}
			if w.count("post") != 1 || w.count("success") != 1 || w.count("state/history.jsonl") != 1 {
				t.Errorf("post ran %d times, success %d times, and the history has %d lines", w.count("post"), w.count("success"), w.count("state/history.jsonl"))
			}
			w.clean()
		})
	}
}

// Wherever an agent is killed, its event is not deployed again after a success was
// told, and is deployed if none was.
func TestKilledAroundSuccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: builtin\ncommands: {post: [echo $STRETCHER_EVENT_ID >> post], success: [echo $STRETCHER_EVENT_ID >> success]}\n")
	count := func(name, id string) int {
		data, _ := os.ReadFile(w.path(name))
		return strings.Count(string(data), id+"\n")
	}
	var usual time.Duration
	killed, again := 0, 0
	for i := range 60 {
		id := fmt.Sprintf("event-%03d", i)
		start := time.Now()
		a := w.deliver(id, "manifest.yml", "-state-dir", "state")
		switch {
		case i < 3:
			a.exits(0)
			usual = time.Since(start)
		case i%2 == 0: // as soon as something near the end is there
			sign := []string{"post", "state/history.jsonl", "success"}[i/2%3]
			before := w.count(sign)
			a.until(sign+" grew", func() bool { return w.count(sign) > before || a.endsWithin(0) })
			time.Sleep(rand.N(usual / 20))
		default:
			time.Sleep(usual/2 + rand.N(usual/2))
		}
		if a.cmd.Process.Kill() == nil {
			killed++
		}
		<-a.ended
		told := strings.Contains(a.log.String(), "Deploy manifest succeeded.") || count("success", id) > 0
		posts := count("post", id)

		b := w.deliver(id, "manifest.yml", "-state-dir", "state")
		b.exits(0)
		skipped := strings.Contains(b.log.String(), "Skipping the Consul event "+id)
		switch {
		case told && !skipped:
			t.Errorf("%s was deployed again after it was told to have succeeded", id)
		case skipped && count("post", id) != posts, skipped && posts != 1:
			t.Errorf("%s was skipped, and post ran %d times", id, posts)
		case !skipped && !strings.Contains(b.log.String(), "Deploy manifest succeeded."):
			t.Errorf("%s was neither skipped nor deployed:\n%s", id, b.log)
		}
		if n := count("success", id); n > 1 || n == 0 && !skipped {
			t.Errorf("the success command of %s ran %d times", id, n)
		}
		if !skipped {
			again++
		}
	}
	t.Logf("%d agents were killed, %d events deployed again", killed, again)
	for line := range strings.Lines(w.read("state/history.jsonl")) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a torn line: %q", line)
		}
	}
	if left, err := os.ReadDir(w.path("state")); err != nil || len(left) != 3 {
		t.Errorf("the state directory has %v, %v", left, err)
	}
}

// A success that cannot be remembered is none, but the release stays.
func TestSuccessNotRemembered(t *testing.T) {
	t.Parallel()
	for _, strategy := range []string{"builtin", "symlink"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write("manifest.yml", w.archive(w.path("dest"))+"sync_strategy: "+strategy+`
commands:
  post: ['test -e ok || { rm state/state.json; mkdir state/state.json; }']
  success: [echo success >> success]
  failure: ['echo "$STRETCHER_ERROR" >> failure']
`)
			a := w.deliver("a-1", "manifest.yml", "-state-dir", "state", "-metrics-file", "stretcher.prom")
			a.exits(1)
			const text = `remember the success: state/state\.json is not a regular file: remove it: what was deployed stays in place, and is deployed again if the event is delivered again`
			a.logged(`\[ERROR\] Deploy manifest failed: ` + text + `$`)
			a.logged(`\[WARN\] record the failure: state/state\.json is not a regular file: remove it$`)
			if strings.Contains(a.log.String(), "succeeded") || w.count("success") > 0 {
				t.Error("a success was told")
			}
			if !regexp.MustCompile("^" + text + "\n$").MatchString(w.read("failure")) {
				t.Errorf("the failure command was told %q", w.read("failure"))
			}
			if got := w.read("dest/file"); got != "content\n" {
				t.Errorf("dest has %q", got)
			}
			if got := w.read("stretcher.prom"); !strings.Contains(got, `stretcher_last_deploy_success{dest="`+w.path("dest")+`"} 0`) {
				t.Errorf("the metrics are\n%s", got)
			}
			if got := w.read("state/history.jsonl"); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"result":"failure"`) {
				t.Errorf("the history is\n%s", got)
			}
			w.run("rmdir", "state/state.json")
			w.write("ok", "")
			w.deliver("a-1", "manifest.yml", "-state-dir", "state").exits(0)
			if w.count("success") != 1 {
				t.Error("the event was not deployed again")
			}
			w.clean()
		})
	}
}

// Every end of a deployment makes one line of the history, without secrets.
func TestHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	archive := w.archive(w.path("dest"))
	server := httptest.NewServer(http.FileServer(http.Dir(w.dir)))
	defer server.Close()
	_, sum, _ := strings.Cut(archive, "checksum: ")
	sum, _, _ = strings.Cut(sum, "\n")
	w.write("good.yml", archive+"sync_strategy: symlink\n")
	w.write("old.yml", archive+"sync_strategy: symlink\nexcludes: [x]\n")
	w.write("wrong.yml", archive+"sync_strategy: no\n")
	w.write("hangs.yml", archive+"sync_strategy: symlink\ncommands: {pre: [touch hanging; exec sleep 600]}\n")
	w.write("page.yml", "checksum: S3CR3T\n")
	w.write("commands.yml", "commands: {post: [exit 3]}\n")
	run := func(status int, event string, flags ...string) {
		t.Helper()
		w.start(event, nil, append(flags, "-state-dir", "state")...).exits(status)
	}
	run(0, server.URL+"/old.yml?token=S3CR3T")
	for range 2 { // the second is skipped, and no deployment
		w.deliver("a-1", "good.yml", "-state-dir", "state").exits(0)
	}
	run(1, server.URL+"/missing.yml?token=S3CR3T")
	run(1, "ftp://://")
	run(1, "good.yml", "-allow", "https://example.com/")
	run(1, "wrong.yml")
	run(1, "page.yml")
	run(1, "commands.yml")
	run(0, "", "-rollback", w.path("dest"))
	run(1, "", "-rollback", w.path("none"))
	a := w.start("hangs.yml", nil, "-state-dir", "state")
	w.until("it hangs", func() bool { _, err := os.Stat(w.path("hanging")); return err == nil })
	a.signal(syscall.SIGTERM)
	a.exits(1)

	type line struct {
		Time                                              time.Time
		Event                                             map[string]string
		Rollback                                          bool
		Manifest, Checksum, Dest, Strategy, Result, Error string
		Duration                                          float64
		Bytes                                             int64
	}
	const size = 10240 // of the archive
	want := []line{
		{Manifest: server.URL + "/old.yml?token=REDACTED", Checksum: sum, Dest: w.path("dest"), Strategy: "symlink", Result: "success", Bytes: size},
		{Event: map[string]string{"kind": "consul", "name": "deploy", "id": "a-1"}, Manifest: w.url("good.yml"), Checksum: sum, Dest: w.path("dest"), Strategy: "symlink", Result: "success", Bytes: size},
		{Manifest: server.URL + "/missing.yml?token=REDACTED", Result: "failure", Error: "fetch " + server.URL + "/missing.yml?token=REDACTED: 404 Not Found"},
		{Manifest: "ftp://://", Result: "failure", Error: "unknown scheme"},
		{Manifest: w.url("good.yml"), Result: "failure", Error: "https://example.com/"},
		{Manifest: w.url("wrong.yml"), Checksum: sum, Dest: w.path("dest"), Result: "failure", Error: "invalid strategy"},
		{Manifest: w.url("page.yml"), Result: "failure", Error: "neither src nor commands"},
		{Manifest: w.url("commands.yml"), Result: "failure", Error: "post command: failed: exit 3 exit status 3"},
		{Rollback: true, Manifest: "file://" + w.path("dest.releases/"), Checksum: sum, Dest: w.path("dest"), Strategy: "symlink", Result: "success"},
		{Rollback: true, Dest: w.path("none"), Result: "failure", Error: "none"},
		{Manifest: w.url("hangs.yml"), Checksum: sum, Dest: w.path("dest"), Strategy: "symlink", Result: "failure", Error: "interrupted by SIGTERM"},
	}
	history := w.read("state/history.jsonl")
	if strings.Contains(history, "S3CR3T") {
		t.Errorf("a secret is in the history:\n%s", history)
	}
	lines := strings.Split(strings.TrimSuffix(history, "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("the history has %d lines, want %d:\n%s", len(lines), len(want), history)
	}
	for i, text := range lines {
		var got line
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if age := time.Since(got.Time); age < 0 || age > patience || got.Time.Location() != time.UTC || got.Duration < 0 || got.Duration > age.Seconds()+1 {
			t.Errorf("time or duration: %s", text)
		}
		w := want[i]
		same := strings.HasPrefix(got.Manifest, w.Manifest) && strings.Contains(got.Error, w.Error) && (w.Error != "" || got.Error == "")
		got.Time, got.Duration, got.Manifest, got.Error, w.Manifest, w.Error = time.Time{}, 0, "", "", "", ""
		if !same || fmt.Sprint(got) != fmt.Sprint(w) {
			t.Errorf("line %d: %s\nwant %+v", i, text, want[i])
		}
	}
}
