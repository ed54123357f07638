package metrics

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/state"
)

var now = time.Unix(1_800_000_000, 250_000_000)

func read1(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stretcher.prom")
	update := func(d state.Deployment, totals map[string]state.Totals, want string) {
		t.Helper()
		if err := Update(path, d, totals, now); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(read1(t, path)) {
			if !strings.HasPrefix(line, "#") {
				got = append(got, strings.TrimPrefix(line, "stretcher_"))
			}
		}
		if got := strings.Join(got, ""); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	app := state.Deployment{Dest: "/srv/app", Checksum: "e084", Manifest: "https://h/a.yml?a=b", Result: state.Success, Duration: 1.5, Bytes: 42}
	update(app, nil, `last_deploy_downloaded_bytes{dest="/srv/app"} 42
last_deploy_duration_seconds{dest="/srv/app"} 1.5
last_deploy_info{dest="/srv/app",checksum="e084",manifest="https://h/a.yml?a=b"} 1
last_deploy_success{dest="/srv/app"} 1
last_deploy_timestamp_seconds{dest="/srv/app"} 1.80000000025e+09
`)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	// A failure whose dest is not known, with a URL that has to be escaped. The other
	// dest keeps its series.
	update(state.Deployment{DestUnknown: true, Manifest: "a\"\\\n\xff", Result: state.Failure}, nil, `last_deploy_downloaded_bytes{dest="/srv/app"} 42
last_deploy_downloaded_bytes{dest="unknown"} 0
last_deploy_duration_seconds{dest="/srv/app"} 1.5
last_deploy_duration_seconds{dest="unknown"} 0
last_deploy_info{dest="/srv/app",checksum="e084",manifest="https://h/a.yml?a=b"} 1
last_deploy_info{dest="unknown",checksum="",manifest="a\"\\\n�"} 1
last_deploy_success{dest="/srv/app"} 1
last_deploy_success{dest="unknown"} 0
last_deploy_timestamp_seconds{dest="/srv/app"} 1.80000000025e+09
last_deploy_timestamp_seconds{dest="unknown"} 1.80000000025e+09
`)
	// A failure of another dest does not end that, a success does. Counters are those
	// of the state.
	update(state.Deployment{Dest: "/srv/b", Result: state.Failure}, map[string]state.Totals{"unknown": {Failures: 1}, "/srv/b": {Failures: 1}}, `deploys_total{dest="/srv/b",result="failure"} 1
deploys_total{dest="/srv/b",result="success"} 0
deploys_total{dest="unknown",result="failure"} 1
deploys_total{dest="unknown",result="success"} 0
downloaded_bytes_total{dest="/srv/b"} 0
downloaded_bytes_total{dest="unknown"} 0
last_deploy_downloaded_bytes{dest="/srv/app"} 42
last_deploy_downloaded_bytes{dest="/srv/b"} 0
last_deploy_downloaded_bytes{dest="unknown"} 0
last_deploy_duration_seconds{dest="/srv/app"} 1.5
last_deploy_duration_seconds{dest="/srv/b"} 0
last_deploy_duration_seconds{dest="unknown"} 0
last_deploy_info{dest="/srv/app",checksum="e084",manifest="https://h/a.yml?a=b"} 1
last_deploy_info{dest="/srv/b",checksum="",manifest=""} 1
last_deploy_info{dest="unknown",checksum="",manifest="a\"\\\n�"} 1
last_deploy_success{dest="/srv/app"} 1
last_deploy_success{dest="/srv/b"} 0
last_deploy_success{dest="unknown"} 0
last_deploy_timestamp_seconds{dest="/srv/app"} 1.80000000025e+09
last_deploy_timestamp_seconds{dest="/srv/b"} 1.80000000025e+09
last_deploy_timestamp_seconds{dest="unknown"} 1.80000000025e+09
`)
	app.Checksum = "77b0"
	update(app, map[string]state.Totals{"/srv/app": {Successes: 2, Bytes: 84}}, `deploys_total{dest="/srv/app",result="failure"} 0
deploys_total{dest="/srv/app",result="success"} 2
deploys_total{dest="/srv/b",result="failure"} 1
deploys_total{dest="/srv/b",result="success"} 0
deploys_total{dest="unknown",result="failure"} 1
deploys_total{dest="unknown",result="success"} 0
downloaded_bytes_total{dest="/srv/app"} 84
downloaded_bytes_total{dest="/srv/b"} 0
downloaded_bytes_total{dest="unknown"} 0
last_deploy_downloaded_bytes{dest="/srv/app"} 42
last_deploy_downloaded_bytes{dest="/srv/b"} 0
last_deploy_duration_seconds{dest="/srv/app"} 1.5
last_deploy_duration_seconds{dest="/srv/b"} 0
last_deploy_info{dest="/srv/app",checksum="77b0",manifest="https://h/a.yml?a=b"} 1
last_deploy_info{dest="/srv/b",checksum="",manifest=""} 1
last_deploy_success{dest="/srv/app"} 1
last_deploy_success{dest="/srv/b"} 0
last_deploy_timestamp_seconds{dest="/srv/app"} 1.80000000025e+09
last_deploy_timestamp_seconds{dest="/srv/b"} 1.80000000025e+09
`)
	text := read1(t, path)
	for _, want := range []string{"# HELP stretcher_deploys_total Number of", "# TYPE stretcher_deploys_total counter\n", "# TYPE stretcher_last_deploy_info gauge\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
}

// The path of another file was given by mistake. It is not replaced, and its content
// is not quoted.
func TestForeignFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "some.prom")
	for _, content := range []string{"root:S3CR3T:0:0\n", "node_load1 0.5\n", "stretcher_last_deploy_success 1\nS3CR3T{ 1\n", "# TYPE stretcher_last_deploy_info histogram\nstretcher_last_deploy_info_count{dest=\"/a\"} 1\n", strings.Repeat("#\n", maxFile/2+1),
		`stretcher_x{dest="/a"} 1`, "stretcher_x{dest=\"/a\"} 1 5\n", "stretcher_x{dest=\"/a} 1\n", "stretcher_x{dest=\"/a\",} 1\n", "stretcher_x{} 1\n", "stretcher_x{dest=\"\\t\"} 1\n", "stretcher_x{dest=\"\xff\"} 1\n", "# HELP node_load1 x\n", "# EOF\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Update(path, state.Deployment{Dest: "/srv/app", Result: state.Success}, nil, now)
		if err == nil || !strings.Contains(err.Error(), "some.prom is there already, and has something else in it") || strings.Contains(err.Error(), "S3CR3T") {
			t.Errorf("%.40q: got %v", content, err)
		}
		if read1(t, path) != content {
			t.Errorf("%.40q was changed", content)
		}
	}
	// A metric that only another version knows is kept.
	const newer = "# HELP stretcher_later x\n# TYPE stretcher_later counter\nstretcher_later{dest=\"/srv/app\"} 7\n"
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Update(path, state.Deployment{Dest: "/srv/app", Result: state.Success}, nil, now); err != nil || !strings.HasSuffix(read1(t, path), newer) {
		t.Errorf("got %v:\n%s", err, read1(t, path))
	}
	// What an empty file has in it is nothing.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Update(path, state.Deployment{Dest: "/srv/app", Result: state.Success}, nil, now); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "foreign"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"new.prom":         "",
		"missing/new.prom": "no such file or directory",
		"foreign/new.prom": "is not a directory",
		"foreign":          "something else in it",
		"pipe":             "is not a regular file",
		".":                "is not a regular file",
	} {
		err := Check(dir + "/" + name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if os.Geteuid() != 0 {
		if err := Check("/proc/new.prom"); err == nil {
			t.Error("a directory that cannot be written to is not noticed")
		}
	}
}

// Agents that deploy to different dests at the same time keep each other's series.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stretcher.prom")
	const agents = 8
	var wg sync.WaitGroup
	for agent := range agents {
		wg.Go(func() {
			for range 5 {
				if err := Update(path, state.Deployment{Dest: fmt.Sprint("/srv/", agent), Result: state.Success}, nil, now); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	text := read1(t, path)
	for agent := range agents {
		if n := strings.Count(text, fmt.Sprintf(`stretcher_last_deploy_success{dest="/srv/%d"} 1`, agent)); n != 1 {
			t.Errorf("dest %d has %d series", agent, n)
		}
	}
}

func TestDestsAreBounded(t *testing.T) {
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&logged)
	f := file{}
	for i := range maxDests + 1 {
		dest := fmt.Sprint("/srv/", i)
		f.update(state.Deployment{Dest: dest, Result: state.Success}, map[string]state.Totals{dest: {Successes: 1}}, time.Unix(int64(i), 0))
	}
	text := f.text()
	for name, n := range map[string]int{success + "{": maxDests, info + "{": maxDests, deploys + "{": 2 * maxDests, `"/srv/0"`: 0} {
		if got := strings.Count(string(text), name); got != n {
			t.Errorf("%s is there %d times, want %d", name, got, n)
		}
	}
	if !strings.Contains(logged.String(), `[WARN] metrics: more than 1000 dests: dropped the series of "/srv/0"`) {
		t.Errorf("it logged %q", logged.String())
	}
}

// Whatever is in the file, it is refused, or read again as it was written.
func FuzzParse(f *testing.F) {
	first := file{}
	first.update(state.Deployment{Dest: "/srv/app", Manifest: "a\"\\\n", Result: state.Success}, map[string]state.Totals{"/srv/app": {}}, now)
	f.Add(first.text())
	f.Add([]byte("# HELP stretcher_x of another version\nstretcher_x{a=\"\\\\\\n\\\"\",b=\"}\"} 1\n"))
	f.Add([]byte("# TYPE stretcher_last_deploy_success untyped\nstretcher_last_deploy_success NaN 5\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, ok := parse(data)
		if !ok {
			return
		}
		parsed.update(state.Deployment{Dest: "/srv/app", Result: state.Failure}, nil, now)
		text := parsed.text()
		if n := strings.Count("\n"+string(text), "\n"+success+`{dest="/srv/app"} 0`+"\n"); n != 1 {
			t.Errorf("the series is there %d times:\n%s", n, text)
		}
		again, ok := parse(text)
		if got := again.text(); !ok || string(got) != string(text) {
			t.Errorf("it is read as\n%s, %v\ninstead of\n%s", got, ok, text)
		}
	})
}
