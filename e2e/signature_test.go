package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signer is somebody who signs manifests, with keys of minisign(1).
type signer struct {
	*host
	minisign string
}

func newSigner(t *testing.T, keys ...string) *signer {
	t.Helper()
	s := &signer{newHost(t), program(t, "minisign")}
	for _, key := range keys {
		output(t, s.command(s.minisign, "-G", "-W", "-p", s.public(key), "-s", s.path(key+".key")))
	}
	return s
}

// public returns the path of a public key.
func (s *signer) public(key string) string { return s.path(key + ".pub") }

// id returns the ID of a key.
func (s *signer) id(key string) string {
	s.t.Helper()
	line, _, _ := strings.Cut(string(read(s.t, s.public(key))), "\n")
	return line[strings.LastIndexByte(line, ' ')+1:]
}

// sign writes the signature of a file beside it.
func (s *signer) sign(key, path, comment string, more ...string) {
	s.t.Helper()
	output(s.t, s.command(s.minisign, append([]string{"-S", "-s", s.path(key + ".key"), "-m", path, "-t", comment}, more...)...))
}

// Whoever can write to the bucket, and send events, cannot make a host do anything
// that was not signed.
func TestSignatureConsulS3(t *testing.T) {
	t.Parallel()
	c := startConsul(t, nil)
	endpoint, root := startS3(t)
	s := newSigner(t, "old", "new", "foreign")
	h := s3Host(t, endpoint)
	one, two := newRelease(t, "one"), newRelease(t, "two")
	object := func(key string) string { return filepath.Join(root, "deploys", key) }
	ran := "touch " + h.path("ran")
	commands := func(failure string) string {
		return "commands: {pre: [" + ran + "], post: [" + ran + "], success: ['echo \"$STRETCHER_MANIFEST_URL\" >> " + h.path("deployed") + "'], failure: [" + failure + "]}"
	}
	// put stores a release and its manifest, and returns the URL of the manifest.
	put := func(name string, r *release, failure string, more ...string) string {
		t.Helper()
		write(t, object(name+".tar.gz"), r.archive)
		write(t, object(name+".yml"), []byte(r.manifest("s3://deploys/"+name+".tar.gz", h.path("dest"), append(more, commands(failure))...)))
		return "s3://deploys/" + name + ".yml"
	}
	watch := c.watch(h, "-public-key", s.public("old"), "-public-key", s.public("new"))
	watch.waitForOutput(noEvent, 1)

	url := put("one", one, ran)
	s.sign("old", object("one.yml"), "release one")
	c.fire(url)
	watch.waitForOutput("Signature ok: by key "+s.id("old")+", trusted comment: release one\n", 1)
	watch.waitForOutput("Done", 1)
	one.wantDeployed(t, h.path("dest"))
	if err := os.Remove(h.path("ran")); err != nil {
		t.Fatal(err)
	}

	// Each of these fails with its message, and changes and runs nothing.
	mismatch := "the signature of key " + s.id("old") + " does not match: the manifest or its signature was changed"
	expired := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	for name, test := range map[string]struct {
		key    string // which signs
		more   string // of the manifest
		tamper func(manifest string)
		want   string
	}{
		"manifest": {"old", "", func(manifest string) {
			write(t, manifest, []byte(strings.Replace(string(read(t, manifest)), "pre: [", "pre: [echo injected, ", 1)))
		}, mismatch},
		"signature": {"old", "", func(manifest string) {
			write(t, manifest+".minisig", read(t, object("one.yml.minisig")))
		}, mismatch},
		"comment": {"old", "", func(manifest string) {
			write(t, manifest+".minisig", []byte(strings.Replace(string(read(t, manifest+".minisig")), "trusted comment: comment", "trusted comment: release", 1)))
		}, mismatch},
		"unsigned": {"old", "", func(manifest string) {
			if err := os.Remove(manifest + ".minisig"); err != nil {
				t.Fatal(err)
			}
		}, "fetch s3://deploys/unsigned.yml.minisig: NoSuchKey: "},
		"foreign": {"foreign", "", func(string) {}, "signed by key " + s.id("foreign") + ", which is none of the 2 keys given, "},
		"expired": {"old", "expires: " + expired, func(string) {}, "s3://deploys/expired.yml: expired at " + expired},
	} {
		url := put(name, two, ran, test.more)
		s.sign(test.key, object(name+".yml"), "comment")
		test.tamper(object(name + ".yml"))
		c.fire(url)
		watch.waitForOutput(test.want, 1)
		watch.waitForOutput("[ERROR] Load manifest failed: ", 1)
		wantMissing(t, h.path("ran"))
		one.wantDeployed(t, h.path("dest"))
		if t.Failed() {
			t.Fatalf("after %s", name)
		}
	}

	// So does the event of somebody else, with a URL of theirs.
	theirs := startNginx(t, "")
	write(t, theirs.path("www", "deploy.yml"), []byte("commands: {pre: ["+ran+"], failure: ["+ran+"]}\n"))
	s.sign("foreign", theirs.path("www", "deploy.yml"), "")
	c.fire(theirs.url + "/deploy.yml")
	watch.waitForOutput("[ERROR] Load manifest failed: "+theirs.url+"/deploy.yml: signed by key ", 1)
	wantMissing(t, h.path("ran"))

	// The checksum in the signed manifest protects the archive. The failure commands
	// are the signer's.
	url = put("archive", two, "touch "+h.path("told"))
	s.sign("old", object("archive.yml"), "")
	write(t, object("archive.tar.gz"), newRelease(t, "three").archive)
	c.fire(url)
	watch.waitForOutput("Checksum mismatch", 1)
	waitForFile(t, h.path("told"))
	wantMissing(t, h.path("ran"))
	one.wantDeployed(t, h.path("dest"))

	// Either key will do, as will a legacy signature.
	url = put("two", two, ran)
	s.sign("new", object("two.yml"), "release two", "-l")
	c.fire(url)
	watch.waitForOutput("Signature ok: by key "+s.id("new")+", trusted comment: release two\n", 1)
	watch.waitForOutput("Done", 2)
	two.wantDeployed(t, h.path("dest"))
	wantFile(t, h.path("deployed"), "s3://deploys/one.yml\ns3://deploys/two.yml\n")
	wantWatching(t, watch)
}

