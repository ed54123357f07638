package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// manifestSchema is that of manifests, as an editor uses it.
const manifestSchema = "../docs/manifest.schema.json"

// schema returns the schema in a file.
func schema(t *testing.T, path string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate returns what the schema says of a YAML document, or of one that is no YAML.
func validate(s *jsonschema.Schema, document string) error {
	var value any
	if err := yaml.Unmarshal([]byte(document), &value); err != nil {
		return err
	}
	return s.Validate(asJSON(value))
}

// asJSON returns what YAML decodes to as JSON has it.
func asJSON(value any) any {
	switch v := value.(type) {
	case time.Time:
		return v.Format(time.RFC3339)
	case []any:
		for i := range v {
			v[i] = asJSON(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = asJSON(v[key])
		}
	case map[any]any:
		m := map[string]any{}
		for key := range v {
			m[fmt.Sprint(key)] = asJSON(v[key])
		}
		return m
	}
	return value
}

// refused reports whether stretcher -check refuses a manifest, with what it prints.
func refused(t *testing.T, manifest string) (bool, string) {
	t.Helper()
	cmd := exec.Command(stretcherPath, "-check", "-")
	cmd.Stdin = strings.NewReader(manifest)
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatal(err)
	}
	return err != nil, string(out)
}

// The schema accepts what -check accepts, and refuses what -check refuses as far as a
// schema can tell.
func TestManifestSchema(t *testing.T) {
	t.Parallel()
	s := schema(t, manifestSchema)
	const (
		sum = "checksum: 0c15e883dee85bb2f3540a47ec58f617a2547117f9096417ba5422268029f501\n"
		ok  = "src: s3://bucket/app.tar.gz\n" + sum + "dest: /srv/app\n"
	)
	src := func(url string) string { return "src: " + url + "\n" + sum + "dest: /srv/app\n" }
	checksum := func(sum string) string { return "src: gs://b/a.tar\nchecksum: " + sum + "\ndest: /srv/app\n" }
	dest := func(dest string) string { return "src: gs://b/a.tar\n" + sum + "dest: " + dest + "\n" }
	for _, test := range []struct {
		accepted  bool // by both
		manifests []string
	}{
		{true, []string{
			ok, "commands: {pre: [a]}", "commands: {failure: [~, '', a]}", "src:\ndest:\ncommands: {post: [true, 1, 1.5, 2014-11-17]}", "{\"commands\": {\"success\": [\"a\"]}}",
			src("file:///a"), src("file:/a"), src("FILE:///a"), src("HTTPS://h/a"), src("http://u:p@h:1/a?b#c"), src("S3://b/k"), src("'{{ must_env `SRC` }}'"), src("s3://{{ env `B` `b` }}/k"),
			checksum("d41d8cd98f00b204e9800998ecf8427e"), checksum("01234567012345670123456701234567"), checksum("12345678901234567890123456789e12"), checksum("'{{ must_env `SUM` }}'"), checksum(strings.Repeat("Aa09", 32)),
			dest("//srv/app/"), dest("'{{ must_env `ROOT` }}/app'"),
			ok + "dest_mode: 0755", ok + "dest_mode: 0o755", ok + "dest_mode: ~", ok + "dest_mode: 07777", ok + "dest_mode: 493",
			ok + "commands: ~", ok + "commands: {}", ok + "commands: {pre: , post: ~, success: [], failure: [~]}",
			ok + "commands: {env: {A: b, C: 1, D: true, E: ~, 1: a, 'x y': z}}", ok + "commands: {env: }",
			ok + "excludes: ['*.pid', '+ a', '!', 1, ~]", ok + "excludes: ~", ok + "exclude_from: a/b", ok + "exclude_from: /a", ok + "exclude_from: 1",
			ok + "sync_strategy: mv", ok + "sync_strategy: ", ok + "sync_strategy: ''", ok + "sync_strategy: '{{ env `S` `rsync` }}'",
			ok + "sync_strategy: symlink\nshared: [log, a/b, ..a, 1]\nkeep_releases: 3", ok + "shared: ~\nkeep_releases: ~",
			ok + "index: {offset: 35100000, size: 577000, sha256: " + strings.Repeat("aB", 32) + "}", ok + "index: ~", ok + "index: {}",
			ok + "expires: 2100-01-01T00:00:00Z", ok + "expires: '2100-01-01T00:00:00.5+09:00'", ok + "expires: '{{ env `UNTIL` `2100-01-01T00:00:00Z` }}'",
			ok + "x-any: {a: [b]}\n.b: c", "x-d: &d {src: 's3://b/k', dest: /srv/app}\n<<: *d\n" + sum, "x-e: &e {A: b}\ncommands: {pre: [a], env: {<<: *e, C: d}}", "x-c: &c {pre: [a]}\ncommands: {<<: [*c]}",
		}},
		{false, []string{
			"", "~", "a", "[a]", "<h1>Not Found</h1>", "error: x", "commands: {}", "commands: {pre: [~, ' ']}", "commands: {env: {A: b}}", "dest: /srv/app", "src: ''", "src: [",
			"src: s3://b/k\n" + sum, "src: s3://b/k\ndest: /srv/app", "src: s3://b/k\n" + sum + "dest:", "src: s3://b/k\nchecksum: ''\ndest: /srv/app",
			src("/app.tar"), src("ftp://h/a"), src("s3://bucket"), src("gs:///key"), src("http:///a"), src("[a]"), src("1"), src("app.tar"), src("file:a"),
			checksum("ab"), checksum("true"), checksum("sha256:" + strings.Repeat("a", 64)), checksum("' " + strings.Repeat("a", 64) + "'"), checksum("{a: b}"), checksum(strings.Repeat("g", 64)),
			dest("app"), dest("~/app"), dest("/"), dest("//"), dest("1"), dest("[/srv/app]"), dest("\"/a\\0\""),
			ok + "dest_mode: '0755'", ok + "dest_mode: -1", ok + "dest_mode: rwx", ok + "dest_mode: 010000", ok + "dest_mode: [7]", ok + "dest_mode: true", ok + "dest_mode: 0.5",
			ok + "commands: a", ok + "commands: [a]", ok + "commands: {pre: a}", ok + "commands: {pre: [a: b]}", ok + "commands: {pre: [[a]]}", ok + "commands: {pre: {a: b}}", ok + "commands: {posts: [a]}", ok + "commands: {pre: [\"a\\0\"]}",
			ok + "commands: {env: [a]}", ok + "commands: {env: {A: [b]}}", ok + "commands: {env: {'A=': b}}", ok + "commands: {env: {'': b}}", ok + "commands: {env: {A: \"\\0\"}}", ok + "commands: {env: a}",
			ok + "excludes: '*.pid'", ok + "excludes: [[a]]", ok + "excludes: {a: b}", ok + "excludes: [\"\\0\"]", ok + "exclude_from: [a]", ok + "exclude_from: \"\\0\"",
			ok + "sync_strategy: RSYNC", ok + "sync_strategy: rsnc", ok + "sync_strategy: [mv]", ok + "sync_strategy: 1",
			ok + "shared: log", ok + "shared: [/log]", ok + "shared: [a/../b]", ok + "shared: [~]", ok + "shared: ['']", ok + "keep_releases: 0", ok + "keep_releases: '3'", ok + "keep_releases: three", ok + "keep_releases: 1.5",
			ok + "index: 1", ok + "index: {offset: a, size: 1, sha256: " + strings.Repeat("ab", 32) + "}", ok + "index: {offset: -1, size: 1, sha256: " + strings.Repeat("ab", 32) + "}",
			ok + "index: {offset: 1, size: 0, sha256: " + strings.Repeat("ab", 32) + "}", ok + "index: {offset: 1, size: 1, sha256: ab}", ok + "index: {at: 1}",
			ok + "expires: '2100-01-01'", ok + "expires: ", ok + "expires: never", ok + "expires: 4102444800", ok + "expires: '2100-01-01T00:00:00'",
			ok + "more: a", ok + "Src: a", ok + "src: a", ok + "<<: a", ok + "<<: [a]", "commands: {pre: [a], <<: 1}",
		}},
	} {
		for _, manifest := range test.manifests {
			err := validate(s, manifest)
			if not, problems := refused(t, manifest); (err == nil) != test.accepted || not == test.accepted {
				t.Errorf("%q: the schema: %v; -check: %q; expected: accepted by both is %t", manifest, err, problems, test.accepted)
			}
		}
	}

	// What only -check finds.
	for _, manifest := range []string{
		dest("/etc"), dest("/a/.."), src("http://h:99999/a"), src("file://h/a"), checksum("1"), ok + "dest_mode: 1e3", ok + "excludes: ['- ']", ok + "exclude_from: ../a",
		ok + "sync_strategy: symlink\nshared: [a, a/b]", ok + "shared: ['.']", "x-d: &d {src: 's3://b/k', dest: /srv/app}\n<<: *d\n",
	} {
		not, problems := refused(t, manifest)
		if err := validate(s, manifest); !not || err != nil && !strings.Contains(manifest, "<<") {
			t.Errorf("%q: the schema: %v; -check: %q", manifest, err, problems)
		}
	}

	// Editors may not resolve merge keys before they validate.
	for manifest, accepted := range map[string]bool{
		`{"x-d": {}, "src": "s3://b/k", "<<": {"dest": "/srv/app"}}`:  true,
		`{"<<": [{}, {}], "commands": {"<<": {}, "env": {"<<": {}}}}`: true,
		`{"<<": "a", "commands": {"pre": ["a"]}}`:                     false,
		`{"<<": {}, "more": 1}`:                                       false,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(manifest))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(value); (err == nil) != accepted {
			t.Errorf("%s: %v", manifest, err)
		}
	}
}

