package fetch

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestProgressInLog(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		content := random(40, 4000)
		const want = "Downloading: 1000 B"
		record := &recorder{}
		waitForLog := func() {
			deadline := time.Now().Add(10 * time.Second)
			for !strings.Contains(record.String(), want) && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
		}
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 { // so that the second request begins with so much
				f.cut(500, w, r)
				return true
			}
			if known {
				f.serve(&limited{w, 500, waitForLog}, r)
			} else {
				w.WriteHeader(http.StatusOK)
				(&limited{w, 1000, waitForLog}).Write(content)
			}
			return true
		})
		if !known {
			f.change(content, "") // so that it starts over
		}
		o := quick(1)
		o.progressEvery = 10 * time.Millisecond
		_, logged, err := download(t, o.logTo(record), f.URL)
		if err != nil {
			t.Fatal(err)
		}
		line := want + `, [0-9.]+ [KM]?i?B/s\n`
		if known {
			line = want + ` of 3\.9 KiB \(25%\), [0-9.]+ [KM]?i?B/s, [0-9a-z]+ left\n`
		}
		if !regexp.MustCompile(line).MatchString(logged) {
			t.Errorf("log without %s:\n%s", line, logged)
		}
		if end := `Downloaded 4000 bytes \(3\.9 KiB\) in [0-9.]+m?s, [0-9.]+ [KM]?i?B/s, retries: 1\n$`; !regexp.MustCompile(end).MatchString(logged) {
			t.Errorf("log without %s:\n%s", end, logged)
		}
	}
}

func TestProgressStatus(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size, done, received int64
		want                 string
	}{
		{-1, 0, 0, "0 B, 0 B/s"},
		{-1, 6 << 20, 2000 << 20, "6.0 MiB, 2.0 MiB/s"},
		{0, 0, 0, "0 B, 0 B/s"},
		{12 << 20, 6 << 20, 2000 << 20, "6.0 MiB of 12 MiB (50%), 2.0 MiB/s, 3s left"},
		{12 << 20, 12 << 20, 2000 << 20, "12 MiB of 12 MiB (100%), 2.0 MiB/s, 0s left"},
		{1 << 62, 1, 1, "1 B of 4.0 EiB (0%), 0 B/s"},
	} {
		p := progress{start: time.Now().Add(-1000 * time.Second)}
		p.size.Store(test.size)
		p.done.Store(test.done)
		p.received.Store(test.received)
		if got := p.status(); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}
