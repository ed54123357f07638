package stretcher

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// Whatever a store answers, dest gets the archive, or it stays what it was and the
// error says why. Nothing is requested from elsewhere, and no secret is logged. When the
// store is well again, the next deployment makes dest what it should be.
func TestIncrementalChaos(t *testing.T) {
	rounds(t, 3*time.Second, func(r *trip) {
		archive, m := r.packNewer()
		host, whole := filepath.Join(r.dir, "incremental"), filepath.Join(r.dir, "whole")
		r.copy(r.before, host)
		r.copy(r.before, whole)
		if said, err := r.deploy(whole, archive, m, Config{Whole: true}); err != nil {
			r.t.Fatalf("%v: %s", err, said)
		}
		store := startChaos(r.t, r.rng, archive)
		m.Src = store.url()
		before := tartest.Snapshot(r.t, host)
		conf := Config{Retry: r.rng.IntN(4), RetryWait: time.Millisecond, Allow: []string{store.server.URL + "/"}, Connections: 1 + r.rng.IntN(4)}
		if r.rng.IntN(10) == 0 {
			conf.Timeout = time.Duration(1+r.rng.IntN(30)) * time.Millisecond
		}
		said, err := r.deploy(host, nil, m, conf)
		if strings.Contains(said, secret) || err != nil && strings.Contains(err.Error(), secret) {
			r.t.Errorf("a secret is in the log or the error: %v: %s", err, said)
		}
		if err != nil {
			after := tartest.Snapshot(r.t, host)
			if _, ok := before["dest.releases"]; !ok { // it is made at once, and kept
				delete(after, "dest.releases")
			}
			tartest.CompareSnapshots(r.t, before, after)
			store.recover()
			said, err = r.deploy(host, nil, m, Config{})
		}
		if err != nil {
			r.t.Fatalf("%v: %s", err, said)
		}
		tartest.CompareSnapshots(r.t, r.snapshot(whole), r.snapshot(host))
	})
}

// chaos is a store that answers some requests as no store should, at random.
type chaos struct {
	archive []byte
	server  *httptest.Server
	other   *httptest.Server // to which nothing must be sent

	mu       sync.Mutex
	rng      *rand.Rand
	replaced bool // by another archive of the same size
	tag      string
	rate     int // of 100 requests, how many are answered oddly
}

// startChaos starts a store. Which answers are odd depends on the seed only for as
// long as there is one request at a time.
func startChaos(t *testing.T, rng *rand.Rand, archive []byte) *chaos {
	t.Helper()
	c := &chaos{archive: archive, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), tag: `"one"`}
	c.rate = one(c.rng, 0, 10, 30, 70)
	if c.rng.IntN(8) == 0 {
		c.tag = "" // a store without validators
	}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	c.other = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a request to another host: %s %v", r.URL, r.Header)
	}))
	t.Cleanup(c.other.Close)
	return c
}

// recover ends the trouble.
func (c *chaos) recover() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate, c.replaced = 0, false
}

const secret = "TOPSECRET"

// url is a presigned one.
func (c *chaos) url() string {
	return strings.Replace(c.server.URL, "//", "//user:"+secret+"@", 1) + "/archive?X-Amz-Signature=" + secret
}

func (c *chaos) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	fault, number := -1, c.rng.Int()
	if c.rng.IntN(100) < c.rate {
		fault = c.rng.IntN(16)
	}
	if fault == 0 && r.Header.Get("Range") != "" {
		c.replaced = true
		if c.tag != "" && number%2 == 0 {
			c.tag = `"two"`
		}
	}
	data, tag := c.archive, c.tag
	if c.replaced {
		data = bytes.Clone(data)
		for i := range data {
			data[i] ^= byte(1 + i%7)
		}
	}
	c.mu.Unlock()
	if tag != "" {
		w.Header().Set("ETag", tag)
	}
	var from, to int // what was asked for
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || to >= len(data) {
		from, to = 0, len(data)-1
	}
	cut := number % (to - from + 2)
	partial := func(from, to int, body []byte) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body)
	}
	switch fault {
	case 1:
		w.WriteHeader(one(rand.New(rand.NewPCG(uint64(number), 0)), 500, 503, 429, 408, 416, 403, 404, 400, 204, 304, 206, 207))
		fmt.Fprintf(w, "cannot get %s", r.URL) // as some servers say
	case 2: // the range is ignored
		w.Write(data)
	case 3: // another range
		partial(from/2, from/2+(to-from), data[from/2:][:to-from+1])
	case 4: // the right range, with the bytes of another one
		partial(from, to, data[from/2:][:to-from+1])
	case 5: // several ranges
		body := new(bytes.Buffer)
		m := multipart.NewWriter(body)
		w.Header().Set("Content-Type", "multipart/byteranges; boundary="+m.Boundary())
		part, _ := m.CreatePart(textproto.MIMEHeader{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", from, to, len(data))}})
		part.Write(data[from : to+1])
		m.Close()
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body.Bytes())
	case 6: // the connection is cut
		w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
		partial(from, to, data[from:][:cut])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case 7: // too short, without a length
		w.(http.Flusher).Flush()
		partial(from, to, data[from:][:cut])
	case 8: // too long
		partial(from, to, append(bytes.Clone(data[from:to+1]), data...))
	case 9: // one bit is wrong
		body := bytes.Clone(data[from : to+1])
		body[cut%len(body)] ^= 1 << (number % 8)
		partial(from, to, body)
	case 10:
		w.Header().Set("Content-Encoding", "gzip")
		body := new(bytes.Buffer)
		z := gzip.NewWriter(body)
		z.Write(data[from : to+1])
		z.Close()
		partial(from, to, body.Bytes())
	case 11:
		http.Redirect(w, r, r.URL.Path+"?session="+secret, http.StatusTemporaryRedirect)
	case 12:
		http.Redirect(w, r, c.other.URL+"/?token="+secret, http.StatusFound)
	case 13: // another size
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)+1))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(data[from : to+1])
	case 14: // a drip
		w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
		w.WriteHeader(http.StatusPartialContent)
		step := (to-from)/20 + 1
		for at := from; at <= to; at += step {
			w.Write(data[at:min(at+step, to+1)])
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	case 15: // nothing at all
		panic(http.ErrAbortHandler)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}