// The schema accepts the manifests of the documentation, and those that the scripts of
// cmd/stretcher deploy with success.
func TestManifestSchemaAcceptsAll(t *testing.T) {
	t.Parallel()
	s := schema(t, manifestSchema)
	manifests := map[string]string{}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pages, "../README.md") {
		page := read(t, path)
		for i, block := range regexp.MustCompile("(?ms)^```yaml\n((?:#.*?\n)?src:.*?)^```$").FindAllSubmatch(page, -1) {
			manifests[fmt.Sprint(path, " ", i)] = string(block[1])
		}
	}
	scripts, err := filepath.Glob("../cmd/stretcher/testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	deploys := regexp.MustCompile(`(?m)^deploy (\S+)`)
	for _, path := range scripts {
		data := read(t, path)
		parts := regexp.MustCompile(`(?m)^-- (.+) --\n`).Split(string(data), -1)
		names := regexp.MustCompile(`(?m)^-- (.+) --\n`).FindAllStringSubmatch(string(data), -1)
		for _, deploy := range deploys.FindAllStringSubmatch(parts[0], -1) {
			i := slices.IndexFunc(names, func(name []string) bool { return name[1] == deploy[1] })
			if i >= 0 {
				manifests[filepath.Base(path)+" "+deploy[1]] = parts[i+1]
			}
		}
	}
	checked := 0
	for name, manifest := range manifests {
		if not, _ := refused(t, manifest); not {
			continue // it has unknown or duplicate keys
		}
		err := validate(s, manifest)
		if err != nil && (strings.HasPrefix(err.Error(), "yaml: ") && strings.Contains(manifest, "{{") || name == "manifest_keys.txt merges.yml") {
			continue // it is no YAML before its references are replaced; its definitions do not begin with x-
		}
		checked++
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, manifest)
		}
	}
	if checked < 50 {
		t.Errorf("%d manifests of %d", checked, len(manifests))
	}
}

// The examples for other programs are as the schemas of those allow. With a mistake in
// them, they are not.
func TestExampleSchemas(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ example, schema, right, wrong string }{
		{"cloud-init/user-data.yml", "cloud-config.json", "    permissions: ", "    mode: "},
		{"cloud-init/user-data.yml", "cloud-config.json", "runcmd:\n", "runcmd: 1\nx:\n"},
		{"ci/gitlab-ci.yml", "gitlab-ci.json", "  after_script:", "  afterwards:"},
		{"ci/gitlab-ci.yml", "gitlab-ci.json", "    - if: ", "    - when: "},
	} {
		s := schema(t, filepath.Join("testdata", "schemas", test.schema))
		text := string(read(t, filepath.Join("..", "examples", test.example)))
		if err := validate(s, text); err != nil {
			t.Errorf("%s: %v", test.example, err)
		}
		if mistaken := strings.Replace(text, test.right, test.wrong, 1); mistaken == text || validate(s, mistaken) == nil {
			t.Errorf("%s with %q for %q is accepted", test.example, test.wrong, test.right)
		}
	}
}
