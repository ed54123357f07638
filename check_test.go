package stretcher

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// report returns problems as -check prints them, one a line.
func report(problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		kind := ""
		if p.Warning {
			kind = "warning: "
		}
		fmt.Fprintf(&b, "%d: %s%s\n", p.Line, kind, p.Text)
	}
	return b.String()
}

func TestCheckManifest(t *testing.T) {
	const ok = "src: s3://bucket/app.tar\nchecksum: 0c15e883dee85bb2f3540a47ec58f617a2547117f9096417ba5422268029f501\ndest: /srv/app\n"
	t.Setenv("TWO_LINES", "{A: b,\n C: d}")
	for in, want := range map[string]string{
		ok:                                   "",
		"\xef\xbb\xbf" + ok:                  "",
		strings.ReplaceAll(ok, "\n", "\r\n"): "",
		"commands: {pre: [a]}":               "",
		"x-a: {b: c}\n.d: e\n" + ok:          "",

		// What is not a manifest.
		"":                           "1: neither src nor commands: nothing to deploy (is it a manifest at all?)\n",
		"# nothing\n---\n":           "1: neither src nor commands: nothing to deploy (is it a manifest at all?)\n",
		"\n<h1>Not Found</h1>":       "2: a text, expected the keys of a manifest (is it a manifest at all?)\n",
		"- a\n- b":                   "1: a list, expected the keys of a manifest (is it a manifest at all?)\n",
		ok + "x: [\n":                "4: a [ or { is never closed, or a text in it needs quotes\n",
		ok + "\tx: y\n":              "4: a TAB: YAML is indented by spaces\n",
		"a\x00b":                     "1: characters that are not text (is it a manifest at all?)\n",
		strings.Repeat("#", 1<<20+1): "1: larger than 1.0 MiB\n",

		// All problems, in the order of the lines.
		"comands: {pre: [a]}\nchecksum: ab\nsrc: /app.tar\ndest: srv\n\ndest_mode: '0755'\nsync_strategy: rsnc\nsrc: /app.tar\n": "" +
			"1: unknown key comands: did you mean commands?\n" +
			`2: checksum "ab" is not the hex of an md5, sha1, sha256 or sha512: it has 2 hex digits, and md5 has 32` + "\n" +
			`4: dest "srv" is not an absolute path: it has to begin with /` + "\n" +
			`6: dest_mode "0755" is a text: write it without quotes` + "\n" +
			`7: invalid strategy "rsnc": expected rsync, mv, builtin or symlink` + "\n" +
			"8: duplicate key src\n" +
			`8: src: "/app.tar" is not a URL: did you mean "file:///app.tar"?` + "\n",
		"scr: s3://bucket/key\ndest: srv\nchecksum: ab\n": "" +
			"1: unknown key scr: did you mean src?\n" +
			"1: neither src nor commands: nothing to deploy (is it a manifest at all?)\n" +
			`2: dest "srv" is not an absolute path: it has to begin with /` + "\n" +
			`3: checksum "ab" is not the hex of an md5, sha1, sha256 or sha512: it has 2 hex digits, and md5 has 32` + "\n",
		"# a\nsrc: /app.tar\n": "" +
			"2: src without checksum: give the md5, sha1, sha256 or sha512 of the archive in hex\n" +
			"2: src without dest: name the directory to deploy to\n" +
			`2: src: "/app.tar" is not a URL: did you mean "file:///app.tar"?` + "\n",
		"# a\nsrc: s3://bucket/key\n":                  "2: src without checksum: give the md5, sha1, sha256 or sha512 of the archive in hex\n2: src without dest: name the directory to deploy to\n",
		"src: [a]\nchecksum: {b: c}\ndest: /etc\n":     "1: src is a list, expected a text\n2: checksum is a map, expected a text\n3: dest /etc is a directory of the system, whose other files would be deleted: name a directory below it\n",
		"commands:\n  pre: a\n  env: [b]\ndest: /a/..": "2: commands.pre is a text, expected a list: write \"- a\" on a line of its own\n3: commands.env is a list, expected a map: write it as \"NAME: value\" on lines of their own\n4: dest /a/.. is the root directory, whose other files would be deleted: name a directory below it\n",
		ok + "commands:\n  post:\n  - a\n  - \"b\\0\"\n  env:\n    A: b\n    \"C=\": d\n    \"E\": \"\\0\"\n": "" +
			"7: commands.post: \"b\\x00\" has a NUL byte\n10: commands.env: invalid variable name \"C=\"\n11: commands.env: \"E\" has a NUL byte\n",
		ok + "commands:\n  post:\n  - |\n    " + strings.Repeat("a", 1<<17) + "\n": "6: post command \"" + strings.Repeat("a", 60) + "...\": 131073 bytes, more than",
		ok + "excludes:\n- a\n- \"b\\0\"\n- '- '\nexclude_from: a/../../b\n":       "6: excludes or exclude_from has a NUL byte\n7: excludes: filter rule \"- \" has no pattern\n8: exclude_from \"a/../../b\" leaves the archive: name a file inside of it\n",
		ok + "excludes: ['- ']\nexclude_from: ../b\nsync_strategy: mv\n":           "",
		ok + "sync_strategy: symlink\nshared:\n- log\n- /tmp\n- log/a\nkeep_releases: 0\n": "" +
			"7: shared: \"/tmp\" is absolute: name a path inside of the release, relative to it\n8: shared: \"log\" and \"log/a\" are the same, or one is inside of the other: name each path once\n9: keep_releases \"0\" is not a number of at least 1\n",
		ok + "x-e: &e\n- a\n- '+ '\nexcludes: *e\n<<: {desc: b}\n": "6: excludes: filter rule \"+ \" has no pattern\n8: unknown key desc: did you mean dest?\n",

		ok + "expires: 2100-01-01\nexpires: ~\n":          "5: expires has no value\n5: duplicate key expires\n",
		ok + "expires: 2100-01-01 00:00:00\ndest_mode: x": "4: expires has no time zone: write it as 2030-12-31T23:59:59Z or 2030-12-31T23:59:59+09:00 (RFC 3339)\n5: dest_mode \"x\" is not a file mode: write it in octal, as 0755\n",
		ok + "expires: 2020-01-01T00:00:00Z":              "4: expired at 2020-01-01T00:00:00Z, ",

		// What a deployment warns of.
		ok + "keep_releases: 3\nshared: [a]\ndest_mode: 755\n---\na: b\n": "" +
			"4: warning: keep_releases does nothing without sync_strategy: symlink\n5: warning: shared does nothing without sync_strategy: symlink\n" +
			"6: warning: dest_mode 755 is a decimal number and means 01363; write 0755 if that was meant\n8: warning: a second YAML document\n",
		ok + "commands:\n  pre:\n  - ! grep x\n  - echo {{ env X }}\n": "6: warning: commands.pre has a command that begins with !, which YAML takes for a tag: put it in quotes\n" +
			"7: warning: a template with env, must_env or json_escape stays as it is, because it is none of {{ env \"NAME\" \"default\" }}, {{ must_env \"NAME\" }} and {{ must_env \"NAME\" | json_escape }}\n",

		// What the environment of a host has is not known here.
		"src: s3://bucket/{{ must_env `NO_SUCH` }}\nchecksum: {{ must_env `NO_SUCH_SUM` }}\ndest: '{{ must_env `NO_SUCH` }}/app'\ndest_mode: 1x\n": "" +
			"1: warning: must_env: NO_SUCH is not set here, so this line was not checked\n2: warning: must_env: NO_SUCH_SUM is not set here, so this line was not checked\n3: warning: must_env: NO_SUCH is not set here, so this line was not checked\n" +
			"4: dest_mode \"1x\" is not a file mode: write it in octal, as 0755\n",
		"src: a\ndest: '{{ must_env `NO_SUCH` }}\n":                  "2: warning: must_env: NO_SUCH is not set here, so this line was not checked\n2: a quote that is opened is never closed\n",
		"commands:\n  env: {{ env `TWO_LINES` }}\n  pre:\n  - [a]\n": "4: commands.pre has a list where a command should be: put a command that begins with [ in quotes\n",

		// No secrets, and no control characters.
		"commands: {pre: [a]}\nsrc: ftp://alice:hunter2@host/a\nchecksum: \"\\x1b[31m\"\ndest: \"\\u202e/\"": "2: src: ftp://alice:REDACTED@host/a: unknown scheme",
	} {
		got := report(checkManifest([]byte(in), Config{}))
		if got != want && !(want != "" && !strings.HasSuffix(want, "\n") && strings.HasPrefix(got, want)) {
			t.Errorf("%.300q:\ngot\n%sexpected\n%s", in, got, want)
		}
		if strings.Contains(got, "hunter2") || strings.ContainsAny(got, "\x1b\x00\u202e") {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// With keys, a manifest without a valid signature is not looked at.
func TestCheckSignature(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	public, secret, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	manifest := []byte("src: s3://bucket/app.tar\nchecksum: d41d8cd98f00b204e9800998ecf8427e\ndest: /srv/app\n")
	for name, text := range map[string]string{"key.pub": public.String(), "app.yml": string(manifest), "app.yml.minisig": string(minisign.Sign(secret, manifest)), "none.yml": "a: b\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ manifest, key, want, wantLog string }{
		{"app.yml", "key.pub", "2: checksum is an md5, so the signature of the manifest would not protect the archive: give its sha256 or sha512 (an error because of -public-key)\n", "Signature ok: by key "},
		{"file://" + dir + "/app.yml", "key.pub", "2: checksum is an md5, so ", "Signature ok: by key "},
		{"none.yml", "key.pub", "", "[ERROR] Load manifest failed: fetch file://" + dir + "/none.yml.minisig: no such file or directory: the manifest has to be signed"},
		{"-", "key.pub", "", "[ERROR] Load manifest failed: there is no signature beside stdin: give the path or URL of the manifest"},
		{"app.yml", "none.pub", "", `[ERROR] Load manifest failed: public key "none.pub": no such file or directory`},
	} {
		var problems []Problem
		var err error
		logged := logOf(func() { problems, err = Check(t.Context(), test.manifest, Config{PublicKeys: []string{test.key}}) })
		if got := report(problems); !strings.HasPrefix(got, test.want) || (err == nil) != (got != "") || !strings.HasPrefix(logged, test.wantLog) {
			t.Errorf("%s: got %s and %v, logged %q", test.manifest, got, err, logged)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("a%20b?c.yml", "commands: {pre: [a]}\nscr: b\n")
	for _, manifest := range []string{path, fileURL(path)} {
		var got []Problem
		var err error
		logged := logOf(func() { got, err = Check(t.Context(), manifest, Config{}) })
		if err != nil || logged != "" || report(got) != "2: unknown key scr: did you mean src?\n" {
			t.Errorf("%s: got %v and %v, logged %q", manifest, got, err, logged)
		}
	}
	for _, manifest := range []string{filepath.Join(dir, "none"), dir, "file://" + dir + "/none", "ftp://alice:hunter2@host/a"} {
		var got []Problem
		var err error
		logged := logOf(func() { got, err = Check(t.Context(), manifest, Config{}) })
		if err == nil || got != nil || !strings.HasPrefix(logged, "[ERROR] Load manifest failed: ") || strings.Contains(logged, "hunter2") {
			t.Errorf("%s: got %v and %v, logged %q", manifest, got, err, logged)
		}
	}
}

// Check finds a problem exactly where a deployment with Config.Strict fails because of
// the manifest. Where dest is not a temporary directory, there is no archive: should
// a mistake let a directory of the system through, nothing is deployed to it.
func TestCheckOracle(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("the strategy rsync needs rsync(1)")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("SET", "x")
	archive := tartest.Make(t, tartest.Member{Name: "list", Body: "b\n"}, tartest.Member{Name: "a", Body: "a"})
	if err := os.WriteFile(filepath.Join(dir, "app.tar"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(archive))
	const none = "(none)"
	// For each key, values that are fine, then values that are not, at least in some manifests.
	keys := []struct {
		name        string
		fine, wrong []string
	}{
		{"src", []string{"ARCHIVE"}, []string{none, "", "/app.tar", "ftp://h/a", "s3://bucket", "[a]", "file://h/a"}},
		{"checksum", []string{sum, strings.ToUpper(sum), "'" + sum + "'"}, []string{none, "~", "ab", "sha256:" + sum, "' " + sum + "'", "{a: b}", sum[:63] + "g"}},
		{"dest", []string{"DEST", "DEST/", "'DEST'"}, []string{none, "''", "app", "/", "/etc", "/usr/../home", "~/a", "[DEST]", `"/srv/a\0"`}},
		{"dest_mode", []string{none, none, "0755", "0o711", "~", "448"}, []string{"'0755'", "0888", "1e3", "-1", "rwx", "[7]", "070000"}},
		{"excludes", []string{none, "[a, '+ b', '- c', '!']", "[~]", "\n- '*.pid'\n- /x/**", "[]"}, []string{"a", "['- ']", "['+ ']", `["a\0"]`, "[[a]]", "- a", "{a: b}"}},
		{"exclude_from", []string{none, none, "list", "/list", "x/../list"}, []string{"../list", "x/../../list", `"a\0"`, "[list]"}},
		{"sync_strategy", []string{none, "", "rsync", "builtin", "symlink", "mv"}, []string{"RSYNC", "rsnc", "[mv]"}},
		{"keep_releases", []string{none, none, "3"}, []string{"0", "-1", "'3'", "three", "[3]", "1.5"}},
		{"shared", []string{none, none, "[log, tmp/x]"}, []string{"log", "[/log]", "[a/../b]", "[a, a/b]", "[.]", "[[a]]"}},
		{"commands", []string{none, "", "{pre: ['true'], env: {A: b}}", "\n  post:\n  - ':'\n  -", "{post: [~, ' '], success: ['{{ must_env `SET` }}']}"},
			[]string{"a", "[a]", "{pre: 'true'}", "{pre: [a: b]}", `{post: ["a\0"]}`, "{env: {'A=': b}}", "{env: {A: [b]}}", "{env: [A]}", "{posts: ['true']}", "{pre: ['true'], pre: []}", `{env: {A: "\0"}}`}},
		{"x-more", []string{none, none, "[a]", "{b: c}"}, []string{"[", "'a' b", "@a", "*a", "! a"}},
		{"more", []string{none}, []string{"a", "[a]"}},
		{"src", []string{none}, []string{"ARCHIVE", ""}},
		{"<<", []string{none, none, "{dest_mode: 0755}", "[{commands: {}}]"}, []string{"a", "[a]", "{more: a}", "{sync_strategy: no}"}},
		{"# x", []string{none, "{{ env `NO_SUCH` }} \t"}, []string{"\n\tb: c", "\n-b", "\nb", "\n...\n"}},
	}
	random := rand.New(rand.NewPCG(12, 0))
	found := map[bool]int{}
	for n := range 400 {
		var manifest strings.Builder
		wrong := random.IntN(3) // how many values are wrong, at most
		for _, key := range keys {
			value := key.fine[random.IntN(len(key.fine))]
			if wrong > 0 && random.IntN(len(keys)/2) == 0 {
				wrong--
				value = key.wrong[random.IntN(len(key.wrong))]
			}
			if value != none {
				fmt.Fprintf(&manifest, "%s: %s\n", key.name, value)
			}
		}
		dest := filepath.Join(dir, fmt.Sprint(n), "dest")
		if err := os.Mkdir(filepath.Dir(dest), 0o755); err != nil {
			t.Fatal(err)
		}
		in := strings.ReplaceAll(manifest.String(), "DEST", dest)
		src := "file:///nowhere.tar"
		if strings.Contains(in, dest) {
			src = "file://" + dir + "/app.tar"
		}
		in = strings.ReplaceAll(in, "ARCHIVE", src)

		var problems []Problem
		var err error
		logOf(func() {
			problems = checkManifest([]byte(in), Config{})
			var m *Manifest
			if m, err = parseManifest([]byte(in), true); err == nil {
				err = m.DeployContext(t.Context(), Config{Strict: true})
			}
		})
		refused := err != nil && !strings.Contains(err.Error(), "Get src failed: fetch file:///nowhere.tar")
		bad := slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
		if bad != refused {
			t.Errorf("check found\n%sbut the error of a deployment is %v, of\n%s", report(problems), err, in)
		}
		// What the deployment says is one of the problems.
		if refused {
			text := err.Error()
			if !slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning && strings.Contains(text, p.Text) }) {
				t.Errorf("check found\n%sbut not what a deployment says: %v, of\n%s", report(problems), err, in)
			}
		}
		found[refused]++
	}
	if found[true] < 100 || found[false] < 100 {
		t.Errorf("the manifests are one-sided: %v", found)
	}
}

// Nothing is wrong with the manifests of the documentation.
func TestCheckDocumentation(t *testing.T) {
	t.Setenv("APP_ROOT", "/srv")
	blocks := regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```$")
	manifest := regexp.MustCompile(`(?m)^(?:src|commands):`)
	checked := 0
	check := func(name string, data []byte) {
		if !manifest.Match(data) {
			return
		}
		checked++
		if got := report(checkManifest(data, Config{})); got != "" {
			t.Errorf("%s: %s\n%s", name, got, data)
		}
	}
	for _, dir := range []string{".", "docs", "examples"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && dir == "." && path != "." {
				return cmp.Or(err, fs.SkipDir)
			}
			if d.IsDir() {
				return nil
			}
			data, err := os.ReadFile(path)
			switch filepath.Ext(path) {
			case ".md":
				for _, block := range blocks.FindAllSubmatch(data, -1) {
					check(path, block[1])
				}
			case ".yml", ".yaml":
				check(path, data)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if checked < 2 {
		t.Errorf("found %d manifests", checked)
	}
}

// Whatever a manifest is, each problem is one safe line about one of its lines, and
// what cannot be parsed is a problem.
func FuzzCheckManifest(f *testing.F) {
	for _, in := range []string{
		"src: s3://b/k\nchecksum: ab\ndest: /etc\n", "commands:\n  pre: [a, [b]]\n  env: {'=': a}\n", "a: {{ must_env `NO_SUCH` }}\n{{- env `X` `a\nb` -}}\n\nb: [",
		"src: ftp://u:p@h/\x1b\nshared: [a, a/b]\nexcludes: ['- ']", "\xef\xbb\xbf---\n# a\n...\n--- b\n", "\xff\xfea\x00:\x00 \x00b\x00", "<<: &a {<<: *a}", "dest_mode: 9\nkeep_releases: 0\nexpires: 2020-01-01T00:00:00Z\r\nsrc: a\rdest: b",
	} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		problems := checkManifest([]byte(in), Config{})
		last, bad := 1, false
		for _, p := range problems {
			// YAML ends a line also at these.
			if lines := 1 + strings.Count(in, "\n") + strings.Count(in, "\r") + strings.Count(in, "\u0085") + strings.Count(in, "\u2028") + strings.Count(in, "\u2029") + strings.Count(in, "\n\x00") + strings.Count(in, "\x00\n"); p.Line < last || p.Line > lines {
				t.Errorf("%q: line %d of %d, after line %d: %s", in, p.Line, lines, last, p.Text)
			}
			if p.Text == "" || redact.Printable(p.Text) != p.Text {
				t.Errorf("%q: %q", in, p.Text)
			}
			last, bad = p.Line, bad || !p.Warning
		}
		var err error
		logOf(func() { _, err = parseManifest([]byte(in), true) })
		if err != nil && !bad && !strings.Contains(err.Error(), "must_env: ") {
			t.Errorf("%q: no problem, but a deployment says: %v", in, err)
		}
	})
}
