package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
)

// packedApp is two versions of an application, packed by stretcher pack.
type packedApp struct {
	v1, v2                 string // directories
	archives               [2][]byte
	manifests              [2]string
	indexOffset, indexSize int // in the second archive
}

// packApp packs two versions of a tree of 200 files, of which 2 differ.
func packApp(t *testing.T) *packedApp {
	t.Helper()
	h := newHost(t)
	a := &packedApp{v1: h.path("v1"), v2: h.path("v2")}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 200 {
		var b bytes.Buffer
		for range 400 {
			fmt.Fprintf(&b, "%x\n", rng.Uint64())
		}
		name := fmt.Sprintf("dir%d/file%d", i%7, i)
		write(t, h.path("v1", name), b.Bytes())
		if i%100 == 50 {
			b.WriteString("changed\n")
		}
		write(t, h.path("v2", name), b.Bytes())
	}
	for i, args := range [][]string{{a.v1}, {"-base", a.v1, a.v2}} {
		archive, manifest := h.path(fmt.Sprintf("v%d.tar.zst", i+1)), h.path(fmt.Sprintf("v%d.yml", i+1))
		template := h.path("template.yml")
		write(t, template, []byte("dest: /to/be/replaced\n"))
		output(t, h.command(stretcherPath, append([]string{"pack", "-mtime", "1700000000", "-o", archive, "-manifest", manifest, "-manifest-from", template}, args...)...))
		a.archives[i], a.manifests[i] = read(t, archive), string(read(t, manifest))
	}
	place := regexp.MustCompile(`offset: (\d+), size: (\d+)`).FindString(a.manifests[1])
	if _, err := fmt.Sscanf(place, "offset: %d, size: %d", &a.indexOffset, &a.indexSize); err != nil {
		t.Fatal(err)
	}
	return a
}

// manifest returns the manifest of a version whose archive is at a URL.
func (a *packedApp) manifest(version int, url string, h *host, strategy string) []byte {
	text := regexp.MustCompile(`(?m)^src: .*$`).ReplaceAllLiteralString(a.manifests[version-1], "src: "+url)
	return []byte(strings.Replace(text, "dest: /to/be/replaced", fmt.Sprintf("dest: %q\nsync_strategy: %s", h.path("dest"), strategy), 1))
}

// wantTree fails the test if dest is not like a directory.
func (a *packedApp) wantTree(t *testing.T, dir string, h *host) {
	t.Helper()
	output(t, exec.Command("diff", "-r", dir, h.path("dest")+"/"))
}

func TestIncrementalNginx(t *testing.T) {
	t.Parallel()
	a := packApp(t)
	// start starts a server with both versions and deploys the first one.
	start := func(t *testing.T, strategy, directives string) (*nginx, *host) {
		t.Helper()
		n, h := startNginx(t, directives), newHost(t)
		for i, archive := range a.archives {
			write(t, n.path("www", fmt.Sprintf("v%d.tar.zst", i+1)), archive)
			write(t, n.path("www", fmt.Sprintf("v%d.yml", i+1)), a.manifest(i+1, fmt.Sprintf("%s/v%d.tar.zst", n.url, i+1), h, strategy))
		}
		h.stretcher(n.url + "/v1.yml").wantSuccess()
		a.wantTree(t, a.v1, h)
		return n, h
	}
	// answers returns how the requests for the second archive were answered.
	answers := func(t *testing.T, n *nginx) []string {
		t.Helper()
		var answers []string
		for _, m := range regexp.MustCompile(`"GET /v2.tar.zst HTTP/1.1" (\d+) \d+`).FindAllStringSubmatch(n.requests(), -1) {
			answers = append(answers, m[1])
		}
		return answers
	}
	for _, strategy := range []string{"builtin", "rsync", "symlink"} {
		t.Run(strategy, func(t *testing.T) {
			n, h := start(t, strategy, "")
			h.stretcher(n.url + "/v2.yml").wantSuccess().wantLog("198 files as they were, 2 patched, 0 new").wantNotPrinted("[WARN]")
			a.wantTree(t, a.v2, h)
			if got := answers(t, n); len(got) < 2 || len(got) > 3 || strings.Trim(strings.Join(got, ""), "206") != "" {
				t.Errorf("the archive was requested with the results %s", got)
			}
			h.wantNoLeftovers()
		})
	}
	t.Run("no ranges", func(t *testing.T) {
		n, h := start(t, "builtin", "max_ranges 0;")
		h.stretcher(n.url+"/v2.yml").wantSuccess().wantLog("[WARN] Incremental download: ", ": downloading the whole archive", "Checksum ok")
		a.wantTree(t, a.v2, h)
	})
	// The index arrives, and then the server is in trouble until it is ready.
	trouble := fmt.Sprintf(`
		location = /v2.tar.zst {
			set $down 1;
			if ($http_range = "bytes=%d-%d") { set $down 0; }
			if (-f ROOT/ready) { set $down 0; }
			if ($down) { return 503; }
		}`, a.indexOffset, a.indexOffset+a.indexSize-1)
	t.Run("trouble", func(t *testing.T) {
		n, h := start(t, "builtin", trouble)
		agent := h.start(n.url+"/v2.yml", "-retry=1000", "-retry-wait=100ms")
		agent.waitForLog("attempt 2")
		a.wantTree(t, a.v1, h)
		write(t, n.path("ready"), nil)
		agent.wait().wantSuccess().wantLog("198 files as they were, 2 patched, 0 new")
		a.wantTree(t, a.v2, h)
	})
	t.Run("trouble that lasts", func(t *testing.T) {
		n, h := start(t, "builtin", trouble)
		h.stretcher(n.url+"/v2.yml", "-retry=1", "-retry-wait=10ms").wantFailure("Get src failed: ", "503")
		a.wantTree(t, a.v1, h)
		h.wantNoLeftovers()
	})
}

