package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// gcs is a running fake-gcs-server.
type gcs struct {
	t    *testing.T
	addr string
}

func startGCS(t *testing.T) *gcs {
	t.Helper()
	g := &gcs{t: t}
	fake := tool(t, "fake-gcs-server")
	h := newHost(t)
	startServer(t, "fake-gcs-server", func() *exec.Cmd {
		port := freePort(t)
		g.addr = fmt.Sprintf("127.0.0.1:%d", port)
		return h.command(fake, "-scheme", "http", "-host", "127.0.0.1", "-port", fmt.Sprint(port), "-public-host", g.addr, "-backend", "memory", "-data", t.TempDir())
	}, func() error {
		_, err := get("http://" + g.addr + "/_internal/healthcheck")
		return err
	})
	return g
}

// host returns a host whose agent uses the server instead of Google's.
func (g *gcs) host(t *testing.T) *host {
	return newHost(t, "STORAGE_EMULATOR_HOST="+g.addr)
}

func (g *gcs) post(path, contentType string, body []byte) {
	g.t.Helper()
	resp, err := http.Post("http://"+g.addr+path, contentType, bytes.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatalf("POST %s: %s %s %v", path, resp.Status, answer, err)
	}
}

func (g *gcs) createBucket(name string) {
	g.t.Helper()
	g.post("/storage/v1/b?project=test", "application/json", []byte(`{"name":"`+name+`"}`))
}

func (g *gcs) upload(bucket, key string, data []byte) {
	g.t.Helper()
	g.post("/upload/storage/v1/b/"+bucket+"/o?uploadType=media&name="+url.QueryEscape(key), "application/octet-stream", data)
}

// uploadGzip uploads bytes that are compressed already, as gcloud storage cp -Z does.
func (g *gcs) uploadGzip(bucket, key string, data []byte) {
	g.t.Helper()
	g.post("/upload/storage/v1/b/"+bucket+"/o?uploadType=media&contentEncoding=gzip&name="+url.QueryEscape(key), "application/octet-stream", data)
}

