package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cutter is a proxy between the agent and a server that breaks off responses.
type cutter struct {
	url     string
	answers atomic.Int32
	sent    atomic.Int64 // body bytes of the counted responses
}

// startCutter starts a proxy for target, which keeps the Host of the requests
// unless the server requires its own. Response n, counted from 0, breaks off after
// cut(n) bytes, or is complete if that is negative. Responses of less than a
// megabyte are passed unchanged and are not counted.
func startCutter(t *testing.T, target string, ownHost bool, cut func(n int) int64) *cutter {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			if !ownHost {
				r.Out.Host = r.In.Host
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if r.ContentLength < 1<<20 {
				return nil
			}
			left := cut(int(c.answers.Add(1)) - 1)
			r.Body = &cutBody{r.Body, left, &c.sent}
			return nil
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Start()
	t.Cleanup(proxy.Close)
	c.url = proxy.URL
	return c
}

type cutBody struct {
	io.ReadCloser
	left int64
	sent *atomic.Int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errors.New("cut") // makes the proxy close the connection
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.sent.Add(int64(n))
	return n, err
}

// TestDownloadThroughCuts breaks connections to real servers, and changes the
// archive during a download.
func TestDownloadThroughCuts(t *testing.T) {
	t.Parallel()
	const (
		size   = 24 << 20
		cutAt  = 1 << 20
		part   = 8 << 20
		others = 1 << 20 // responses that are not counted, and buffered bytes
	)
	one := incompressible(t, size)
	two := pack(t, files{"other": string(incompressible(t, size-1<<20).archive)})

	n := startNginx(t, "")
	endpoint, root := startS3(t)
	g := startGCS(t)
	g.createBucket("deploys")
	// put stores the archive with an old modification time, because a very
	// recent time does not prove that the file is unchanged.
	put := func(t *testing.T, path string, archive []byte, age time.Duration) {
		write(t, path, archive)
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	for _, server := range []struct {
		name    string
		target  string
		ownHost bool
		put     func(t *testing.T, name string, archive []byte, age time.Duration)
		host    func(t *testing.T, c *cutter) *host
		src     func(c *cutter, name string) string
	}{
		{"nginx", n.url, false,
			func(t *testing.T, name string, archive []byte, age time.Duration) {
				put(t, n.path("www", name), archive, age)
			},
			func(t *testing.T, _ *cutter) *host { return newHost(t) },
			func(c *cutter, name string) string { return c.url + "/" + name }},
		{"s3", endpoint, false,
			func(t *testing.T, name string, archive []byte, age time.Duration) {
				put(t, root+"/deploys/"+name, archive, age)
			},
			func(t *testing.T, c *cutter) *host { return s3Host(t, c.url) },
			func(_ *cutter, name string) string { return "s3://deploys/" + name }},
		{"gcs", "http://" + g.addr, true,
			func(_ *testing.T, name string, archive []byte, _ time.Duration) { g.upload("deploys", name, archive) },
			func(t *testing.T, c *cutter) *host {
				return newHost(t, "STORAGE_EMULATOR_HOST="+strings.TrimPrefix(c.url, "http://"))
			},
			func(_ *cutter, name string) string { return "gs://deploys/" + name }},
	} {
		for _, connections := range []int{1, 4} {
			name := fmt.Sprintf("%d.tar", connections)
			flags := []string{"-retry=20", "-retry-wait=10ms", "-connections=" + strconv.Itoa(connections)}
			t.Run(fmt.Sprintf("%s, %d connections", server.name, connections), func(t *testing.T) {
				server.put(t, name, one.archive, 2*time.Hour)
				c := startCutter(t, server.target, server.ownHost, func(n int) int64 {
					if n < 6 {
						return cutAt
					}
					return -1
				})
				h := server.host(t, c)
				write(t, h.path("deploy.yml"), []byte(one.manifest(server.src(c, name), h.path("dest"))))
				o := h.stretcher(fileURL(h.path("deploy.yml")), flags...).wantSuccess().wantLog("unexpected EOF; next in")
				if strings.Contains(o.log, "starting over") {
					t.Errorf("the download started over:\n%s", o.log)
				}
				one.wantDeployed(t, h.path("dest"))
				again := c.sent.Load() - int64(len(one.archive))
				t.Logf("%d bytes were sent again", again)
				if most := int64(connections*part + others); again > most {
					t.Errorf("%d bytes were sent again, want at most %d", again, most)
				}
			})
			t.Run(fmt.Sprintf("%s, %d connections, changed", server.name, connections), func(t *testing.T) {
				server.put(t, name, one.archive, 2*time.Hour)
				c := startCutter(t, server.target, server.ownHost, func(n int) int64 {
					if n == 2 {
						server.put(t, name, two.archive, time.Hour)
					}
					if n < 6 {
						return cutAt
					}
					return -1
				})
				h := server.host(t, c)
				write(t, h.path("deploy.yml"), []byte(two.manifest(server.src(c, name), h.path("dest"))))
				h.stretcher(fileURL(h.path("deploy.yml")), flags...).wantSuccess().wantLog("starting over")
				two.wantDeployed(t, h.path("dest"))
			})
		}
	}
}

// archiveOfZeros is a tar with one large file, which is generated while it is read
// and takes no memory.
type archiveOfZeros struct {
	header       []byte
	size, offset int64
}

func newArchiveOfZeros(t *testing.T, size int64) *archiveOfZeros {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size - 1536}); err != nil {
		t.Fatal(err)
	}
	return &archiveOfZeros{header: b.Bytes(), size: size}
}

func (a *archiveOfZeros) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), a.size-a.offset))
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	if a.offset < int64(len(a.header)) {
		copy(p[:n], a.header[a.offset:])
	}
	a.offset += int64(n)
	return n, nil
}

func (a *archiveOfZeros) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += a.offset
	case io.SeekEnd:
		offset += a.size
	}
	a.offset = offset
	return offset, nil
}

// TestDownloadMemory downloads an archive that is larger than the memory that the
// agent may use. The checksum is wrong, so that the deployment ends after the
// download.
func TestDownloadMemory(t *testing.T) {
	t.Parallel()
	const most = 96 << 10 // KiB
	size := int64(512 << 20)
	if s := os.Getenv("STRETCHER_TEST_DOWNLOAD"); s != "" { // set by hand, for example to 2147483648
		var err error
		if size, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"zeros"`)
		w.Header().Set("Content-Type", "application/x-tar")
		http.ServeContent(w, r, "", time.Time{}, newArchiveOfZeros(t, size))
	}))
	t.Cleanup(server.Close)
	for _, connections := range []int{1, 4} {
		t.Run(fmt.Sprint(connections, " connections"), func(t *testing.T) {
			h := newHost(t)
			write(t, h.path("deploy.yml"), fmt.Appendf(nil, `src: %s
checksum: %s
dest: %s
commands:
  failure: ["grep VmHWM /proc/$PPID/status"]
`, server.URL, strings.Repeat("0", 32), h.path("dest")))
			cmd := h.command(plainPath(t), "-connections", strconv.Itoa(connections))
			cmd.Stdin = strings.NewReader(fileURL(h.path("deploy.yml")))
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			tooLong := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
			defer tooLong.Stop()
			if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), fmt.Sprintf("Downloaded %d bytes", size)) || !strings.Contains(stderr.String(), "Checksum mismatch") {
				t.Fatalf("%v, the log:\n%s", err, stderr.String())
			}
			wantPeakBelow(t, stdout.String(), most)
		})
	}
}