func TestIncrementalStores(t *testing.T) {
	t.Parallel()
	a := packApp(t)
	deploy := func(t *testing.T, h *host, scheme string, put func(key string, data []byte)) {
		t.Helper()
		for i, archive := range a.archives {
			put(fmt.Sprintf("v%d.tar.zst", i+1), archive)
			put(fmt.Sprintf("v%d.yml", i+1), a.manifest(i+1, fmt.Sprintf("%s://deploys/v%d.tar.zst", scheme, i+1), h, "builtin"))
		}
		h.stretcher(scheme + "://deploys/v1.yml").wantSuccess()
		h.stretcher(scheme + "://deploys/v2.yml").wantSuccess().wantLog("198 files as they were, 2 patched, 0 new").wantNotPrinted("[WARN]")
		a.wantTree(t, a.v2, h)
	}
	t.Run("s3", func(t *testing.T) {
		endpoint, root := startS3(t)
		deploy(t, s3Host(t, endpoint), "s3", func(key string, data []byte) { write(t, root+"/deploys/"+key, data) })
	})
	t.Run("gs", func(t *testing.T) {
		g := startGCS(t)
		g.createBucket("deploys")
		deploy(t, g.host(t), "gs", func(key string, data []byte) { g.upload("deploys", key, data) })
	})
}

// Credentials that are not valid any more are an error that says so, and dest stays.
func TestIncrementalCredentials(t *testing.T) {
	t.Parallel()
	a := packApp(t)
	endpoint, root := startS3(t)
	h := s3Host(t, endpoint)
	for i, archive := range a.archives {
		write(t, fmt.Sprintf("%s/deploys/v%d.tar.zst", root, i+1), archive)
		write(t, h.path(fmt.Sprintf("v%d.yml", i+1)), a.manifest(i+1, fmt.Sprintf("s3://deploys/v%d.tar.zst", i+1), h, "builtin"))
	}
	h.stretcher(fileURL(h.path("v1.yml"))).wantSuccess()
	h.env = append(h.env, "AWS_SECRET_ACCESS_KEY=expired")
	h.stretcher(fileURL(h.path("v2.yml"))).wantFailure("Get src failed: ", "403", "SignatureDoesNotMatch").wantNotPrinted("expired")
	a.wantTree(t, a.v1, h)
	h.wantNoLeftovers()
	h.env = append(h.env, "AWS_SECRET_ACCESS_KEY="+s3SecretKey)
	h.stretcher(fileURL(h.path("v2.yml"))).wantSuccess().wantLog("198 files as they were, 2 patched, 0 new")
	a.wantTree(t, a.v2, h)
}

// Other programs read the archive as any tar.zst, and by its seek table: one with
// patches, one of a single large file, and one without any contents.
func TestPackedOracles(t *testing.T) {
	t.Parallel()
	a, h := packApp(t), newHost(t)
	write(t, h.path("large", "file"), incompressible(t, 20<<20).archive)
	for i := range 300 {
		write(t, h.path("empty", fmt.Sprintf("dir%d/dir", i), "file"), nil)
	}
	for name, tree := range map[string]string{"patches": a.v2, "large": h.path("large"), "empty": h.path("empty")} {
		archive := h.path(name + ".tar.zst")
		if name == "patches" {
			write(t, archive, a.archives[1])
		} else {
			output(t, h.command(stretcherPath, "pack", "-o", archive, tree))
		}
		output(t, h.command("zstd", "-tq", archive))
		for _, program := range []string{"tar", "bsdtar"} {
			if _, err := exec.LookPath(program); err != nil {
				t.Errorf("%v: install it with make deps", err)
				continue
			}
			dir := h.path(program, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			output(t, h.command(program, "-xf", archive, "-C", dir))
			output(t, h.command("diff", "-r", tree, dir))
		}
		readBySeekTable(t, archive, []byte(output(t, h.command("zstd", "-dcq", archive))))
	}
}

// readBySeekTable reads parts of the tar in an archive, and compares them.
func readBySeekTable(t *testing.T, archive string, tar []byte) {
	t.Helper()
	data := read(t, archive)
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := seekable.NewReader(bytes.NewReader(data), z)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(len(tar)) {
		t.Errorf("%s: the seek table says %d bytes of %d: %v", archive, end, len(tar), err)
	}
	rng := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		offset := rng.IntN(len(tar))
		want := tar[offset:][:rng.IntN(min(len(tar)-offset, 300_000))]
		got := make([]byte, len(want))
		if n, err := r.ReadAt(got, int64(offset)); n != len(want) || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes from %d: %d bytes, %v", archive, len(want), offset, n, err)
		}
	}
}
