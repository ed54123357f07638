package fetch

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveS3 is serve, and makes the environment name it as the endpoint of S3.
func serveS3(t *testing.T, content []byte, fault func(n int, w http.ResponseWriter, r *http.Request) bool) *faulty {
	t.Helper()
	f := serve(t, content, fault)
	awsEnvironment(t, f.URL)
	return f
}

// awsEnvironment sets the environment for an endpoint of S3, and hides the AWS
// configuration of the machine.
func awsEnvironment(t *testing.T, endpoint string) {
	t.Helper()
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // remembers the value
			os.Unsetenv(name)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", endpoint)
	t.Setenv("AWS_REGION", "eu-test-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
}

// s3Answer answers with an error in the form of S3.
func s3Answer(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Amz-Request-Id", "REQUEST")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s, in words.</Message></Error>`, code, code)
}

func TestS3Request(t *testing.T) {
	for _, test := range []struct{ url, path string }{
		{"s3://bucket/key", "/bucket/key"},
		{"s3://bucket/a/b/c.tar.gz", "/bucket/a/b/c.tar.gz"},
		{"s3://bucket/a b", "/bucket/a b"},
		{"s3://bucket/a%20b", "/bucket/a b"},
		{"s3://bucket/größe/日本", "/bucket/größe/日本"},
		{"s3://bucket/a+b%2Bc", "/bucket/a+b+c"},
		{"s3://bucket/a%23b%3Fc", "/bucket/a#b?c"},
		{"s3://bucket/a#b?c", "/bucket/a"},
		{"s3://bucket/a?b#c", "/bucket/a"},
		{"s3://bucket/100%", "/bucket/100%"},
		{"S3://bucket//key", "/bucket//key"},
	} {
		f := serveS3(t, []byte("content"), nil)
		if _, _, err := download(t, Options{}, test.url); err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		r := f.asked()[0]
		if r.URL.Path != test.path {
			t.Errorf("%s: asked for %s, want %s", test.url, r.URL.Path, test.path)
		}
		if got := r.Header.Get("User-Agent"); !strings.Contains(got, "Stretcher/"+testVersion) {
			t.Errorf("User-Agent is %q", got)
		}
		if got := r.Header.Get("Authorization"); !strings.Contains(got, "Credential=id/") || !strings.Contains(got, "/eu-test-1/s3/") {
			t.Errorf("Authorization is %q", got)
		}
		if got := r.Header.Get("Accept-Encoding"); got != "" && got != "identity" {
			t.Errorf("Accept-Encoding is %q", got)
		}
	}
}

func TestS3Errors(t *testing.T) {
	const retried, once = 3, 1
	for _, test := range []struct {
		status   int
		code     string
		header   string // X-Amz-Bucket-Region
		requests int
		want     string
	}{
		{404, "NoSuchKey", "", retried, "NoSuchKey: NoSuchKey, in words. (404), request REQUEST (given up after 3 attempts)"},
		{404, "NoSuchBucket", "", once, "NoSuchBucket: NoSuchBucket, in words. (404), request REQUEST"},
		{403, "AccessDenied", "", once, "AccessDenied: AccessDenied, in words. (403), request REQUEST"},
		{403, "SignatureDoesNotMatch", "", once, "SignatureDoesNotMatch"},
		{401, "Unauthorized", "", once, "Unauthorized"},
		{400, "ExpiredToken", "", once, "ExpiredToken"},
		{400, "RequestTimeout", "", retried, "RequestTimeout"},
		{408, "Whatever", "", retried, "Whatever"},
		{429, "TooManyRequests", "", retried, "TooManyRequests"},
		{500, "InternalError", "", retried, "InternalError"},
		{503, "SlowDown", "", retried, "SlowDown: SlowDown, in words. (503), request REQUEST (given up after 3 attempts)"},
		{301, "PermanentRedirect", "eu-other-1", once, "PermanentRedirect: PermanentRedirect, in words. (301), request REQUEST (set AWS_REGION to eu-other-1, where the bucket is)"},
		{307, "TemporaryRedirect", "", once, "TemporaryRedirect"},
		{400, "AuthorizationHeaderMalformed", "eu-other-1", once, "(set AWS_REGION to eu-other-1, where the bucket is)"},
	} {
		t.Run(test.code, func(t *testing.T) {
			f := serveS3(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if test.header != "" {
					w.Header().Set("X-Amz-Bucket-Region", test.header)
				}
				w.Header().Set("Location", "http://127.0.0.1:1/")
				s3Answer(w, test.status, test.code)
				return true
			})
			_, _, err := download(t, quick(2), "s3://bucket/key")
			if !strings.HasPrefix(fmt.Sprint(err), "fetch s3://bucket/key: "+test.code+": ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s", err, test.want)
			}
			if n := len(f.asked()); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
	// The answer of a proxy in front of S3.
	const again = " (given up after 3 attempts)"
	for _, test := range []struct {
		status     int
		body, want string
		requests   int
	}{
		{404, "gone", "404 Not Found: gone" + again, retried},
		{502, "<html><title>of some proxy</title>", "502 Bad Gateway: of some proxy" + again, retried},
		{503, "<html>unfinished", "503 Service Unavailable" + again, retried},
		{403, "blocked\nby policy", "403 Forbidden: blocked", once},
		{403, `{"message":"blocked"}`, "403 Forbidden: blocked", once},
		{403, "", "403 Forbidden", once},
	} {
		t.Run(fmt.Sprint(test.status, test.body), func(t *testing.T) {
			f := serveS3(t, nil, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
				return true
			})
			_, _, err := download(t, quick(2), "s3://bucket/key")
			if fmt.Sprint(err) != "fetch s3://bucket/key: "+test.want || len(f.asked()) != test.requests {
				t.Errorf("error %v after %d requests", err, len(f.asked()))
			}
		})
	}
	t.Run("no region", func(t *testing.T) {
		awsEnvironment(t, "http://127.0.0.1:1")
		os.Unsetenv("AWS_REGION") // awsEnvironment has it restored
		_, logged, err := download(t, quick(2), "s3://bucket/key")
		if err == nil || err.Error() != "fetch s3://bucket/key: no AWS region: set AWS_REGION or AWS_DEFAULT_REGION" {
			t.Errorf("error %v\n%s", err, logged)
		}
		t.Setenv("AWS_DEFAULT_REGION", "eu-test-1")
		if _, _, err := download(t, quick(0), "s3://bucket/key"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("with AWS_DEFAULT_REGION: error %v", err)
		}
	})
	t.Run("no credentials", func(t *testing.T) {
		f := serveS3(t, nil, nil)
		os.Unsetenv("AWS_SECRET_ACCESS_KEY")
		os.Unsetenv("AWS_ACCESS_KEY_ID")
		_, _, err := download(t, quick(0), "s3://bucket/key")
		if err == nil || !strings.Contains(err.Error(), "AWS credentials: ") || !strings.Contains(err.Error(), "set AWS_ACCESS_KEY_ID") {
			t.Errorf("error %v", err)
		}
		if n := len(f.asked()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("unknown profile", func(t *testing.T) {
		serveS3(t, nil, nil)
		t.Setenv("AWS_PROFILE", "nobody")
		_, logged, err := download(t, quick(2), "s3://bucket/key")
		if err == nil || !strings.Contains(err.Error(), "AWS configuration: ") || !strings.Contains(err.Error(), "nobody") || strings.Contains(logged, "attempt") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}

// TestS3NoEC2Role runs on an EC2 instance without a role: the 404 of its metadata
// service must not look like that of a missing object.
func TestS3NoEC2Role(t *testing.T) {
	f := serveS3(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/latest/") {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if r.Method == http.MethodPut {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			fmt.Fprint(w, "token")
		} else {
			w.WriteHeader(404)
		}
		return true
	})
	os.Unsetenv("AWS_SECRET_ACCESS_KEY")
	os.Unsetenv("AWS_ACCESS_KEY_ID")
	os.Unsetenv("AWS_EC2_METADATA_DISABLED")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f.URL)
	_, _, err := download(t, quick(0), "s3://bucket/key")
	if err == nil || !strings.HasPrefix(err.Error(), "fetch s3://bucket/key: AWS credentials: ") {
		t.Errorf("error %v", err)
	}
}

// What the SDK has to say is in the log, and not in a form of its own on stderr.
func TestS3Log(t *testing.T) {
	f := serveS3(t, nil, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(404)
		return true
	})
	os.Unsetenv("AWS_SECRET_ACCESS_KEY")
	os.Unsetenv("AWS_ACCESS_KEY_ID")
	os.Unsetenv("AWS_EC2_METADATA_DISABLED")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f.URL)
	_, logged, _ := download(t, quick(0), "s3://bucket/key")
	if !strings.HasPrefix(logged, "[WARN] Fetch s3://bucket/key: falling back to IMDSv1: ") {
		t.Errorf("logged %q", logged)
	}
}

func TestS3Profile(t *testing.T) {
	f := serveS3(t, []byte("content"), nil)
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_REGION"} {
		os.Unsetenv(name)
	}
	t.Setenv("AWS_PROFILE", "deploy")
	t.Setenv("AWS_CONFIG_FILE", writeFile(t, []byte("[profile deploy]\nregion = eu-profile-1\n")))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", writeFile(t, []byte("[deploy]\naws_access_key_id = profile\naws_secret_access_key = s3cret\n")))
	if _, _, err := download(t, quick(0), "s3://bucket/key"); err != nil {
		t.Fatal(err)
	}
	if got := f.asked()[0].Header.Get("Authorization"); !strings.Contains(got, "Credential=profile/") || !strings.Contains(got, "/eu-profile-1/") {
		t.Errorf("Authorization is %q", got)
	}
}

