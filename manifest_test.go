package stretcher

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
)

func TestParseManifest(t *testing.T) {
	mode := os.FileMode(0o711)
	for _, test := range []struct {
		name, in string
		want     Manifest
	}{
		{"of the specification", `
src: s3://example.com/app.tar.gz
checksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93
dest: /home/stretcher/app
dest_mode: 0711
commands:
  pre:
    - echo 'staring deploy'
  post:
    - echo 'deploy done'
  success:
    - echo 'deploy success'
  failure:
    - echo 'deploy failed!!'
    - cat >> /path/to/failure.log
  env:
    RAILS_ENV: production
excludes:
  - "*.pid"
  - "*.socket"
exclude_from: exclude.list
sync_strategy: mv
`, Manifest{
			Src:      "s3://example.com/app.tar.gz",
			CheckSum: "e0840daaa97cd2cf2175f9e5d133ffb3324a2b93",
			Dest:     "/home/stretcher/app",
			DestMode: &mode,
			Commands: Commands{
				Pre:     CommandLines{"echo 'staring deploy'"},
				Post:    CommandLines{"echo 'deploy done'"},
				Success: CommandLines{"echo 'deploy success'"},
				Failure: CommandLines{"echo 'deploy failed!!'", "cat >> /path/to/failure.log"},
				Env:     map[string]string{"RAILS_ENV": "production"},
			},
			Excludes:     []string{"*.pid", "*.socket"},
			ExcludeFrom:  "exclude.list",
			SyncStrategy: "mv",
		}},
		{"commands alone", "commands: {pre: [a], post: [~, '', b]}", Manifest{Commands: Commands{Pre: CommandLines{"a"}, Post: CommandLines{"", "", "b"}}}},
		{"scalars that are no strings", "commands: {pre: [true, 0755, 1.50, 2014-11-17]}", Manifest{Commands: Commands{Pre: CommandLines{"true", "0755", "1.50", "2014-11-17"}}}},
		{"anchors", "commands:\n  success: &s [a, b]\n  failure: *s", Manifest{Commands: Commands{Success: CommandLines{"a", "b"}, Failure: CommandLines{"a", "b"}}}},
		{"a checksum that looks like a number", "{src: 'file:///a', checksum: 01234567012345670123456701234567, dest: /d}",
			Manifest{Src: "file:///a", CheckSum: "01234567012345670123456701234567", Dest: "/d"}},
		{"one that looks like a float", "{src: 'file:///a', checksum: 12345678901234567890123456789e12, dest: /d}",
			Manifest{Src: "file:///a", CheckSum: "12345678901234567890123456789e12", Dest: "/d"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got *Manifest
			var err error
			if warned := logOf(func() { got, err = ParseManifest([]byte(test.in)) }); warned != "" {
				t.Errorf("logged: %s", warned)
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.want.DestMode == nil {
				if got.hasDestMode() || *got.DestMode != DefaultDestMode {
					t.Errorf("an absent dest_mode became %v", got.DestMode)
				}
				test.want.DestMode = got.DestMode
			}
			got.parsed = parsed{}
			if !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %+v, expected %+v", *got, test.want)
			}
		})
	}
}

// parseAndCheck returns the error of ParseManifest, or of what Deploy checks.
func parseAndCheck(in string, conf Config) error {
	m, err := ParseManifest([]byte(in))
	if err != nil {
		return err
	}
	return m.check(conf)
}

