package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With -allow, no request leaves the prefixes, whatever a manifest, an event or a
// redirect says.
func TestAllowNginx(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "one")
	outside := startNginx(t, "")
	inside := startNginx(t, `
		location /deploy/chain-1 { return 302 /deploy/chain-2; }
		location /deploy/chain-2 { return 307 $scheme://$http_host/deploy/chain-3; }
		location /deploy/chain-3 { return 301 /deploy/app.yml; }
		location /deploy/to-outside  { return 302 `+outside.url+`/app.yml?token=s3cret; }
		location /deploy/src-outside { return 302 `+outside.url+`/app.tar.gz; }
		location /deploy/long-1      { return 302 /deploy/to-outside; }
		location /deploy/to-private  { return 302 /private/app.yml; }
		location /deploy/to-other    { return 302 http://$host.evil.invalid/deploy/app.yml; }`)
	h := newHost(t)
	failed := "commands: {pre: [touch " + h.path("ran") + "], failure: ['cat > " + h.path("failed") + "']}"
	put := func(n *nginx, name, src string) {
		t.Helper()
		write(t, n.path("www", name), []byte(r.manifest(src, h.path("dest"), failed)))
	}
	for _, n := range []*nginx{inside, outside} {
		for _, dir := range []string{"", "deploy", "deploy-evil", "private"} {
			write(t, n.path("www", dir, "app.tar.gz"), r.archive)
			put(n, dir+"/app.yml", n.url+"/"+dir+"/app.tar.gz")
		}
	}
	put(inside, "deploy/src-of-outside.yml", outside.url+"/app.tar.gz")
	put(inside, "deploy/src-redirected.yml", inside.url+"/deploy/src-outside")
	allow := "-allow=" + inside.url + "/deploy/"

	h.stretcher(inside.url+"/deploy/app.yml", allow).wantSuccess()
	h.stretcher(inside.url+"/deploy/chain-1", allow, "-allow", "s3://bucket").wantSuccess()
	r.wantDeployed(t, h.path("dest"))
	for _, path := range []string{h.path("dest"), h.path("ran")} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}

	// An hour would pass if a refusal were retried.
	retry := []string{allow, "-retry=3", "-retry-wait=1h"}
	for path, words := range map[string]string{
		"/app.yml":                   "/app.yml: refused by -allow: it is not under " + inside.url + "/deploy/",
		"/deploy-evil/app.yml":       "refused by -allow: it is not under",
		"/deploy/../private/app.yml": "refused by -allow " + inside.url + "/deploy/: some servers would read",
		"/deploy/to-outside":         "redirected to " + outside.url + "/app.yml?token=REDACTED: refused by -allow: it is not under",
		"/deploy/long-1":             "redirected to " + outside.url + "/app.yml?token=REDACTED: refused by -allow",
		"/deploy/to-private":         "redirected to " + inside.url + "/private/app.yml: refused by -allow",
		"/deploy/to-other":           ".evil.invalid/deploy/app.yml: refused by -allow",
	} {
		h.stretcher(inside.url+path, retry...).wantFailure("Load manifest failed: ", words).wantNotPrinted("s3cret")
		wantMissing(t, h.path("failed")) // there is no manifest
	}
	for _, path := range []string{"/deploy/src-of-outside.yml", "/deploy/src-redirected.yml"} {
		h.stretcher(inside.url+path, retry...).wantFailure("Deploy manifest failed: ", "refused by -allow: it is not under "+inside.url+"/deploy/")
		wantFileHas(t, h.path("failed"), "refused by -allow")
		if err := os.Remove(h.path("failed")); err != nil {
			t.Fatal(err)
		}
	}
	wantMissing(t, h.path("dest"))
	wantMissing(t, h.path("ran"))
	if log := outside.requests(); log != "" {
		t.Errorf("requests arrived outside:\n%s", log)
	}
	if log := inside.requests(); strings.Contains(log, "GET /app.yml") || strings.Contains(log, "private/") || strings.Contains(log, "evil/") {
		t.Errorf("requests arrived outside of the prefix:\n%s", log)
	}

	// nginx decodes and cleans a path. So this one, of which each character stands
	// below /deploy/, is that of /private/app.yml.
	for _, path := range []string{"/deploy/..%2fprivate/app.yml", "/deploy/%2e%2e/private/app.yml", "/deploy/x/..//../private/app.yml"} {
		h.stretcher(inside.url+path, retry...).wantFailure("refused by -allow")
		if log := inside.requests(); strings.Contains(log, "private/") {
			t.Fatalf("requests arrived outside of the prefix:\n%s", log)
		}
	}
	h.stretcher(inside.url + "/deploy/..%2fprivate/app.yml").wantSuccess()
	r.wantDeployed(t, h.path("dest"))
}

