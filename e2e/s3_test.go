package e2e

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	s3AccessKey = "AKIATESTTESTTEST"
	s3SecretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	s3Region    = "eu-west-1" // differs from the default region of S3 clients
)

// startS3 starts versitygw, which checks signatures like S3. In the directory that
// it returns, each bucket is a directory and each object is a file.
func startS3(t *testing.T) (endpoint, root string) {
	t.Helper()
	root, sidecar := t.TempDir(), t.TempDir()
	versitygw := tool(t, "versitygw")
	h := newHost(t, "ROOT_ACCESS_KEY="+s3AccessKey, "ROOT_SECRET_KEY="+s3SecretKey)
	startServer(t, "versitygw", func() *exec.Cmd {
		addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		endpoint = "http://" + addr
		return h.command(versitygw, "--port", addr, "--health", "/health", "--quiet", "--region", s3Region, "posix", "--sidecar", sidecar, root)
	}, func() error {
		_, err := get(endpoint + "/health")
		return err
	})
	return endpoint, root
}

// s3Host returns a host whose environment has valid credentials.
func s3Host(t *testing.T, endpoint string) *host {
	return newHost(t, "AWS_ENDPOINT_URL_S3="+endpoint, "AWS_REGION="+s3Region,
		"AWS_ACCESS_KEY_ID="+s3AccessKey, "AWS_SECRET_ACCESS_KEY="+s3SecretKey)
}

