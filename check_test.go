package stretcher

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		"error: x\ndest: hunter2\n":  "1: unknown key error\n1: neither src nor commands: nothing to deploy (is it a manifest at all?)\n",
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
