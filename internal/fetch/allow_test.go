package fetch

import (
	"net/http"
	"strings"
	"testing"
)

// What is not allowed is refused at once: no request is made, and no retry.
func TestAllow(t *testing.T) {
	content := []byte("content")
	web := serve(t, content, nil)
	s3, gcs := serveS3(t, content, nil), serveGCS(t, content, nil)
	path := writeFile(t, content)
	servers := []*faulty{web, s3, gcs}
	requests := func() (n int) {
		for _, s := range servers {
			n += len(s.asked())
		}
		return n
	}
	for _, test := range []struct{ url, allowed, refused string }{
		{web.URL + "/deploy/a", web.URL + "/deploy", web.URL + "/deploy/a/b"},
		{strings.Replace(web.URL, "://", "://user:s3cret@", 1) + "/deploy/a?token=s3cret", web.URL, "http://user"},
		{"s3://bucket/deploy/key", "s3://bucket/deploy", "s3://bucket-evil"},
		{"s3://bucket/deploy/%2e%2e/key", "", "s3://bucket/deploy"},
		{"gs://bucket/deploy/key", "gs://bucket/", "gs://buck"},
		{"gs://bucket//key", "gs://bucket/key", "s3://bucket"},
		{"file://" + path, "file:" + path, "file:///no/such"},
		{"file://" + path + "/../file", "", "file://" + path},
	} {
		before := requests()
		for name, fetch := range map[string]func(Options) (string, error){
			"Download": func(o Options) (string, error) { _, log, err := download(t, o, test.url); return log, err },
			"Manifest": func(o Options) (string, error) {
				r := &recorder{}
				_, err := Manifest(t.Context(), test.url, o.logTo(r))
				return r.String(), err
			},
			"CheckURL": func(o Options) (string, error) { return "", CheckURL(test.url, o.Allow) },
		} {
			o := quick(3)
			o.Allow = []string{"https://example.com", test.refused}
			log, err := fetch(o)
			if err == nil || !strings.Contains(err.Error(), ": refused by -allow") || !strings.Contains(err.Error(), "https://example.com, "+test.refused) || strings.Contains(err.Error(), "s3cret") || log != "" {
				t.Errorf("%s %s: error %v, log:\n%s", name, test.url, err, log)
			}
			if n := requests(); n != before {
				t.Errorf("%s %s: %d requests, although it is not allowed", name, test.url, n-before)
			}
			o.Allow = append(o.Allow, "not a prefix")
			if _, err := fetch(o); err == nil || !strings.Contains(err.Error(), "not a valid URL prefix") || requests() != before {
				t.Errorf("%s %s with a bad prefix: error %v", name, test.url, err)
			}
			if o.Allow = []string{test.refused, test.allowed}; test.allowed == "" {
				continue
			}
			if _, err := fetch(o); err != nil {
				t.Errorf("%s %s under %s: %v", name, test.url, test.allowed, err)
			}
			before = requests()
		}
	}
}

// No request follows a redirect that is not allowed, be it the first one, the last
// one of a chain, that of a resumed download or that of a range.
func TestAllowRedirects(t *testing.T) {
	t.Parallel()
	content := random(1, 1<<17)
	outside := serve(t, content, nil)
	for _, test := range []struct {
		name  string
		o     Options
		fault func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool
	}{
		{"at once", quick(3), func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, outside.URL+"/deploy/?token=s3cret", http.StatusFound)
			return true
		}},
		{"to another path", quick(3), func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/deploy/a" {
				t.Errorf("asked for %s", r.URL.Path)
			}
			w.Header().Set("Location", "/deploy/%2e%2e/s3cret?token=s3cret")
			w.WriteHeader(http.StatusFound)
			return true
		}},
		{"at the end of a chain", quick(3), func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			to := f.URL + "/deploy/b"
			if n == 2 {
				to = outside.URL + "/deploy/?token=s3cret"
			}
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return true
		}},
		{"resumed", quick(3), func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				f.cut(1000, w, r)
			} else {
				http.Redirect(w, r, outside.URL+"/deploy/?token=s3cret", http.StatusFound)
			}
			return true
		}},
		{"a range", inParts(quick(3)), func(f *faulty, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				f.cut(1<<14, w, r) // this connection goes on with a range
			} else {
				http.Redirect(w, r, outside.URL+"/deploy/?token=s3cret", http.StatusFound)
			}
			return true
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var f *faulty
			f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool { return test.fault(f, n, w, r) })
			test.o.Allow = []string{"s3://bucket", f.URL + "/deploy"}
			_, log, err := download(t, test.o, f.URL+"/deploy/a")
			if err == nil || !strings.HasPrefix(err.Error(), "fetch "+f.URL+"/deploy/a: redirected to http://") || !strings.Contains(err.Error(), "?token=REDACTED: refused by -allow") || !strings.Contains(err.Error(), "s3://bucket, "+f.URL+"/deploy") {
				t.Errorf("error %v, log:\n%s", err, log)
			}
			if strings.Contains(log, "failed: redirected") || strings.Contains(log, "s3cret") {
				t.Errorf("the redirect was retried:\n%s", log)
			}
		})
	}
	t.Cleanup(func() {
		if n := len(outside.asked()); n != 0 {
			t.Errorf("%d requests arrived outside", n)
		}
	})
	t.Run("allowed", func(t *testing.T) {
		t.Parallel()
		to := serve(t, content, nil)
		from := serve(t, nil, func(n int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to.URL+"/to/a", http.StatusFound)
			return true
		})
		o := inParts(quick(0))
		o.Allow = []string{from.URL + "/from", to.URL + "/to"}
		got, _, err := download(t, o, from.URL+"/from/a")
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, content)
	})
}

// The clients of S3 and GCS follow no redirect, with -allow and without, since their
// requests carry credentials.
func TestNoRedirectOfBuckets(t *testing.T) {
	outside := serve(t, []byte("content"), nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		redirect := func(n int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, outside.URL+r.URL.Path, status)
			return true
		}
		s3, gcs := serveS3(t, nil, redirect), serveGCS(t, nil, redirect)
		for url, server := range map[string]*faulty{"s3://bucket/key": s3, "gs://bucket/key": gcs} {
			_, log, err := download(t, quick(3), url)
			if err == nil || !strings.Contains(err.Error(), http.StatusText(status)) || len(server.asked()) != 1 {
				t.Errorf("%s: error %v after %d requests, log:\n%s", url, err, len(server.asked()), log)
			}
		}
	}
	if n := len(outside.asked()); n != 0 {
		t.Errorf("%d requests were redirected", n)
	}
}
