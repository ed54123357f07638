package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// testUpload packs and uploads: a release is deployed from the URL that stretcher pack prints.
// Nothing that is stored is replaced.
func testUpload(t *testing.T, h *host, prefix, scheme string) {
	s := newSigner(t, "release")
	f := files{"bin/app": "#!/bin/sh\n", "data": strings.Repeat("data\n", 1000)}
	for name, content := range f {
		write(t, h.path("work", "v1", name), []byte(content))
	}
	write(t, h.path("work", "template.yml"), []byte("dest: "+quote(h.path("dest"))+"\nsync_strategy: builtin\n"))
	pack := func(args ...string) (stdout, stderr string, err error) {
		cmd := h.command(stretcherPath, append([]string{"pack", "-mtime", "2026-11-29T12:00:00Z", "-manifest-from", "template.yml",
			"-sign", s.path("release.key"), "-upload", prefix}, args...)...)
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problems
		err = cmd.Run()
		return strings.TrimSuffix(out.String(), "\n"), problems.String(), err
	}
	names := []string{"-o", "app ü+1.tar.zst", "-manifest", "app ü+1.yml"}
	url, log, err := pack(append(names, "v1")...)
	if err != nil || !strings.HasPrefix(url, prefix) || strings.Count(log, "Uploaded "+prefix) != 3 {
		t.Fatalf("%v: %q: %s", err, url, log)
	}
	h.stretcher(url, "-public-key", s.public("release"), "-allow", prefix).wantSuccess().wantLog("Signature ok").wantNotPrinted("[WARN]")
	if err := f.differs(h.path("dest")); err != nil {
		t.Error(err)
	}

	again, log, err := pack(append(names, "v1")...)
	if err != nil || again != url || strings.Count(log, "Stored already: "+prefix) != 3 || strings.Contains(log, "Uploaded") {
		t.Errorf("again: %v: %q: %s", err, again, log)
	}

	// Another version by the same name is refused, and so is only another manifest;
	// then its archive is not stored either.
	write(t, h.path("work", "v2", "data"), []byte("v2"))
	if _, log, err := pack(append(names, "v2")...); err == nil || !strings.Contains(log, ".tar.zst: something else is stored there already") {
		t.Errorf("another archive: %v: %s", err, log)
	}
	if _, log, err := pack("-o", "other.tar.zst", "-manifest", "app ü+1.yml", "v2"); err == nil || !strings.Contains(log, ".minisig: something else is stored there already") {
		t.Errorf("another manifest: %v: %s", err, log)
	}
	h.stretcher(prefix + "other.tar.zst").wantFailure("other.tar.zst")
	h.stretcher(url, "-public-key", s.public("release")).wantSuccess()

	// Patches against what is stored.
	url, log, err = pack("-o", "app-2.tar.zst", "-manifest", "app-2.yml", "-base", strings.TrimSuffix(url, ".yml")+".tar.zst", "v2")
	if err != nil || strings.Count(log, "Uploaded "+prefix) != 3 {
		t.Fatalf("%v: %q: %s", err, url, log)
	}
	h.stretcher(url, "-public-key", s.public("release"), "-allow", prefix).wantSuccess()
	wantFile(t, h.path("dest", "data"), "v2")

	// An archive of more than one part of an upload, which has 16 MiB.
	write(t, h.path("work", "large", "data"), incompressible(t, 20<<20).archive)
	url, log, err = pack("-o", "large.tar", "-format", "tar", "-manifest", "large.yml", "large")
	if err != nil {
		t.Fatalf("%v: %s", err, log)
	}
	h.stretcher(url, "-public-key", s.public("release")).wantSuccess()
	if _, log, err = pack("-o", "large.tar", "-format", "tar", "-manifest", "large.yml", "large"); err != nil || strings.Count(log, "Stored already") != 3 {
		t.Errorf("large again: %v: %s", err, log)
	}
	if scheme == "file" {
		return
	}
	if _, log, err := pack("-upload", scheme+"://no-such-bucket/app", "-o", "app.tar.zst", "-manifest", "app.yml", "v1"); err == nil || !strings.Contains(log, scheme+"://no-such-bucket/app/app.tar.zst: ") {
		t.Errorf("missing bucket: %v: %s", err, log)
	}
}

func TestUploadS3(t *testing.T) {
	t.Parallel()
	endpoint, root := startS3(t)
	if err := os.Mkdir(filepath.Join(root, "releases"), 0o755); err != nil {
		t.Fatal(err)
	}
	testUpload(t, s3Host(t, endpoint), "s3://releases/app/", "s3")
}

// faultyS3 is between the packer and a store, and does something with the requests that
// send the second part of an object.
func faultyS3(t *testing.T, endpoint string, second http.HandlerFunc) (url string) {
	t.Helper()
	target, err := neturl.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("partNumber") == "2" {
			second(w, r)
		}
		proxy.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// A part whose connection is cut is sent again. An interrupted upload leaves nothing.
func TestUploadParts(t *testing.T) {
	t.Parallel()
	endpoint, root := startS3(t)
	bucket := filepath.Join(root, "releases")
	if err := os.Mkdir(bucket, 0o755); err != nil {
		t.Fatal(err)
	}
	// stored returns the regular files below the bucket.
	stored := func() (names []string) {
		err := filepath.WalkDir(bucket, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				names = append(names, strings.TrimPrefix(path, bucket+"/"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	start := func(h *host) (*exec.Cmd, *bytes.Buffer) {
		write(t, h.path("work", "large", "data"), incompressible(t, 40<<20).archive)
		cmd := h.command(stretcherPath, "pack", "-format", "tar", "-o", "large.tar", "-upload", "s3://releases/app", "large")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, &out
	}

	waiting, ended := make(chan struct{}), make(chan struct{})
	defer close(ended)
	h := s3Host(t, faultyS3(t, endpoint, func(http.ResponseWriter, *http.Request) {
		waiting <- struct{}{}
		<-ended
	}))
	cmd, out := start(h)
	<-waiting
	waitFor(t, "parts in the store", func() error {
		if len(stored()) == 0 {
			return errors.New("none")
		}
		return nil
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), "stretcher pack: upload to s3://releases/app/large.tar: interrupted by SIGINT: nothing is stored there: repeat the command") {
		t.Errorf("interrupted: %v: %s", err, out)
	}
	if names := stored(); len(names) > 0 {
		t.Errorf("after an interrupted upload the store has %q", names)
	}

	var cut atomic.Int32
	h = s3Host(t, faultyS3(t, endpoint, func(_ http.ResponseWriter, r *http.Request) {
		if cut.Add(1) <= 2 {
			io.CopyN(io.Discard, r.Body, 1<<20)
			panic(http.ErrAbortHandler)
		}
	}))
	cmd, out = start(h)
	if err := cmd.Wait(); err != nil || cut.Load() != 3 {
		t.Fatalf("cut %d times: %v: %s", cut.Load(), err, out)
	}
	want := read(t, h.path("work", "large.tar"))
	if names := stored(); len(names) != 1 {
		t.Errorf("the store has %q", names)
	}
	wantFile(t, filepath.Join(bucket, "app", "large.tar"), string(want))
}

func TestUploadGCS(t *testing.T) {
	t.Parallel()
	g := startGCS(t)
	g.createBucket("releases")
	testUpload(t, g.host(t), "gs://releases/app/", "gs")
}

func TestUploadFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	testUpload(t, h, fileURL(h.path("store"))+"/", "file")
}
