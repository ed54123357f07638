package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// nginx is an nginx server that serves the directory www of its host.
type nginx struct {
	*host
	url string
}

// startNginx starts nginx with additional directives in its server block. In
// them, ROOT is replaced with the host's directory.
func startNginx(t *testing.T, directives string) *nginx {
	t.Helper()
	n := &nginx{host: newHost(t)}
	// Without worker processes, root itself reads the files if root runs the
	// tests.
	write(t, n.path("www", "index.html"), nil)
	daemon := program(t, "nginx")
	startServer(t, "nginx", func() *exec.Cmd {
		addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		n.url = "http://" + addr
		write(t, n.path("etc", "nginx.conf"), []byte(strings.ReplaceAll(`
daemon off;
master_process off;
pid ROOT/nginx.pid;
error_log stderr;
events {}
http {
	access_log ROOT/access.log combined;
	client_body_temp_path ROOT/tmp-body;
	proxy_temp_path ROOT/tmp-proxy;
	fastcgi_temp_path ROOT/tmp-fastcgi;
	uwsgi_temp_path ROOT/tmp-uwsgi;
	scgi_temp_path ROOT/tmp-scgi;
	server {
		listen `+addr+`;
		root ROOT/www;
`+directives+`
	}
}
`, "ROOT", n.dir)))
		return n.command(daemon, "-e", "stderr", "-c", n.path("etc", "nginx.conf"))
	}, func() error {
		return accepts(strings.TrimPrefix(n.url, "http://"))
	})
	return n
}

// put publishes a release with a manifest for a deployment to h and returns the
// path of the manifest. The archive's URL begins with base.
func (n *nginx) put(h *host, base string, r *release, more ...string) string {
	n.t.Helper()
	write(n.t, n.path("www", "app.tar.gz"), r.archive)
	write(n.t, n.path("www", "deploy.yml"), []byte(r.manifest(base+"/app.tar.gz", h.path("dest"), more...)))
	return "/deploy.yml"
}

// requests returns the access log, in which every request is a line.
func (n *nginx) requests() string {
	n.t.Helper()
	return string(read(n.t, n.path("access.log")))
}