// The signature is asked for with the query of the manifest, and after redirects.
func TestSignatureNginx(t *testing.T) {
	t.Parallel()
	n := startNginx(t, `
	location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }`)
	h, s := newHost(t), newSigner(t, "key")
	r := newRelease(t, "one")
	path := n.put(h, n.url, r)
	s.sign("key", n.path("www", "deploy.yml"), "")
	h.stretcher(n.url+path+"?version=1&token=s3cret", "-public-key", s.public("key")).wantSuccess().wantLog("Signature ok: by key " + s.id("key")).wantNotPrinted("s3cret")
	r.wantDeployed(t, h.path("dest"))
	wantFileHas(t, n.path("access.log"), `"GET /deploy.yml?version=1&token=s3cret HTTP/1.1" 200`, `"GET /deploy.yml.minisig?version=1&token=s3cret HTTP/1.1" 200`)
	h.stretcher(n.url+"/moved"+path, "-public-key", s.public("key")).wantSuccess()
	wantFileHas(t, n.path("access.log"), `"GET /moved/deploy.yml.minisig HTTP/1.1" 302`)

	// A deployer who replaces the manifest first is waited for.
	two := newRelease(t, "two")
	n.put(h, n.url, two)
	agent := h.start(n.url+path+"?token=s3cret", "-public-key", s.public("key"), "-retry", "1000", "-retry-wait", "0.2")
	agent.waitForLog("[WARN] Fetch the signed manifest: attempt 2 of 1001 failed: " + n.url + path + "?token=REDACTED: the signature of key " + s.id("key") + " does not match")
	if err := os.Remove(n.path("www", "deploy.yml.minisig")); err != nil {
		t.Fatal(err)
	}
	agent.waitForLog(" failed: fetch " + n.url + path + ".minisig?token=REDACTED: 404 Not Found")
	agent.waitForLog(": the manifest has to be signed, by minisign -S, and its signature published there; next in ")
	r.wantDeployed(t, h.path("dest"))
	write(t, h.path("new", "deploy.yml"), read(t, n.path("www", "deploy.yml")))
	s.sign("key", h.path("new", "deploy.yml"), "")
	write(t, n.path("www", "deploy.yml.minisig"), read(t, h.path("new", "deploy.yml.minisig")))
	agent.wait().wantSuccess().wantNotPrinted("s3cret")
	two.wantDeployed(t, h.path("dest"))
}
