package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// ciRelease is what the runner of a CI system gives to a pipeline of examples/ci.
type ciRelease struct {
	*host
	consul  *consul
	signer  *signer
	secrets map[string]string // also of type File
	files   map[string]string
}

// newCIRelease returns a repository with the application of the examples, and what its
// releases are stored in and deployed with.
func newCIRelease(t *testing.T) *ciRelease {
	t.Helper()
	c := startConsul(t, nil)
	endpoint, root := startS3(t)
	if err := os.Mkdir(filepath.Join(root, "example-releases"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := s3Host(t, endpoint)
	s := &signer{newHost(t), program(t, "minisign")}
	// minisign asks for a password, and takes it from stdin if that is no terminal.
	keygen := s.command(s.minisign, "-G", "-p", s.public("release"), "-s", s.path("release.key"))
	keygen.Stdin = strings.NewReader("a password\na password\n")
	output(t, keygen)
	write(t, h.path("password"), []byte("a password\n"))

	for path, to := range map[string]string{"app/bin": "app/bin", "app/public": "app/public", "ci": "."} {
		if err := os.CopyFS(h.path("work/repository", to), os.DirFS(filepath.Join("..", "examples", path))); err != nil {
			t.Fatal(err)
		}
	}
	write(t, h.path("work/repository/hello.yml"), read(t, filepath.Join("..", "examples", "hello.yml")))
	h.env = append(h.env, "DEST="+h.path("dest"))
	r := &ciRelease{host: h, consul: c, signer: s, files: map[string]string{
		"RELEASE_KEY": s.path("release.key"), "RELEASE_KEY_PASSWORD": h.path("password"),
	}, secrets: map[string]string{
		"AWS_ACCESS_KEY_ID": s3AccessKey, "AWS_SECRET_ACCESS_KEY": s3SecretKey, "CONSUL_HTTP_TOKEN": "none is needed here",
		"RELEASE_KEY": strings.TrimSpace(string(read(t, s.path("release.key")))), "RELEASE_KEY_PASSWORD": "a password",
	}}
	r.git("init", "--quiet", ".")
	return r
}

func (r *ciRelease) git(args ...string) {
	r.t.Helper()
	cmd := r.command(program(r.t, "git"), append([]string{"-c", "user.name=e2e", "-c", "user.email=e2e@example.com"}, args...)...)
	cmd.Dir = r.path("work/repository")
	output(r.t, cmd)
}

// variables returns the variables of a pipeline, with what differs here. With the race
// detector, it would take the program half a minute to decrypt a minisign key.
func (r *ciRelease) variables(of map[string]string) []string {
	r.t.Helper()
	// As make dist makes it.
	program, release := plainPath(r.t), r.path("stretcher_1.2.3_linux_amd64.tar.gz")
	output(r.t, r.command("tar", "-C", filepath.Dir(program), "--transform", "s,^.*,stretcher_1.2.3_linux_amd64/stretcher,", "-czf", release, filepath.Base(program)))
	var env []string
	for name, value := range of {
		switch name {
		case "CONSUL_HTTP_ADDR":
			value = "http://" + r.consul.http
		case "STRETCHER_URL":
			value = fileURL(release)
		case "STRETCHER_SHA256":
			value = fmt.Sprintf("%x", sha256.Sum256(read(r.t, release)))
		}
		env = append(env, name+"="+value)
	}
	return env
}

// releaseTwice runs the pipeline for two tags, and checks what a host deploys. The
// pipeline returns what it has printed.
func (r *ciRelease) releaseTwice(pipeline func(tag string) string) {
	t := r.t
	t.Helper()
	watch := r.consul.watch(r.host, "-public-key", r.signer.public("release"), "-allow", "s3://example-releases/hello", "-strict")
	watch.waitForOutput(noEvent, 1)
	greeting := r.path("work/repository/app/public/greeting.txt")
	for i, tag := range []string{"v1", "v2"} {
		write(t, greeting, []byte("Hello from "+tag+".\n"))
		r.git("add", ".")
		r.git("commit", "--quiet", "-m", tag)
		r.git("tag", tag)
		out := pipeline(tag)
		for name, secret := range r.secrets {
			if strings.Contains(out, secret) {
				t.Errorf("the output has the secret %s:\n%s", name, out)
			}
		}
		watch.waitForOutput("Deploy manifest succeeded.", i+1)
		wantFile(t, r.path("dest/public/greeting.txt"), "Hello from "+tag+".\n")
		if got, want := output(t, r.command("stat", "-c", "%a %u", r.path("dest/bin/hello"))), fmt.Sprintf("755 %d\n", os.Getuid()); got != want {
			t.Errorf("bin/hello has the mode and owner %q, want %q", got, want)
		}
		if key, err := r.consul.key("stretcher/hello/manifest"); err != nil || key != "s3://example-releases/hello/hello-"+tag+".yml" {
			t.Errorf("the key is %q, %v", key, err)
		}
	}
	if log := watch.output(); !strings.Contains(log, "Signature ok") || strings.Contains(log, "[WARN]") {
		t.Errorf("the host has logged\n%s", log)
	}
	// The same tag again gives the same files.
	pipeline("v2")
	if r.consul.events() != 3 {
		t.Errorf("%d events were fired, want 3", r.consul.events())
	}
	// Without this, the test could end in the middle of the deployment.
	watch.waitForOutput("Done: ", 3)
}

func TestExampleGitHubActions(t *testing.T) {
	t.Parallel()
	r := newCIRelease(t)
	var workflow struct {
		Jobs struct {
			Release struct {
				Env   map[string]string
				Steps []struct {
					ID, Name, Run, Uses string
					Env                 map[string]string
				}
			}
		}
	}
	if err := yaml.Unmarshal(read(t, r.path("work/repository/github-actions.yml")), &workflow); err != nil {
		t.Fatal(err)
	}
	job := workflow.Jobs.Release
	r.releaseTwice(func(tag string) string {
		t.Helper()
		// As the runner does it, each step is a script of its own, and has the outputs
		// and the path that earlier ones have written to files.
		temp := t.TempDir()
		if err := os.RemoveAll(r.path("work/repository/build")); err != nil {
			t.Fatal(err)
		}
		outputs := map[string]string{}
		path := ""
		var log strings.Builder
		ran := 0
		for _, step := range job.Steps {
			if step.Uses != "" {
				continue
			}
			script := filepath.Join(temp, "step.sh")
			write(t, script, []byte(step.Run))
			cmd := r.command("bash", "--noprofile", "--norc", "-eo", "pipefail", script)
			cmd.Dir = r.path("work/repository")
			cmd.Env = append(cmd.Env, r.variables(job.Env)...)
			cmd.Env = append(cmd.Env, "RUNNER_TEMP="+temp, "GITHUB_REF_NAME="+tag, "GITHUB_OUTPUT="+filepath.Join(temp, "output"), "GITHUB_PATH="+filepath.Join(temp, "path"),
				"PATH="+path+os.Getenv("PATH"))
			for name, value := range step.Env {
				value, isSecret := strings.CutPrefix(strings.TrimSuffix(value, " }}"), "${{ secrets.")
				value, isOutput := strings.CutPrefix(value, "${{ steps.")
				switch {
				case isSecret:
					if r.secrets[value] == "" {
						t.Fatalf("step %s uses the secret %q, which its comment does not name", step.Name, value)
					}
					value = r.secrets[value]
				case isOutput:
					id, key, _ := strings.Cut(value, ".outputs.")
					value = outputs[id+" "+key]
				}
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			out, err := cmd.CombinedOutput()
			log.Write(out)
			if err != nil {
				t.Fatalf("%s: %v\n%s", step.Name, err, out)
			}
			if lines, err := os.ReadFile(filepath.Join(temp, "output")); err == nil {
				for line := range strings.Lines(string(lines)) {
					key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
					outputs[step.ID+" "+key] = value
				}
			}
			if lines, err := os.ReadFile(filepath.Join(temp, "path")); err == nil {
				path = strings.TrimSpace(string(lines)) + ":"
			}
			ran++
		}
		if ran != 4 {
			t.Errorf("%d steps were run", ran)
		}
		if left, err := filepath.Glob(filepath.Join(temp, "*key*")); err != nil || len(left) > 0 {
			t.Errorf("the key is left: %v, %v", left, err)
		}
		return log.String()
	})
}

func TestExampleGitLabCI(t *testing.T) {
	t.Parallel()
	r := newCIRelease(t)
	var pipeline struct {
		Release struct {
			Variables   map[string]string
			Script      []string
			AfterScript []string `yaml:"after_script"`
		}
	}
	if err := yaml.Unmarshal(read(t, r.path("work/repository/gitlab-ci.yml")), &pipeline); err != nil {
		t.Fatal(err)
	}
	r.releaseTwice(func(tag string) string {
		t.Helper()
		if err := os.RemoveAll(r.path("work/repository/build")); err != nil {
			t.Fatal(err)
		}
		// The runner makes one script of it. This machine's /usr/local stays as it is.
		script := strings.ReplaceAll(strings.Join(pipeline.Release.Script, "\n"), "/usr/local/bin", r.path("work"))
		cmd := r.command("bash", "-eo", "pipefail", "-c", script)
		cmd.Dir = r.path("work/repository")
		cmd.Env = append(cmd.Env, r.variables(pipeline.Release.Variables)...)
		cmd.Env = append(cmd.Env, "PATH="+r.path("work")+":"+os.Getenv("PATH"), "CI_COMMIT_TAG="+tag, "CONSUL_HTTP_TOKEN="+r.secrets["CONSUL_HTTP_TOKEN"])
		for name, path := range r.files {
			cmd.Env = append(cmd.Env, name+"="+path)
		}
		out := output(t, cmd)
		after := exec.Command("bash", "-c", strings.Join(pipeline.Release.AfterScript, "\n"))
		after.Dir = cmd.Dir
		output(t, after)
		wantMissing(t, r.path("work/consul-token"))
		return out
	})
}