func TestParseManifestErrors(t *testing.T) {
	const (
		sum = "checksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93\n"
		src = "src: file:///app.tar\n"
		ok  = src + sum + "dest: /srv/app\n"
	)
	for in, want := range map[string]string{
		ok + "dest_mode: '0755'\n":                                           `line 4: dest_mode "0755" is a text: write it without quotes`,
		ok + "dest_mode: 0888\n":                                             `dest_mode "0888" is not a file mode`,
		ok + "dest_mode: 0.5\n":                                              `dest_mode "0.5" is not a file mode`,
		ok + "dest_mode: 1e3\n":                                              `dest_mode "1e3" is not a file mode`,
		"commands: {pre: [a]}\nchecksum: sha256:ab":                          `: leave out the prefix "sha256:"`,
		"commands: {pre: [a]}\nchecksum: " + strings.Repeat("a", 60):         ": it has 60 hex digits, and sha256 has 64",
		"commands: {pre: [a]}\nchecksum: ' " + strings.Repeat("a", 64) + "'": ": leave out the blanks around it",
		"commands: {pre: [a]}\ndest: /etc":                                   "a directory of the system",
		"":                                                                   "neither src nor commands",
		"---\n...\n":                                                         "neither src nor commands",
		"dest: /srv/app":                                                     "neither src nor commands",
		"commands: {env: {A: b}}":                                            "neither src nor commands",
		"commands: {pre: [null]}":                                            "neither src nor commands",
		"commands: {prre: [a]}":                                              "neither src nor commands",
		"<h1>Not Found</h1>":                                                 "parse manifest: line 1: a text, expected the keys of a manifest",
		"- a\n- b":                                                           "parse manifest: line 1: a list, expected the keys of a manifest",
		"src: [":                                                             "parse manifest: line 1: a [ or { is never closed",
		"\tsrc: x":                                                           "parse manifest: line 1: a TAB: YAML is indented by spaces",
		"commands: {pre: a}":                                                 `line 1: commands.pre is a text, expected a list: write "- a" on a line of its own`,
		"commands: {pre: [[a]]}":                                             "commands.pre has a list where a command should be",
		src + sum:                                                            "src without dest",
		src + "dest: /srv/app":                                               "src without checksum",
		sum + "dest: /d\nsrc: /app.tar\n":                                    "is not a URL",
		sum + "dest: /d\nsrc: ftp://h/a\n":                                   "unknown scheme \"ftp\"",
		sum + "dest: /d\nsrc: s3://bucket\n":                                 "expected a bucket and a key",
		sum + "dest: /d\nsrc: gs:///key\n":                                   "expected a bucket and a key",
		sum + "dest: /d\nsrc: http:///a\n":                                   "names no host",
		sum + "dest: /d\nsrc: file://h/a\n":                                  "expected an absolute path, as in file:///path",
		sum + "dest: /d\nsrc: file:a\n":                                      "is not a URL",
		src + sum + "dest: ''\n":                                             "src without dest",
		src + sum + "dest: app\n":                                            `dest "app" is not an absolute path`,
		src + sum + "dest: ./\n":                                             `dest "./" is not an absolute path`,
		src + sum + "dest: ~/app\n":                                          `dest "~/app" is not an absolute path`,
		src + sum + "dest: /\n":                                              "dest / is the root directory",
		src + sum + "dest: //.//\n":                                          "is the root directory",
		src + sum + "dest: /a/..\n":                                          "is the root directory",
		src + sum + "dest: \"/a\\0\"\n":                                      "has a NUL byte",
		ok + "sync_strategy: RSYNC\n":                                        `invalid strategy "RSYNC"`,
		ok + "dest_mode: rwxr-xr-x\n":                                        `line 4: dest_mode "rwxr-xr-x" is not a file mode`,
		ok + "dest_mode: -1\n":                                               `line 4: dest_mode "-1" is not a file mode: write it in octal, as 0755`,
		ok + "dest_mode: 0100755\n":                                          `dest_mode "0100755" is not a file mode`,
		ok + "exclude_from: ../a\n":                                          "leaves the archive",
		ok + "exclude_from: a/../../b\n":                                     "leaves the archive",
		ok + "exclude_from: /..\n":                                           "leaves the archive",
		ok + "exclude_from: \"a\\0\"\n":                                      "has a NUL byte",
		ok + "excludes: [\"a\\0\"]\n":                                        "has a NUL byte",
		ok + "commands: {env: {'': a}}":                                      `invalid variable name ""`,
		ok + "commands: {env: {'A=': a}}":                                    `invalid variable name "A="`,
		ok + "commands: {env: {A: \"\\0\"}}":                                 `commands.env: "A" has a NUL byte`,
		ok + "commands: {pre: ['{{ must_env \"STRETCHER_NO_SUCH\" }}']}": "must_env: STRETCHER_NO_SUCH not set",
		"commands: {pre: [a]}\nsync_strategy: no":                        `invalid strategy "no"`,
		"commands: {pre: [a]}\ndest: app":                                "not an absolute path",
		"commands: {pre: [a]}\nchecksum: abc":                            `checksum "abc" is not the hex`,
	} {
		var err error
		logOf(func() { err = parseAndCheck(in, Config{}) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\ngot error %v,\nexpected one with %s", in, err, want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error has more than one line: %v", in, err)
		}
	}
}

