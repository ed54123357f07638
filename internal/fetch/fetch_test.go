package fetch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestFetchTorture downloads from a server with random faults. Every download has
// to end with one whole version of the object.
func TestFetchTorture(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex // of rnd
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	failed := 0
	for round := range 30 {
		versions := [][]byte{random(uint64(round), chance(1<<19))}
		maxFaults := chance(20)
		tags := chance(4) > 0
		faults := 0
		var f *faulty
		f = serve(t, versions[0], func(n int, w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			faults++
			good := faults > maxFaults
			mu.Unlock()
			if good {
				return false
			}
			switch chance(12) {
			case 0:
				w.WriteHeader([]int{404, 408, 429, 500, 503}[chance(5)])
			case 1:
				resetBy(w)
			case 2, 3, 4:
				f.serve(&limited{w, 1 + chance(1<<17), abort}, r)
			case 5:
				f.serve(&limited{w, 1 + chance(1<<17), func() { resetBy(w) }}, r)
			case 6:
				f.serve(w, withoutRanges(r))
			case 7:
				if !tags {
					return false
				}
				mu.Lock()
				v := random(uint64(1000*round+n), rnd.IntN(1<<19))
				versions = append(versions, v)
				f.change(v, fmt.Sprintf(`"v%d"`, len(versions)))
				mu.Unlock()
				r.Header.Del("If-Range")
				return false
			case 8: // chunked
				w.Header().Set("ETag", f.etag())
				f.mu.Lock()
				content := f.content
				f.mu.Unlock()
				w.Write(content[:len(content)/2])
				http.NewResponseController(w).Flush()
				w.Write(content[len(content)/2:])
			case 9:
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
			case 10:
				f.serve(&limited{w, 1 + chance(1<<16), func() { time.Sleep(100 * time.Millisecond) }}, r)
				abort()
			default:
				return false
			}
			return true
		})
		if !tags {
			f.tag = ""
		}
		got, logged, err := download(t, Options{
			Retries: 30, RetryWait: time.Microsecond, Connections: 1 + chance(6),
			partSize: 1 << 15, parallelSize: 1 << 16, slowLeast: 50 * time.Millisecond, stallTimeout: time.Second,
		}, f.URL)
		f.Close()
		if err != nil {
			failed++
			continue
		}
		whole := false
		for _, v := range versions {
			whole = whole || bytes.Equal(got, v)
		}
		if !whole {
			t.Fatalf("round %d: the %d bytes are none of the %d versions of the object:\n%s", round, len(got), len(versions), logged)
		}
	}
	if failed > 0 {
		t.Errorf("%d downloads failed in spite of their retries", failed)
	}
	nothingLeft(t)
}