// A prefix may be a bucket, or a part of one.
func TestAllowS3(t *testing.T) {
	t.Parallel()
	endpoint, root := startS3(t)
	r, h := newRelease(t, "one"), s3Host(t, endpoint)
	for _, bucket := range []string{"deploys", "deploys-evil"} {
		for _, dir := range []string{"app", "app-evil"} {
			write(t, filepath.Join(root, bucket, dir, "app.tar.gz"), r.archive)
			write(t, filepath.Join(root, bucket, dir, "deploy.yml"), []byte(r.manifest("s3://"+bucket+"/"+dir+"/app.tar.gz", h.path("dest"))))
			write(t, filepath.Join(root, bucket, dir, "foreign.yml"), []byte(r.manifest("s3://deploys-evil/app/app.tar.gz", h.path("dest"))))
		}
	}
	retry := []string{"-retry=3", "-retry-wait=1h"}
	for _, test := range []struct {
		url, allow string
	}{
		{"s3://deploys-evil/app/deploy.yml", "s3://deploys"},
		{"s3://deploys/../deploys-evil/app/deploy.yml", "s3://deploys"},
		{"s3://deploys/app/..%2F..%2Fdeploys-evil/app/deploy.yml", "s3://deploys/app"},
		{"s3://deploys/app-evil/deploy.yml", "s3://deploys/app"},
		{"s3://deploys/app/../app-evil/deploy.yml", "s3://deploys/app"},
		{"s3://deploys/app/foreign.yml", "s3://deploys"},
		{endpoint + "/deploys/app/deploy.yml", "s3://deploys"},
	} {
		h.stretcher(test.url, append(retry, "-allow", test.allow)...).wantFailure("refused by -allow")
		wantMissing(t, h.path("dest"))
	}
	for _, allow := range []string{"s3://deploys", "s3://deploys/", "S3://deploys/app/"} {
		h.stretcher("s3://deploys/app/deploy.yml", "-allow", "https://example.com", "-allow", allow).wantSuccess()
	}
	r.wantDeployed(t, h.path("dest"))
}

// Whoever can fire an event, but cannot write to an allowed place, gets nothing
// deployed and nothing requested. The watch goes on.
func TestAllowConsul(t *testing.T) {
	t.Parallel()
	inside, outside := startNginx(t, ""), startNginx(t, "")
	c, h := startConsul(t, nil), newHost(t)
	r, evil := newRelease(t, "one"), newRelease(t, "evil")
	outside.put(h, outside.url, evil, "commands: {pre: [touch "+h.path("ran")+"], failure: [touch "+h.path("ran")+"]}")
	write(t, h.path("local.yml"), []byte("commands: {pre: [touch "+h.path("ran")+"]}"))
	watch := c.watch(h, "-allow", inside.url)
	watch.waitForOutput(noEvent, 1)
	for n, url := range []string{
		outside.url + "/deploy.yml",
		strings.Replace(outside.url, "://", "://"+strings.TrimPrefix(inside.url, "http://")+"@", 1) + "/deploy.yml",
		strings.Replace(inside.url, "127.0.0.1", "127.0.0.10", 1) + "/deploy.yml",
		fileURL(h.path("local.yml")),
		"s3://bucket/deploy.yml",
	} {
		c.fire(url)
		watch.waitForOutput("refused by -allow: it is not under "+inside.url, n+1)
	}
	wantMissing(t, h.path("ran"))
	wantMissing(t, h.path("dest"))
	if log := outside.requests(); log != "" {
		t.Errorf("requests arrived outside:\n%s", log)
	}
	c.fire(inside.url + inside.put(h, inside.url, r))
	watch.waitForOutput("Done", 1)
	r.wantDeployed(t, h.path("dest"))
	wantWatching(t, watch)
}
