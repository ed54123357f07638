package fetch

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// proxyEnvironment sets the proxies, and unsets those of the machine.
func proxyEnvironment(t *testing.T, variables ...string) {
	t.Helper()
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func TestCheckProxy(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "proxy", "proxy:3128", "http://proxy", "https://user:p%23ss@proxy:3128/", "socks5://127.0.0.1:1080", "socks5h://[::1]:1080", "HTTP://proxy"} {
		if err := checkProxy(value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
	for _, value := range []string{"http://user:s3cret%ss@h:1", "http://user:s3cret#ss@h:1", "http://user:s3cret/ss@h:1", "http://user:s3cret ss@h", "user:s3cret@h:port",
		"http://h:99999", "http://", "://h", "ftp://user:s3cret@h", "http://user:s3cret@:80", "socks5://h:p"} {
		if err := checkProxy(value); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v", value, err)
		}
	}
}

func FuzzCheckProxy(f *testing.F) {
	for _, s := range []string{"proxy:3128", "http://u:p@h:1", "http://u:p#q@h", "ftp://h", "[::1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if err := checkProxy("http://user:s3cret" + value); err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", value, err)
		}
	})
}

// A proxy variable that is not valid fails the requests that it is for, with all
// sources and the services that their credentials come from. It is not retried.
func TestBadProxy(t *testing.T) {
	for _, test := range []struct {
		name string
		env  []string
		url  string
		want string // variable
	}{
		{"http", []string{"HTTP_PROXY=http://user:s3cret%ss@127.0.0.1:3128"}, "http://stretcher.invalid/", "HTTP_PROXY"},
		{"hash", []string{"HTTP_PROXY=http://user:s3cret#ss@127.0.0.1:3128"}, "http://stretcher.invalid/", "HTTP_PROXY"},
		{"lower case", []string{"http_proxy=http://user:s3cret%ss@127.0.0.1:3128", "HTTP_PROXY=http://good"}, "http://stretcher.invalid/", "http_proxy"},
		{"https", []string{"HTTPS_PROXY=ftp://user:s3cret@127.0.0.1"}, "https://stretcher.invalid/", "HTTPS_PROXY"},
		{"s3", []string{"HTTPS_PROXY=http://user:s3cret%ss@127.0.0.1", "AWS_ENDPOINT_URL_S3="}, "s3://bucket/key", "HTTPS_PROXY"},
		{"gs", []string{"HTTP_PROXY=http://user:s3cret%ss@127.0.0.1", "STORAGE_EMULATOR_HOST=stretcher.invalid"}, "gs://bucket/key", "HTTP_PROXY"},
		{"imds", []string{"HTTP_PROXY=http://user:s3cret%ss@127.0.0.1", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://stretcher.invalid"}, "s3://bucket/key", "HTTP_PROXY"},
	} {
		t.Run(test.name, func(t *testing.T) {
			awsEnvironment(t, "http://127.0.0.1:1")
			gcsEnvironment(t, "")
			proxyEnvironment(t, test.env...)
			if test.name == "s3" {
				os.Unsetenv("AWS_ENDPOINT_URL_S3")
			}
			_, logged, err := download(t, quick(2), test.url)
			if err == nil || !strings.Contains(err.Error(), "environment variable "+test.want+" is not a valid proxy: ") || strings.Contains(err.Error()+logged, "s3cret") {
				t.Errorf("error %v\n%s", err, logged)
			}
			if strings.Contains(err.Error(), "REDACTED") { // of our own words
				t.Errorf("error %v", err)
			}
			if strings.Contains(logged, "attempt") {
				t.Errorf("it was retried:\n%s", logged)
			}
		})
	}
}

// A bad proxy variable does not matter to requests that no proxy is for.
func TestBadProxyUnused(t *testing.T) {
	f := serve(t, []byte("content"), nil)
	proxyEnvironment(t, "HTTP_PROXY=http://%zz", "HTTPS_PROXY=http://%zz", "NO_PROXY=.invalid")
	if got, _, err := download(t, Options{}, f.URL); err != nil || string(got) != "content" { // a loopback address
		t.Errorf("got %q, %v", got, err)
	}
	for url, bad := range map[string]bool{"http://a.invalid/": false, "https://a.invalid/": false, "http://example.com/": true, "https://example.com/": true} {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := proxyFromEnvironment()(req)
		if (err != nil) != bad || proxy != nil {
			t.Errorf("%s: proxy %v, error %v", url, proxy, err)
		}
	}
	proxyEnvironment(t, "HTTPS_PROXY=proxy:3128", "HTTP_PROXY=http://%zz")
	req, _ := http.NewRequest(http.MethodGet, "https://example.com/", nil)
	if proxy, err := proxyFromEnvironment()(req); fmt.Sprint(proxy, err) != "http://proxy:3128 <nil>" {
		t.Errorf("proxy %v, error %v", proxy, err)
	}
}