func TestNginx(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "one")

	t.Run("plain", func(t *testing.T) {
		n, h := startNginx(t, ""), newHost(t)
		h.stretcher(n.url + n.put(h, n.url, r)).wantSuccess().wantLog("Checksum ok: " + r.checksum)
		r.wantDeployed(t, h.path("dest"))
		wantFileHas(t, n.path("access.log"), `"GET /deploy.yml HTTP/1.1" 200`, `"GET /app.tar.gz HTTP/1.1" 200`, `"Stretcher/`)
	})

	t.Run("redirect", func(t *testing.T) {
		n, h := startNginx(t, `
		location /moved/    { rewrite ^/moved/(.*)$ /found/$1 redirect; }
		location /found/    { rewrite ^/found/(.*)$ /$1 permanent; }
		location /circle    { return 302 /circle; }
		location /elsewhere { return 302 file:///etc/passwd; }`), newHost(t)
		h.stretcher(n.url + "/moved" + n.put(h, n.url+"/moved", r)).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
		h.stretcher(n.url+"/circle").wantFailure(n.url+"/circle", "redirect")
		h.stretcher(n.url + "/elsewhere").wantFailure(n.url + "/elsewhere")
	})

	// An error response is not used as a manifest, even if its body is one.
	t.Run("error pages", func(t *testing.T) {
		n := startNginx(t, `
		error_page 404 /error.yml;
		error_page 403 /error.yml;
		location /forbidden { return 403; }
		location /broken    { return 500; }
		location /empty     { return 204; }`)
		h := newHost(t)
		write(t, n.path("www", "error.yml"), []byte("commands:\n  pre: [touch "+h.path("run")+"]\n  success: [touch "+h.path("run")+"]\n"))
		for path, words := range map[string]string{
			"/missing.yml": "404 Not Found",
			"/forbidden":   "403 Forbidden",
			"/broken":      "500 Internal Server Error",
			"/empty":       "neither src nor commands",
		} {
			h.stretcher(n.url+path).wantFailure(n.url+path, words)
			wantMissing(t, h.path("run"))
		}
		// A 403 is permanent and must not be retried: retries would take an hour.
		h.stretcher(n.url+"/forbidden", "-retry=3", "-retry-wait=1h").wantFailure("403 Forbidden")

		write(t, n.path("www", "deploy.yml"), []byte(r.manifest(n.url+"/missing.tar.gz", h.path("dest"),
			"commands:", "  pre: [touch "+h.path("run")+"]", "  failure: ['cat > "+h.path("failure")+"']")))
		h.stretcher(n.url+"/deploy.yml").wantFailure("Deploy manifest failed:", "Get src failed:", n.url+"/missing.tar.gz", "404 Not Found")
		wantMissing(t, h.path("run"))
		wantMissing(t, h.path("dest"))
		wantFileHas(t, h.path("failure"), "Get src failed:", "404 Not Found")
	})

	t.Run("503 then 200", func(t *testing.T) {
		n, h := startNginx(t, `
		location = /deploy.yml { if (!-f ROOT/manifest-ready) { return 503; } }
		location = /app.tar.gz { if (!-f ROOT/archive-ready) { return 503; } }`), newHost(t)
		url := n.url + n.put(h, n.url, r)
		h.stretcher(url).wantFailure(url, "503 Service")

		agent := h.start(url, "-retry=1000", "-retry-wait=100ms")
		agent.waitForLog("Fetch " + url + ": attempt 2")
		write(t, n.path("manifest-ready"), nil)
		agent.waitForLog("Fetch " + n.url + "/app.tar.gz: attempt 2")
		wantMissing(t, h.path("dest"))
		write(t, n.path("archive-ready"), nil)
		agent.wait().wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	t.Run("password in the URL", func(t *testing.T) {
		n := startNginx(t, `
		auth_basic test;
		auth_basic_user_file ROOT/etc/passwords;`)
		write(t, n.path("etc", "passwords"), []byte("alice:{PLAIN}open+sesame\n"))
		h := newHost(t)
		withPassword := strings.Replace(n.url, "//", "//alice:open+sesame@", 1)
		url := withPassword + n.put(h, withPassword, r, "commands:", "  success: ['cat > "+h.path("success")+"; env >> "+h.path("success")+"']")
		h.stretcher(url, "-log-level=DEBUG").wantSuccess().wantNotPrinted("open+sesame", "open%2Bsesame", "YWxpY2U6")
		r.wantDeployed(t, h.path("dest"))
		wantFileHas(t, h.path("success"), "Deploy manifest succeeded.", "STRETCHER_SRC=")
		if log := string(read(t, h.path("success"))); strings.Contains(log, "open+sesame") {
			t.Errorf("a command received the password:\n%s", log)
		}

		wrong := strings.Replace(url, "open+sesame", "shut+sesame", 1)
		h.stretcher(wrong, "-retry=3", "-retry-wait=1h").wantFailure("401 Unauthorized").wantNotPrinted("shut+sesame", "shut%2Bsesame")
		h.stretcher(n.url+"/deploy.yml", "-retry=3", "-retry-wait=1h").wantFailure(n.url+"/deploy.yml", "401 Unauthorized")
	})

	// A manifest that the server has only as gzip is decoded. An archive is not.
	t.Run("Content-Encoding", func(t *testing.T) {
		n, h := startNginx(t, `
		location /static/ { gzip_static always; }
		location /added/  { add_header Content-Encoding x-gzip; }
		location /on/     { gzip on; gzip_min_length 1; gzip_types *; }`), newHost(t)
		for _, dir := range []string{"static", "added", "on"} {
			name := map[string]string{"static": ".gz"}[dir]
			manifest := []byte(r.manifest(n.url+"/"+dir+"/app.tar", h.path("dest-"+dir)))
			if dir != "on" {
				manifest = gzipped(t, manifest)
			}
			write(t, n.path("www", dir, "deploy.yml"+name), manifest)
			write(t, n.path("www", dir, "app.tar"+name), r.archive)
			h.stretcher(n.url + "/" + dir + "/deploy.yml").wantSuccess().wantLog("Checksum ok: " + r.checksum)
			r.wantDeployed(t, h.path("dest-"+dir))
		}
		write(t, n.path("www", "wrong.yml"), []byte(r.badManifest(n.url+"/static/app.tar", h.path("wrong"))))
		h.stretcher(n.url+"/wrong.yml").wantFailure("Checksum mismatch", "the archive has "+r.checksum+": the server sent it with Content-Encoding gzip", "stored, encoded bytes")
		write(t, n.path("www", "added", "deploy.yml"), []byte(r.manifest(n.url+"/added/app.tar", h.path("dest"))))
		h.stretcher(n.url + "/added/deploy.yml").wantFailure(n.url + "/added/deploy.yml: decode Content-Encoding x-gzip: ")
	})

	// One that is compressed twice is stopped when that shows, before its checksum
	// can mismatch.
	t.Run("Content-Encoding of a compressed archive", func(t *testing.T) {
		n, h := startNginx(t, "location /static/ { gzip_static always; }"), newHost(t)
		write(t, n.path("www", "static", "app.tar.gz.gz"), gzipped(t, incompressible(t, 4<<20).archive))
		write(t, n.path("www", "deploy.yml"), []byte(r.manifest(n.url+"/static/app.tar.gz", h.path("dest"))))
		h.stretcher(n.url+"/deploy.yml").wantFailure("Get src failed:", "the server sent it with Content-Encoding gzip")
	})

	// An archive of more than 16 MiB is fetched over several connections if the
	// server supports range requests.
	big := incompressible(t, 24<<20)
	t.Run("with ranges", func(t *testing.T) {
		n, h := startNginx(t, ""), newHost(t)
		h.stretcher(n.url + n.put(h, n.url, big)).wantSuccess()
		big.wantDeployed(t, h.path("dest"))
		wantFileHas(t, n.path("access.log"), `"GET /app.tar.gz HTTP/1.1" 206`)
	})
	t.Run("without ranges", func(t *testing.T) {
		n, h := startNginx(t, "max_ranges 0;"), newHost(t)
		h.stretcher(n.url + n.put(h, n.url, big)).wantSuccess()
		big.wantDeployed(t, h.path("dest"))
		if log := n.requests(); strings.Contains(log, `" 206 `) {
			t.Errorf("a server without range requests sent a range:\n%s", log)
		}
	})

	// The server closes the connection, and the retry succeeds.
	t.Run("gone and back", func(t *testing.T) {
		n, h := startNginx(t, `
		location = /app.tar.gz { if (!-f ROOT/archive-ready) { return 444; } }`), newHost(t)
		url := n.url + n.put(h, n.url, r)
		agent := h.start(url, "-retry=1000", "-retry-wait=100ms")
		agent.waitForLog("Fetch " + n.url + "/app.tar.gz: attempt 1")
		write(t, n.path("archive-ready"), nil)
		agent.wait().wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	t.Run("slower than the timeout", func(t *testing.T) {
		n, h := startNginx(t, "limit_rate 100k;"), newHost(t)
		o := h.stretcher(n.url+n.put(h, n.url, big), "-timeout=1").wantFailure("Get src failed:", "timeout")
		if o.took < time.Second {
			t.Errorf("a timeout of one second took %s", o.took)
		}
		wantMissing(t, h.path("dest"))
	})
	t.Run("nobody listens", func(t *testing.T) {
		url := fmt.Sprintf("http://127.0.0.1:%d/deploy.yml", freePort(t))
		newHost(t).stretcher(url, "-retry=1", "-retry-wait=100ms").wantFailure(url, "connection refused")
	})
}