func TestParseManifestWarnings(t *testing.T) {
	for in, want := range map[string]string{
		"desc: x\ncommands: {pre: [a]}":                  "[WARN] manifest: line 1: unknown key desc is ignored: did you mean dest?\n",
		"commands:\n  pre: [a]\n  befor: [b]":            "[WARN] manifest: line 3: unknown key befor is ignored\n",
		"Src: a\ncommands: {pre: [a]}\nDEST: b":          "[WARN] manifest: line 1: unknown key Src is ignored: did you mean src?\n[WARN] manifest: line 3: unknown key DEST is ignored: did you mean dest?\n",
		"commands: {pre: [a]}\ncommands: {pre: [b]}":     "[WARN] manifest: line 2: duplicate key commands: the last value is used\n",
		"commands: {pre: [a]}\ndest_mode: 755":           "[WARN] manifest: line 2: dest_mode 755 is a decimal number and means 01363; write 0755 if that was meant\n",
		"commands: {pre: [a]}\ndest_mode: 2755":          "[WARN] manifest: line 2: dest_mode 2755 is a decimal number and means 05303; write 02755 if that was meant\n",
		"commands: {pre: [a]}\ndest_mode: 1777":          "[WARN] manifest: line 2: dest_mode 1777 is a decimal number and means 03361; write 01777 if that was meant\n",
		"commands: {pre: [a]}\ndest_mode: 511":           "",
		"commands: {pre: [a]}\ndest_mode: 0o755":         "",
		"posts: [b]\ncommands: {pre: [a]}":               "[WARN] manifest: line 1: unknown key posts is ignored: did you mean commands.post?\n",
		"---\ncommands: {pre: [a]}\n---\n":               "",
		"commands: {pre: [a]}\n---\nsrc: b":              "[WARN] manifest: line 3: a second YAML document is ignored\n",
		"x: &d {pre: [b]}\ncommands: {pre: [a], <<: *d}": "",
		"commands: {pre: [a]}\ndest_mode: 0755":          "",
		"commands: {pre: [a]}\ndest_mode: 493":           "",
	} {
		var err error
		if got := logOf(func() { _, err = ParseManifest([]byte(in)) }); err != nil || got != want {
			t.Errorf("%q:\nlogged %s and returned %v,\nexpected %s", in, got, err, want)
		}
	}
}

func TestStrict(t *testing.T) {
	strict := Config{Strict: true}
	for in, want := range map[string]string{
		"commands: {pre: [a]}":                               "",
		"commands: {pre: [a]}\n---\nsrc: b":                  "",
		"x-a: &a {pre: [b]}\ncommands: {pre: [a], <<: *a}":   "",
		"commands: {pre: [a], posts: [b]}":                   "manifest: line 1: unknown key posts: did you mean post? (an error because of -strict)",
		"commands: {pre: [a]}\ncommands: {pre: [a]}":         "line 2: duplicate key commands",
		"commands: {pre: [a]}" + strings.Repeat("\nk: 1", 1): "line 2: unknown key k",
	} {
		var err error
		logOf(func() { err = parseAndCheck(in, strict) })
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, expected %q", in, err, want)
		}
		logOf(func() { err = parseAndCheck(in, Config{}) })
		if err != nil {
			t.Errorf("%q, not strict: %v", in, err)
		}
	}
}

