package e2e

import (
	"strings"
	"testing"
)

// A header of the command line is sent with the requests for the manifest and for
// the archive, but not to the other host that a redirect leads to, and it is not
// printed.
func TestHeader(t *testing.T) {
	t.Parallel()
	r, h := newRelease(t, "one"), newHost(t)
	storage := startNginx(t, `if ($http_x_token) { return 403; }`)
	storage.put(h, storage.url, r)
	elsewhere := strings.Replace(storage.url, "127.0.0.1", "localhost", 1)
	n := startNginx(t, `
		if ($http_x_token != "open+sesame") { return 401; }
		location = /app.tar.gz { if ($http_x_stay = "") { return 302 `+elsewhere+`/app.tar.gz; } }`)
	url := n.url + n.put(h, n.url, r)

	h.stretcher(url, "-header", "X-Token: open+sesame", "-log-level=DEBUG").wantSuccess().wantNotPrinted("open+sesame")
	r.wantDeployed(t, h.path("dest"))
	wantFileHas(t, storage.path("access.log"), `"GET /app.tar.gz HTTP/1.1" 200`)

	// Without the redirect, the archive comes from the same host.
	two := newRelease(t, "two")
	n.put(h, n.url, two)
	h.stretcher(url, "-header", "X-Token: open+sesame", "-header=X-Stay: here").wantSuccess().wantNotPrinted("open+sesame")
	two.wantDeployed(t, h.path("dest"))

	h.stretcher(url).wantFailure(url, "401 Unauthorized")
	h.stretcher(url, "-header", "X-Token: shut+sesame").wantFailure(url, "401 Unauthorized").wantNotPrinted("shut+sesame")
}