// instanceMetadata serves the metadata that gives an EC2 instance the credentials
// of its role, and returns its URL. Requests need a session token, as in version 2
// of the service.
func instanceMetadata(t *testing.T) string {
	const role = "/latest/meta-data/iam/security-credentials/"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == http.MethodPut && req.URL.Path == "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "session")
		case req.Header.Get("X-Aws-Ec2-Metadata-Token") != "session":
			http.Error(w, "no session", http.StatusUnauthorized)
		case req.URL.Path == role:
			fmt.Fprint(w, "deployer")
		case req.URL.Path == role+"deployer":
			fmt.Fprintf(w, `{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": %q, "SecretAccessKey": %q, "Token": "", "Expiration": %q}`,
				s3AccessKey, s3SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			http.NotFound(w, req)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestS3(t *testing.T) {
	t.Parallel()
	endpoint, root := startS3(t)
	r := newRelease(t, "one")
	// put stores a manifest for a deployment to h and its archive under these
	// keys, and returns the URL of the manifest.
	put := func(t *testing.T, h *host, manifest, archive string) string {
		t.Helper()
		write(t, filepath.Join(root, "deploys", archive), r.archive)
		write(t, filepath.Join(root, "deploys", manifest), []byte(r.manifest("s3://deploys/"+archive, h.path("dest"))))
		return "s3://deploys/" + manifest
	}

	t.Run("deploy", func(t *testing.T) {
		h := s3Host(t, endpoint)
		h.stretcher(put(t, h, "app/deploy.yml", "app/app.tar.gz")).wantSuccess().
			wantLog("Checksum ok: "+r.checksum).wantNotPrinted(s3SecretKey, s3AccessKey)
		r.wantDeployed(t, h.path("dest"))
	})

	// Users may choose any key: no character of it may be lost or interpreted
	// differently.
	for _, key := range []string{"with space", "ü/日本語", "a+b", "a+b c&d=e;f,g@h!i'(j)$k*l", "trailing space ", "~.-_", "two  spaces"} {
		t.Run("key "+key, func(t *testing.T) {
			h := s3Host(t, endpoint)
			h.stretcher(put(t, h, "odd/"+key+"/deploy.yml", "odd/"+key+"/app.tar.gz")).wantSuccess()
			r.wantDeployed(t, h.path("dest"))
		})
	}
	t.Run("key in percent escapes", func(t *testing.T) {
		h := s3Host(t, endpoint)
		put(t, h, "escaped/a b/ü.yml", "escaped/app.tar.gz")
		h.stretcher("s3://deploys/escaped/a%20b/%C3%BC.yml").wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	// Users store objects with aws s3 cp --content-encoding gzip.
	t.Run("Content-Encoding", func(t *testing.T) {
		h := s3Host(t, endpoint)
		upload := func(key string, data []byte) {
			t.Helper()
			write(t, h.path("object"), data)
			out, err := h.command(program(t, "curl"), "-sS", "--fail-with-body", "--aws-sigv4", "aws:amz:"+s3Region+":s3", "--user", s3AccessKey+":"+s3SecretKey,
				"-H", "Content-Encoding: gzip", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-T", h.path("object"), endpoint+"/deploys/"+key).CombinedOutput()
			if err != nil {
				t.Fatalf("upload %s: %v: %s", key, err, out)
			}
		}
		put(t, h, "encoded/plain.yml", "encoded/app.tar.gz") // which creates the bucket
		upload("encoded/app.tar.gz", r.archive)
		upload("encoded/deploy.yml", gzipped(t, []byte(r.manifest("s3://deploys/encoded/app.tar.gz", h.path("dest")))))
		h.stretcher("s3://deploys/encoded/deploy.yml").wantSuccess().wantLog("Checksum ok: " + r.checksum)
		r.wantDeployed(t, h.path("dest"))
		upload("encoded/deploy.yml", gzipped(t, []byte(r.badManifest("s3://deploys/encoded/app.tar.gz", h.path("dest")))))
		h.stretcher("s3://deploys/encoded/deploy.yml").wantFailure("Checksum mismatch", "the server sent it with Content-Encoding gzip")
	})

	t.Run("AWS_DEFAULT_REGION", func(t *testing.T) {
		h := newHost(t, "AWS_ENDPOINT_URL_S3="+endpoint, "AWS_DEFAULT_REGION="+s3Region,
			"AWS_ACCESS_KEY_ID="+s3AccessKey, "AWS_SECRET_ACCESS_KEY="+s3SecretKey)
		h.stretcher(put(t, h, "region/deploy.yml", "region/app.tar.gz")).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})
	t.Run("no region", func(t *testing.T) {
		h := newHost(t, "AWS_ENDPOINT_URL_S3="+endpoint, "AWS_ACCESS_KEY_ID="+s3AccessKey, "AWS_SECRET_ACCESS_KEY="+s3SecretKey)
		h.stretcher(put(t, h, "region/deploy.yml", "region/app.tar.gz")).wantFailure("AWS_REGION")
	})

	credentials := func(profile string) string {
		return fmt.Sprintf("[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n\n[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n",
			profile, s3AccessKey, s3SecretKey)
	}
	t.Run("shared credentials file", func(t *testing.T) {
		h := newHost(t, "AWS_ENDPOINT_URL="+endpoint, "AWS_REGION="+s3Region, "AWS_PROFILE=deploy")
		write(t, h.path("home", ".aws", "credentials"), []byte(credentials("deploy")))
		url := put(t, h, "profile/deploy.yml", "profile/app.tar.gz")
		h.stretcher(url).wantSuccess().wantNotPrinted(s3SecretKey)
		r.wantDeployed(t, h.path("dest"))

		h.env = append(h.env, "AWS_PROFILE=default") // the last value is used
		h.stretcher(url).wantFailure("access key")
	})
	t.Run("shared credentials and config files elsewhere", func(t *testing.T) {
		h := newHost(t, "AWS_ENDPOINT_URL="+endpoint, "AWS_PROFILE=deploy")
		h.env = append(h.env, "AWS_SHARED_CREDENTIALS_FILE="+h.path("etc", "credentials"), "AWS_CONFIG_FILE="+h.path("etc", "config"))
		write(t, h.path("etc", "credentials"), []byte(credentials("deploy")))
		write(t, h.path("etc", "config"), []byte("[profile deploy]\nregion = "+s3Region+"\n"))
		h.stretcher(put(t, h, "files/deploy.yml", "files/app.tar.gz")).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	t.Run("role of an EC2 instance", func(t *testing.T) {
		h := newHost(t, "AWS_ENDPOINT_URL_S3="+endpoint, "AWS_REGION="+s3Region, "AWS_EC2_METADATA_DISABLED=false",
			"AWS_EC2_METADATA_SERVICE_ENDPOINT="+instanceMetadata(t))
		h.stretcher(put(t, h, "role/deploy.yml", "role/app.tar.gz")).wantSuccess().wantNotPrinted(s3SecretKey)
		r.wantDeployed(t, h.path("dest"))
	})

	// MinIO and similar services do not provide a host name for each bucket, as
	// S3 does, so path-style URLs are required.
	t.Run("endpoint with a name", func(t *testing.T) {
		h := s3Host(t, strings.Replace(endpoint, "127.0.0.1", "localhost", 1))
		h.stretcher(put(t, h, "name/deploy.yml", "name/app.tar.gz")).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	// With AWS_CA_BUNDLE, the AWS library only accepts an HTTP client of its own
	// type.
	t.Run("AWS_CA_BUNDLE", func(t *testing.T) {
		tls := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
		defer tls.Close()
		h := s3Host(t, endpoint)
		bundle := h.path("etc", "ca.pem")
		write(t, bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
		h.env = append(h.env, "AWS_CA_BUNDLE="+bundle)
		h.stretcher(put(t, h, "ca/deploy.yml", "ca/app.tar.gz")).wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})

	// Permanent errors are not retried: retries would take an hour.
	const forever = "-retry-wait=1h"
	for _, wrong := range []struct{ name, env, code string }{
		{"wrong secret", "AWS_SECRET_ACCESS_KEY=a-wrong-secret-key", "SignatureDoesNotMatch"},
		{"wrong region", "AWS_REGION=us-west-2", "AuthorizationHeaderMalformed"},
	} {
		t.Run(wrong.name, func(t *testing.T) {
			h := s3Host(t, endpoint)
			url := put(t, h, "denied/deploy.yml", "denied/app.tar.gz")
			h.env = append(h.env, wrong.env)
			h.stretcher(url, "-retry=3", forever).
				wantFailure("s3://deploys/denied/deploy.yml", wrong.code).
				wantNotPrinted("a-wrong-secret-key", s3SecretKey)
			wantMissing(t, h.path("dest"))
		})
	}
	t.Run("missing bucket", func(t *testing.T) {
		s3Host(t, endpoint).stretcher("s3://no-such-bucket/deploy.yml", "-retry=3", forever).
			wantFailure("s3://no-such-bucket/deploy.yml", "NoSuchBucket")
	})
	t.Run("URL without a key", func(t *testing.T) {
		s3Host(t, endpoint).stretcher("s3://deploys", "-retry=3", forever).wantFailure("s3://deploys")
		s3Host(t, endpoint).stretcher("s3://deploys/", "-retry=3", forever).wantFailure("s3://deploys/")
	})

	t.Run("missing key", func(t *testing.T) {
		h := s3Host(t, endpoint)
		h.stretcher("s3://deploys/no/such.yml").wantFailure("s3://deploys/no/such.yml", "NoSuchKey")
		url := put(t, h, "half/deploy.yml", "half/app.tar.gz")
		write(t, filepath.Join(root, "deploys", "half/deploy.yml"), []byte(r.manifest("s3://deploys/half/missing.tar.gz", h.path("dest"),
			"commands:", "  pre: [touch "+h.path("pre")+"]", "  failure: ['cat > "+h.path("failure")+"']")))
		h.stretcher(url).wantFailure("Deploy manifest failed:", "Get src failed:", "s3://deploys/half/missing.tar.gz", "NoSuchKey")
		wantMissing(t, h.path("pre"))
		wantMissing(t, h.path("dest"))
		wantFileHas(t, h.path("failure"), "Get src failed:")
	})
	t.Run("wrong checksum", func(t *testing.T) {
		h := s3Host(t, endpoint)
		url := put(t, h, "bad/deploy.yml", "bad/app.tar.gz")
		write(t, filepath.Join(root, "deploys", "bad/deploy.yml"), []byte(r.badManifest("s3://deploys/bad/app.tar.gz", h.path("dest"))))
		h.stretcher(url, "-retry=3", forever).wantFailure("Deploy manifest failed:", "Checksum mismatch")
		wantMissing(t, h.path("dest"))
	})

	// An event may arrive before the upload of the archive that it leads to.
	t.Run("appears between retries", func(t *testing.T) {
		h := s3Host(t, endpoint)
		agent := h.start("s3://deploys/late/deploy.yml", "-retry=1000", "-retry-wait=100ms")
		agent.waitForLog("NoSuchKey")
		write(t, filepath.Join(root, "deploys", "late/deploy.yml"), []byte(r.manifest("s3://deploys/late/app.tar.gz", h.path("dest"))))
		agent.waitForLog("Downloading src:")
		agent.waitForLog("Fetch s3://deploys/late/app.tar.gz: attempt 1")
		write(t, filepath.Join(root, "deploys", "late/app.tar.gz"), r.archive)
		agent.wait().wantSuccess()
		r.wantDeployed(t, h.path("dest"))
	})
	t.Run("never appears", func(t *testing.T) {
		h := s3Host(t, endpoint)
		o := h.stretcher("s3://deploys/never.yml", "-retry=2", "-retry-wait=0.5").wantFailure("NoSuchKey")
		if o.took < time.Second {
			t.Errorf("two waits of half a second each took %s", o.took)
		}
	})
}

// The agent initializes S3 only if a URL needs it, so a broken S3 configuration
// does not prevent deployments from other sources.
func TestS3NotNeeded(t *testing.T) {
	t.Parallel()
	h := newHost(t, "AWS_PROFILE=does-not-exist", "AWS_CA_BUNDLE=/does/not/exist", "GOOGLE_APPLICATION_CREDENTIALS=/does/not/exist")
	r := newRelease(t, "one")
	h.stretcher(h.publish("one", r, r.manifest)).wantSuccess()
	r.wantDeployed(t, h.path("dest"))
}
