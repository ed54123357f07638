package fetch

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestBandwidth(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		size        int
		limit       uint64
		connections int
		file        bool
		least       time.Duration
	}{
		{name: "10 KB at 5 KB/s", size: 10_000, limit: 5_000, connections: 1, least: 2 * time.Second},
		{name: "over four connections", size: 10_000, limit: 5_000, connections: 4, least: 2 * time.Second},
		{name: "file", size: 10_000, limit: 5_000, file: true, least: 2 * time.Second},
		{name: "1 B/s", size: 2, limit: 1, least: 2 * time.Second},
		{name: "no end of bandwidth", size: 20_000, limit: math.MaxUint64},
		{name: "much bandwidth", size: 20_000, limit: math.MaxInt64, connections: 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			content := random(6, test.size)
			f := serve(t, content, nil)
			url := f.URL
			if test.file {
				url = "file://" + writeFile(t, content)
			}
			start := time.Now()
			got, _, err := download(t, Options{MaxBandwidth: test.limit, Connections: test.connections, partSize: 1000, parallelSize: 2000}, url)
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, content)
			// The time before the first byte may add a burst, which is a tenth
			// of a second's bytes at most.
			if took < test.least-100*time.Millisecond {
				t.Errorf("it took %s, want at least %s", took, test.least)
			}
			// Without a limit, the first connection may be done before the
			// others have begun.
			if n := len(f.asked()); test.connections == 4 && test.least > 0 && n < 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestBandwidthBeyondTimeout(t *testing.T) {
	t.Parallel()
	f := serve(t, random(7, 10_000), nil)
	start := time.Now()
	_, _, err := downloadContext(t, withTimeout(t, 200*time.Millisecond), Options{MaxBandwidth: 100}, f.URL)
	if err == nil || !strings.HasSuffix(err.Error(), ": timeout: the download took longer than 200ms") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