func TestS3ResumesAndNeverMixes(t *testing.T) {
	content, other := random(10, 1<<17), random(20, 1<<17)
	for _, connections := range []int{1, 4} {
		for _, changed := range []bool{false, true} {
			for _, tag := range []string{`"v1"`, ""} {
				t.Run(fmt.Sprintf("connections %d, changed %v, tag %s", connections, changed, tag), func(t *testing.T) {
					modified := time.Now().Add(-time.Hour)
					var f *faulty
					f = serveS3(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
						f.mu.Lock()
						if changed && n == 3 {
							f.content = other
							modified = modified.Add(time.Minute)
							if f.tag != "" {
								f.tag = `"v2"`
							}
						}
						if f.tag == "" {
							w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
						}
						f.mu.Unlock()
						if v := r.Header.Get("If-Match"); r.Header.Get("Range") != "" && (v == "") != (tag == "") {
							t.Errorf("If-Match is %q", v)
						}
						if n < 10 {
							f.cut(1000, w, r)
						}
						return n < 10
					})
					f.mu.Lock()
					f.tag = tag
					f.mu.Unlock()
					got, logged, err := download(t, inParts(Options{Retries: 20, RetryWait: time.Millisecond, Connections: connections}), "s3://bucket/key")
					if err != nil {
						t.Fatal(err)
					}
					if changed {
						same(t, got, other)
					} else {
						same(t, got, content)
					}
					if strings.Contains(logged, "starting over") != changed {
						t.Errorf("log:\n%s", logged)
					}
				})
			}
		}
	}
}

func TestS3CABundle(t *testing.T) {
	secure := quietServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "secure %s", r.Proto) })
	secure.EnableHTTP2 = true
	secure.StartTLS()
	awsEnvironment(t, secure.URL)
	if _, _, err := download(t, Options{}, "s3://bucket/key"); err == nil || !strings.Contains(err.Error(), "x509: certificate signed by unknown authority") {
		t.Errorf("error %v", err)
	}
	t.Setenv("AWS_CA_BUNDLE", writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	got, _, err := download(t, Options{}, "s3://bucket/key")
	if err != nil || string(got) != "secure HTTP/1.1" {
		t.Errorf("got %q, %v", got, err)
	}
}