// A src that is not allowed is an error of the check, before anything is done.
func TestAllowedSrc(t *testing.T) {
	const rest = "\nchecksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93\ndest: /srv/app"
	allow := []string{"https://example.com/deploy", "s3://bucket"}
	for src, want := range map[string]string{
		"https://example.com/deploy/app.tar?token=s3cret": "",
		"s3://bucket/app.tar":                             "",
		"s3://bucket-evil/app.tar":                        "manifest: src: s3://bucket-evil/app.tar: refused by -allow: it is not under https://example.com/deploy, s3://bucket",
		"https://example.com/deploy/..%2fa?token=s3cret":  "manifest: src: https://example.com/deploy/..%2fa?token=REDACTED: refused by -allow https://example.com/deploy, s3://bucket: some servers would read its path as one that leads out of there",
	} {
		err := parseAndCheck("src: "+src+rest, Config{Allow: allow})
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: got %v, expected %q", src, err, want)
		}
		if err := parseAndCheck("src: "+src+rest, Config{}); err != nil {
			t.Errorf("%s without a list: %v", src, err)
		}
	}
}

// A program may set DestMode in the form that os.Stat returns.
func TestCleaned(t *testing.T) {
	for mode, want := range map[os.FileMode]os.FileMode{0o755: 0o755, 0o2755: 0o2755, os.ModeSetgid | 0o755: 0o2755, os.ModeDir | 0o711: 0o711} {
		m := &Manifest{Dest: "/srv/a/../app/", DestMode: &mode, Commands: Commands{Pre: CommandLines{"a"}}}
		if err := m.check(Config{}); err != nil {
			t.Errorf("%v: %v", mode, err)
		}
		if got := m.cleaned(); got.Dest != "/srv/app" || !got.hasDestMode() || *got.DestMode != want {
			t.Errorf("%v: got %s with %#o, expected %#o", mode, got.Dest, uint32(*got.DestMode), uint32(want))
		}
	}
	m, err := ParseManifest([]byte("dest: /srv/app"))
	if err != nil || m.cleaned().hasDestMode() || (&Manifest{}).cleaned().hasDestMode() {
		t.Errorf("an absent dest_mode became one that is set, and %v", err)
	}
}

// mv has no use for exclude_from.
func TestExcludeFromWithMv(t *testing.T) {
	err := parseAndCheck("src: file:///a\nchecksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93\ndest: /srv/app\nexclude_from: ../a\nsync_strategy: mv", Config{})
	if err != nil {
		t.Error(err)
	}
}

