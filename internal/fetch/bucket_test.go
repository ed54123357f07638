package fetch

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// buckets are the sources that have buckets.
var buckets = []struct {
	url         string
	serve       func(t *testing.T, content []byte, fault func(n int, w http.ResponseWriter, r *http.Request) bool) *faulty
	environment func(t *testing.T, endpoint string)
}{
	{"s3://bucket/key", serveS3, awsEnvironment},
	{"gs://bucket/key", serveGCS, gcsEnvironment},
}

func TestBucketTimeout(t *testing.T) {
	for _, b := range buckets {
		t.Run(b.url, func(t *testing.T) {
			endpoint, wantClosed := blackHole(t)
			b.environment(t, strings.TrimSuffix(endpoint, "/"))
			_, _, err := downloadContext(t, withTimeout(t, 200*time.Millisecond), Options{}, b.url)
			if err == nil || err.Error() != "fetch "+b.url+": timeout: the download took longer than 200ms" {
				t.Errorf("error %v", err)
			}
			wantClosed()
			nothingLeft(t)
		})
	}
}

func TestBucketRefused(t *testing.T) {
	for _, b := range buckets {
		t.Run(b.url, func(t *testing.T) {
			b.environment(t, "http://127.0.0.1:1")
			_, logged, err := download(t, quick(2), b.url)
			if err == nil || err.Error() != "fetch "+b.url+": dial tcp 127.0.0.1:1: connect: connection refused (given up after 3 attempts)" {
				t.Errorf("error %v, log:\n%s", err, logged)
			}
		})
	}
}

func TestBucketRetryAfter(t *testing.T) {
	for _, b := range buckets {
		t.Run(b.url, func(t *testing.T) {
			f := b.serve(t, []byte("x"), func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n == 0 {
					w.Header().Set("Retry-After", "1")
					s3Answer(w, 503, "SlowDown")
				}
				return n == 0
			})
			start := time.Now()
			if _, _, err := download(t, quick(1), b.url); err != nil || time.Since(start) < time.Second {
				t.Errorf("error %v after %s, %d requests", err, time.Since(start), len(f.asked()))
			}
		})
	}
}
