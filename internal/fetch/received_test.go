package fetch

import (
	"net/http"
	"sync/atomic"
	"testing"
)

// Received counts what arrived over the network: also what was discarded when the
// download was started over, and what arrived before it failed.
func TestReceived(t *testing.T) {
	t.Parallel()
	const size = 1 << 17
	content := random(70, size)
	for _, test := range []struct {
		name    string
		options Options
		tag     string // of the object
		cuts    int    // requests whose answers end after half of the object
		want    int64
		fails   bool
	}{
		{"at once", quick(0), `"v1"`, 0, size, false},
		{"in parts", inParts(quick(0)), `"v1"`, 0, size, false},
		{"resumed", quick(1), `"v1"`, 1, size, false},
		{"started over", quick(1), "", 1, size/2 + size, false},
		{"failed", quick(0), `"v1"`, 1, size / 2, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n < test.cuts {
					f.cut(size/2, w, r)
				}
				return n < test.cuts
			})
			f.tag = test.tag
			var received atomic.Int64
			received.Store(5) // of an earlier download
			test.options.Received = &received
			if _, _, err := download(t, test.options, f.URL); (err != nil) != test.fails {
				t.Fatal(err)
			}
			if got := received.Load() - 5; got != test.want {
				t.Errorf("%d bytes, want %d", got, test.want)
			}
		})
	}
}