func TestGCS(t *testing.T) {
	t.Parallel()
	g := startGCS(t)
	g.createBucket("deploys")
	r := newRelease(t, "one")
	put := func(h *host, manifest, archive string) string {
		g.upload("deploys", archive, r.archive)
		g.upload("deploys", manifest, []byte(r.manifest("gs://deploys/"+archive, h.path("dest"))))
		return "gs://deploys/" + manifest
	}

	t.Run("deploy", func(t *testing.T) {
		h := g.host(t)
		h.stretcher(put(h, "app/deploy.yml", "app/app.tar.gz")).wantSuccess().wantLog("Checksum ok: " + r.checksum)
		r.wantDeployed(t, h.path("dest"))
	})
	t.Run("emulator as a URL", func(t *testing.T) {
		h := newHost(t, "STORAGE_EMULATOR_HOST=http://"+g.addr)
		h.stretcher(put(h, "app/deploy.yml", "app/app.tar.gz")).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})
	for _, key := range []string{"with space", "ü/日本語", "a+b", "a+b c&d=e;f,g@h!i'(j)$k*l", "trailing space ", "~.-_", "two  spaces"} {
		t.Run("key "+key, func(t *testing.T) {
			h := g.host(t)
			h.stretcher(put(h, "odd/"+key+"/deploy.yml", "odd/"+key+"/app.tar.gz")).wantSuccess()
			r.wantDeployed(t, h.path("dest"))
		})
	}
	t.Run("key in percent escapes", func(t *testing.T) {
		h := g.host(t)
		put(h, "escaped/a b/ü.yml", "escaped/app.tar.gz")
		h.stretcher("gs://deploys/escaped/a%20b/%C3%BC.yml").wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	t.Run("Content-Encoding", func(t *testing.T) {
		h := g.host(t)
		g.uploadGzip("deploys", "encoded/app.tar.gz", r.archive)
		g.uploadGzip("deploys", "encoded/deploy.yml", gzipped(t, []byte(r.manifest("gs://deploys/encoded/app.tar.gz", h.path("dest")))))
		h.stretcher("gs://deploys/encoded/deploy.yml").wantSuccess().wantLog("Checksum ok: " + r.checksum)
		r.wantDeployed(t, h.path("dest"))
		g.uploadGzip("deploys", "encoded/deploy.yml", gzipped(t, []byte(r.badManifest("gs://deploys/encoded/app.tar.gz", h.path("dest")))))
		h.stretcher("gs://deploys/encoded/deploy.yml").wantFailure("Checksum mismatch", "the server sent it with Content-Encoding gzip")

		// Over http, the server decodes manifests and archives.
		url := "http://" + g.addr + "/deploys/encoded/"
		g.uploadGzip("deploys", "encoded/deploy.yml", gzipped(t, []byte(r.manifest(url+"app.tar.gz", h.path("dest")))))
		h.stretcher(url+"deploy.yml").wantFailure("Checksum mismatch", "it is stored with Content-Encoding gzip, which the server decoded")
	})

	t.Run("missing key", func(t *testing.T) {
		h := g.host(t)
		h.stretcher("gs://deploys/no/such.yml").wantFailure("gs://deploys/no/such.yml", "object doesn't exist")
		g.upload("deploys", "half/deploy.yml", []byte(r.manifest("gs://deploys/half/missing.tar.gz", h.path("dest"),
			"commands:", "  pre: [touch "+h.path("pre")+"]", "  failure: ['cat > "+h.path("failure")+"']")))
		h.stretcher("gs://deploys/half/deploy.yml").
			wantFailure("Deploy manifest failed:", "Get src failed:", "gs://deploys/half/missing.tar.gz", "object doesn't exist")
		wantMissing(t, h.path("pre"))
		wantMissing(t, h.path("dest"))
		wantFileHas(t, h.path("failure"), "Get src failed:")
	})
	t.Run("missing bucket", func(t *testing.T) {
		g.host(t).stretcher("gs://no-such-bucket/deploy.yml").wantFailure("gs://no-such-bucket/deploy.yml", "doesn't exist")
	})
	t.Run("URL without a key", func(t *testing.T) {
		g.host(t).stretcher("gs://deploys", "-retry=3", "-retry-wait=1h").wantFailure("gs://deploys")
	})
	t.Run("wrong checksum", func(t *testing.T) {
		h := g.host(t)
		g.upload("deploys", "bad/app.tar.gz", r.archive)
		g.upload("deploys", "bad/deploy.yml", []byte(r.badManifest("gs://deploys/bad/app.tar.gz", h.path("dest"))))
		h.stretcher("gs://deploys/bad/deploy.yml", "-retry=3", "-retry-wait=1h").wantFailure("Deploy manifest failed:", "Checksum mismatch")
		wantMissing(t, h.path("dest"))
	})

	// An event may arrive before the upload of the archive that it leads to.
	t.Run("appears between retries", func(t *testing.T) {
		h := g.host(t)
		agent := h.start("gs://deploys/late/deploy.yml", "-retry=1000", "-retry-wait=100ms")
		agent.waitForLog("Fetch gs://deploys/late/deploy.yml: attempt 1")
		g.upload("deploys", "late/deploy.yml", []byte(r.manifest("gs://deploys/late/app.tar.gz", h.path("dest"))))
		agent.waitForLog("Fetch gs://deploys/late/app.tar.gz: attempt 1")
		g.upload("deploys", "late/app.tar.gz", r.archive)
		agent.wait().wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})
	t.Run("never appears", func(t *testing.T) {
		o := g.host(t).stretcher("gs://deploys/never.yml", "-retry=2", "-retry-wait=0.5").wantFailure("object doesn't exist")
		if o.took < time.Second {
			t.Errorf("two waits of half a second each took %s", o.took)
		}
	})
}

// Without an emulator, the agent uses credentials. If their file is missing, the
// error names it.
func TestGCSCredentials(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	key := h.path("etc", "key.json")
	h.env = append(h.env, "GOOGLE_APPLICATION_CREDENTIALS="+key)
	h.stretcher("gs://deploys/deploy.yml").wantFailure("gs://deploys/deploy.yml", key)
	write(t, key, []byte(`{"type": "service_account", "private_key": "not-a-key-at-all"}`))
	o := h.stretcher("gs://deploys/deploy.yml").wantFailure("gs://deploys/deploy.yml")
	o.wantNotPrinted("not-a-key-at-all")
	if strings.Contains(o.log, "panic") {
		t.Errorf("a panic:\n%s", o.log)
	}
}