func TestExpires(t *testing.T) {
	for in, want := range map[string]string{
		"2100-01-01T00:00:00Z":       "",
		"2100-01-01T00:00:00.5Z":     "",
		"2100-01-01T00:00:00+09:00":  "",
		"'2100-01-01T00:00:00Z'":     "",
		"!!str 2100-01-01T00:00:00Z": "",
		"2020-01-01T00:00:00Z":       "manifest: expired at 2020-01-01T00:00:00Z, ",
		"0001-01-01T00:00:01Z":       "manifest: expired at 0001-01-01T00:00:01Z, ",
		"0001-01-01T00:00:00Z":       "line 2: expires is not a time: write it as ", // the zero time would be never
		"2100-01-01":                 "line 2: expires has no time and no time zone: write it as ",
		"2100-01-01T00:00:00":        "line 2: expires has no time zone: write it as ",
		"2100-01-01 00:00":           "line 2: expires has no time zone: write it as ",
		"2100-01-01 00:00:00Z":       "line 2: expires is not a time: write it as ",
		"2100-02-30T00:00:00Z":       "line 2: expires is not a time: write it as ",
		"2100-01-01T00:00:00+99:00":  "line 2: expires is not a time: write it as ",
		"4102444800":                 "line 2: expires is not a time: write it as ",
		"never":                      "line 2: expires is not a time: write it as ",
		"''":                         "line 2: expires is not a time: write it as ",
		"~":                          "line 2: expires has no value",
		"":                           "line 2: expires has no value",
	} {
		err := parseAndCheck("commands: {pre: [a]}\nexpires: "+in, Config{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
	m := &Manifest{Commands: Commands{Pre: CommandLines{"true"}}, Expires: time.Now().Add(-time.Hour)}
	logOf(func() {
		if err := m.Deploy(Config{}); err == nil || !strings.Contains(err.Error(), "and the clock of this host says ") {
			t.Errorf("error %v", err)
		}
	})
}

// A manifest that was not parsed is kept in a form that can be, with its time if it
// has one.
func TestExpiresKept(t *testing.T) {
	for _, expires := range []time.Time{{}, time.Unix(4102444800, 123456789), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)} {
		m := &Manifest{Src: "file:///a", Expires: expires}
		data, err := m.source()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "expires") == expires.IsZero() {
			t.Errorf("%s", data)
		}
		if again, err := ParseManifest(data); err != nil || !again.Expires.Equal(expires) {
			t.Errorf("%v: %v\n%s", expires, err, data)
		}
	}
}

func TestWeakChecksum(t *testing.T) {
	const in = "src: file:///a\ndest: /srv/app\nchecksum: "
	for digits, name := range map[int]string{32: "an md5", 40: "a sha1", 64: "", 128: ""} {
		manifest := in + strings.Repeat("a", digits)
		warned := logOf(func() {
			if err := parseAndCheck(manifest, Config{}); err != nil {
				t.Error(err)
			}
		})
		if name == "" && warned != "" || name != "" && !strings.HasPrefix(warned, "[WARN] manifest: checksum is "+name+", which ") {
			t.Errorf("%d digits: logged %q", digits, warned)
		}
		var err error
		if warned := logOf(func() { err = parseAndCheck(manifest, Config{PublicKeys: []string{"key"}}) }); warned != "" {
			t.Errorf("%d digits: logged %q", digits, warned)
		}
		if (err == nil) != (name == "") || err != nil && !strings.Contains(err.Error(), "checksum is "+name+", so the signature ") {
			t.Errorf("%d digits: error %v", digits, err)
		}
	}
}

// Run runs the commands for the result, Deploy leaves them to its caller.
func TestDeployRunsNoHooks(t *testing.T) {
	dir := t.TempDir()
	for _, post := range []CommandLine{"true", "false"} {
		m := &Manifest{Commands: Commands{
			Post:    CommandLines{post},
			Success: CommandLines{CommandLine("touch " + dir + "/success")},
			Failure: CommandLines{CommandLine("touch " + dir + "/failure")},
		}}
		logOf(func() {
			if err := m.Deploy(Config{}); (err == nil) != (post == "true") {
				t.Errorf("%s: %v", post, err)
			}
		})
	}
	if got := tartest.NamesIn(t, dir); len(got) > 0 {
		t.Errorf("Deploy ran %v", got)
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, seed := range []string{
		"src: file:///a\nchecksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93\ndest: /d\ndest_mode: 0711\n",
		"commands: {pre: [a, ~], env: {A: b}}", "commands: &a {pre: [*a]}", "<<: {src: a}", "a: &a [*a]", "--- \n...", `{{ env "A" "commands: {pre: [a]}" }}`,
		"commands: {pre: [a]}\nexclude_from: a/../b\nexcludes: [c]", "? [a]\n: b", "!!binary YQ==",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m *Manifest
		var err error
		logOf(func() { m, err = ParseManifest(data) })
		if err == nil && m.DestMode == nil {
			t.Error("DestMode is nil")
		}
		if (m == nil) == (err == nil) {
			t.Fatalf("got %v and %v", m, err)
		}
		if err != nil {
			return
		}
		logOf(func() { err = m.check(Config{}) })
		if err != nil {
			return
		}
		if m.Src == "" && m.Commands.empty() || m.Src != "" && (m.CheckSum == "" || !strings.HasPrefix(m.Dest, "/")) {
			t.Errorf("accepted %+v", m)
		}
	})
}
