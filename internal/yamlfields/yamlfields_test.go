package yamlfields

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	yamlv2 "go.yaml.in/yaml/v2"
)

// manifest has a field of each kind.
type manifest struct {
	Src      string   `yaml:"src"`
	CheckSum string   `yaml:"checksum"`
	Dest     string   `yaml:"dest"`
	Mode     string   `yaml:"dest_mode"`
	Excludes []string `yaml:"excludes"`
	Commands struct {
		Pre  []string          `yaml:"pre"`
		Post []string          `yaml:"post"`
		Env  map[string]string `yaml:"env"`
	} `yaml:"commands"`
}

func decode(data string) (m manifest, warnings string, err error) {
	result := Decode([]byte(data), []Field{
		{Name: "src", To: &m.Src},
		{Name: "checksum", To: &m.CheckSum},
		{Name: "dest", To: &m.Dest},
		{Name: "dest_mode", To: func(s Scalar) error {
			m.Mode = s.Text
			if s.Text == "bad" {
				return errors.New("is not a mode")
			}
			return nil
		}},
		{Name: "keep", To: func(s Scalar) (warning string, err error) {
			switch s.Text {
			case "bad":
				return "", errors.New("keep is not a number")
			case "odd":
				return "keep is odd", nil
			}
			return "", nil
		}},
		{Name: "excludes", To: &m.Excludes, Item: "pattern"},
		{Name: "commands", To: []Field{
			{Name: "pre", To: &m.Commands.Pre, Item: "command"},
			{Name: "post", To: &m.Commands.Post, Item: "command"},
			{Name: "env", To: &m.Commands.Env},
		}},
	})
	var texts []string
	for _, w := range Listed(result.Warnings) {
		texts = append(texts, w.String())
	}
	return m, strings.Join(texts, "; "), result.Err()
}

// likeV2 are documents without merge keys and duplicate keys, which yaml.v2
// decodes into equal values, or refuses as well. They are seeds of the fuzz test
// too.
var likeV2 = []string{
	"",
	"# nothing\n",
	"---\n...\n",
	"~",
	"null\n",
	"src: a\ndest: /b\ndest_mode: 0755\nexcludes:\n  - \"*.pid\"\n  - '/it''s'\ncommands:\n  pre:\n  - a && b\n  post: [c, 'd: e']\n  env:\n    A: b\n    C: 'd'\n",
	"src: 01234567\ndest: 1.50\ndest_mode: 0_755\nexcludes: [true, 0755, 1.50, 2014-11-17, yes, 0x1F, 1e3, .inf, 1_000, 12:30:45, Yes, <<]\n",
	"src: ~\ndest: null\ndest_mode:\nexcludes: ~\ncommands: ~\n",
	"excludes: [~, null, Null, NULL, '', \"\", '~', nUll]\ncommands: {pre: , env: {A: ~, B: , C: null, D: '~'}}\n",
	"excludes:\n-\n- \n- a\n-\n",
	"excludes: []\ncommands: {pre: [], env: {}}\n",
	"commands: {}\n",
	"src: !!binary aGVsbG8=\nexcludes: [!!binary \"aGVsbG8=\", !!binary '']\n",
	"src: !!binary |\n  aGVs\n  bG8=\n",
	"src: !!binary '%'\n",
	"src: !!str ~\ndest: !!str\ndest_mode: !!str 0755\nexcludes: [!!str 1, !!int 0755, !!int '12', !!float 1, !!bool yes, !!null '', !!null ~, !!timestamp 2014-11-17, !foo ~, !<tag:yaml.org,2002:str> ~]\n",
	"%TAG ! tag:example.com,2014:\n---\nsrc: !foo bar\n",
	"src: |\n  a\n   b\n\n  c\ndest: >\n  a\n  b\n\n  c\nexcludes:\n- |-\n  a\n\n- >+\n  b\n\n- |2\n    c\n",
	"src: \"a\\n\\x41\\u00e9\\\n  b\"\ndest: a\n  b\n\n  c\n",
	"src: &a b\ndest: *a\nexcludes: &l [*a, *a, &n ~, *n]\ncommands: {pre: *l, post: *l, env: {A: *a, *a : c, B: *n}}\n",
	"commands: &c {pre: [a]}\nother: *c\n",
	"other: &o {pre: [a]}\ncommands: *o\n",
	"k: &k src\n*k : a\n",
	"!!binary c3Jj: a\n",
	"commands: {env: {1: 2, true: false, ~: a, 'x y': b, 0x1: c}}\n",
	"src: a # comment\n# another\n\nexcludes: # here\n  # there\n  - a # and\n  # here\n  - b\n# end\n",
	"src: a\r\nexcludes:\r\n- b\r\n",
	"\xef\xbb\xbfsrc: a\n",
	"{src: a, excludes: [b, c,], commands: {pre: [d]}}",
	"{src: a} junk",
	"{\"src\": \"a\", \"excludes\": [\"b\"], \"commands\": {\"env\": {\"A\": \"b\"}}}",
	"? src\n: a\n? excludes\n: - b\n",
	"src: a\n---\nsrc: b\n",
	"src: a\n...\nb: [\n",
	"text",
	"\"\"",
	"[a]",
	"!!binary YQ==",
	"src: [a]",
	"src: {a: b}",
	"dest_mode: [a]",
	"excludes: a",
	"excludes: ''",
	"excludes: {a: b}",
	"excludes: [[a]]",
	"excludes: [{a: b}]",
	"commands: a",
	"commands: [a]",
	"commands: {env: a}",
	"commands: {env: [a]}",
	"commands: {env: {A: [b]}}",
	"commands: {post: [{a: b}, c]}",
	"[a]: b",
	"{a: b}: c",
	"commands: {env: {{a: b}: c}}",
	"commands: &c {pre: [*c]}",
	"src: *a",
	"src: [",
	"\tsrc: a",
	"src: a\n\tdest: b",
	"src: \x01",
	"src: \xff",
}

func TestDecodeLikeV2(t *testing.T) {
	t.Parallel()
	for _, in := range likeV2 {
		compareWithV2(t, in)
	}
}

// compareWithV2 holds Decode against yaml.v2, where the two are meant to agree.
func compareWithV2(t *testing.T, in string) {
	t.Helper()
	got, _, err := decode(in)
	var want manifest
	errV2 := recovered(func() error { return yamlv2.Unmarshal([]byte(in), &want) })
	strict := recovered(func() error { return yamlv2.UnmarshalStrict([]byte(in), &manifest{}) })
	if err != nil && errV2 == nil {
		// yaml.v3 reads a few tokens further, and so may find an error that
		// stands behind the end of the document.
		documents := yamlv2.NewDecoder(strings.NewReader(in))
		_ = documents.Decode(&manifest{})
		if recovered(func() error { return documents.Decode(&manifest{}) }) != io.EOF {
			return
		}
	}
	var types *yamlv2.TypeError
	if err == nil && errV2 != nil && !errors.As(errV2, &types) && !strings.Contains(errV2.Error(), "base64") {
		return // yaml.v3 accepts a little more, such as a TAB in an empty line
	}
	for _, e := range []struct {
		err  error
		text string
	}{
		{strict, "already set in"},         // yaml.v2 does not clear the first of two values
		{errV2, "cannot decode"},           // tags such as !!int are not checked
		{errV2, "excessive aliasing"},      // there is no need for such a limit
		{err, "a value that contains it"},  // yaml.v2 looks at the keys that are known
		{err, errParser.Error()},           // a fault of the parser
		{errV2, "parser of yaml.v2 panic"}, // likewise
	} {
		if e.err != nil && strings.Contains(e.err.Error(), e.text) {
			return
		}
	}
	if (err == nil) != (errV2 == nil) {
		t.Errorf("%q:\ngot error %v,\nyaml.v2 %v", in, err, errV2)
	} else if err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\ngot     %+v,\nyaml.v2 %+v", in, got, want)
	}
}

func recovered(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("parser of yaml.v2 panic")
		}
	}()
	return f()
}

func TestScalar(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Scalar{
		"a: 0755":              {"0755", false},
		"a: '0755'":            {"0755", true},
		"a: \"0755\"":          {"0755", true},
		"a:\n  0755":           {"0755", false},
		"a: |\n  0755\n":       {"0755\n", true},
		"a: !!str 0755":        {"0755", true},
		"a: !!int '0755'":      {"0755", false},
		"a: !!binary MDc1NQ==": {"0755", true},
		"b: &b 0755\na: *b":    {"0755", false},
		"a: ''":                {"", true},
		"a: ~":                 {"not called", false},
		"a: !!null ''":         {"not called", false},
		"":                     {"not called", false},
	} {
		got := Scalar{Text: "not called"}
		err := Decode([]byte(in), []Field{{Name: "a", To: func(s Scalar) (string, error) { got = s; return "", nil }}}).Err()
		if err != nil || got != want {
			t.Errorf("%q: got %+v and %v, expected %+v", in, got, err, want)
		}
	}
}

func TestAbsentAndNull(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"b: c": "was", "a: ~": "", "a: ''": "", "a: c": "c"} {
		got := "was"
		if err := Decode([]byte(in), []Field{{Name: "a", To: &got}}).Err(); err != nil || got != want {
			t.Errorf("%q: got %q and %v, expected %q", in, got, err, want)
		}
		err := Decode([]byte(in), []Field{{Name: "a", To: &got, NotNull: true}}).Err()
		if null := in == "a: ~"; null != (err != nil) || null && err.Error() != "line 1: a has no value" {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, in, want, warnings string
	}{
		{"own key after", "x-d: &d {src: d, dest: d}\n<<: *d\nsrc: a", "src: a\ndest: d", ""},
		{"own key before", "x-d: &d {src: d, dest: d}\nsrc: a\n<<: *d", "src: a\ndest: d", ""},
		{"own null", "x-d: &d {src: d, dest: d}\nsrc: ~\n<<: *d", "dest: d", ""},
		{"inline", "<<: {src: a}\ndest: b", "src: a\ndest: b", ""},
		{"list, the first wins", "x-d: &d {src: d}\nx-e: &e {src: e, dest: e}\n<<: [*d, *e]", "src: d\ndest: e", ""},
		{"alias of a list", "x-l: &l [{src: d}, {src: e, dest: e}]\n<<: *l", "src: d\ndest: e", ""},
		{"empty list", "<<: []\nsrc: a", "src: a", ""},
		{"nested", "x-d: &d {src: d, dest: d, dest_mode: 1}\nx-e: &e {<<: *d, dest: e}\n<<: *e\nsrc: a", "src: a\ndest: e\ndest_mode: 1", ""},
		{"nested before the next of a list", "x-d: &d {dest: d}\nx-e: &e {<<: *d, src: e}\n<<: [*e, {dest: f, src: f}]", "src: e\ndest: d", ""},
		{"commands", "x-d: &d {pre: [a], post: [b]}\ncommands: {post: [c], <<: *d}", "commands: {pre: [a], post: [c]}", ""},
		{"env", "x-d: &d {A: d, B: d}\ncommands:\n  env:\n    <<: *d\n    A: a", "commands: {env: {A: a, B: d}}", ""},
		{"env of a merged mapping", "x-d: &d {env: &e {A: d, B: d}}\ncommands:\n  <<: *d\n  env: {<<: *e, A: a}", "commands: {env: {A: a, B: d}}", ""},
		{"tagged", "!!merge '<<': {src: a}", "src: a", ""},
		{"quoted", "'<<': {src: a}\nsrc: b", "src: b", "line 1: unknown key (not a name) is ignored"},
		{"two merge keys", "<<: {src: a, dest: a}\n<<: {src: b}", "src: b\ndest: a", "line 2: duplicate key <<: all are merged, the last one wins"},
		{"duplicate in the merged", "<<: {src: a, src: b}", "src: b", "line 1: duplicate key src: the last value is used"},
		{"overridden duplicate", "<<: {src: a, src: b}\nsrc: c", "src: c", ""},
		{"unknown", "x-d: &d\n  src: d\n  foo: 1\n<<: *d\ncommands:\n  <<: *d", "src: d", "line 2: unknown key src is ignored: did you mean src at the top level?; line 3: unknown key foo is ignored"},
		{"wrong value, overridden", "<<: {src: [a]}\nsrc: b", "src: b", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, warnings, err := decode(test.in)
			want, _, wantErr := decode(test.want)
			if err != nil || wantErr != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v and %v, expected %+v", got, err, want)
			}
			if warnings != test.warnings {
				t.Errorf("warnings %q, expected %q", warnings, test.warnings)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"keep: bad\nsrc: a":                      "line 1: keep is not a number",
		"x-m: &m odd\nkeep:\n  *m\nsrc: a":       "line 3: keep is odd",
		"src: a\ncheksum: b":                     "line 2: unknown key cheksum is ignored: did you mean checksum?",
		"scr: a":                                 "line 1: unknown key scr is ignored: did you mean src?",
		"Src: a\nDEST: b":                        "line 1: unknown key Src is ignored: did you mean src?; line 2: unknown key DEST is ignored: did you mean dest?",
		"command: {}\ndest-mode: 1\nexclude: []": "line 1: unknown key command is ignored: did you mean commands?; line 2: unknown key dest-mode is ignored: did you mean dest_mode?; line 3: unknown key exclude is ignored: did you mean excludes?",
		"dest mode: 1":                           "line 1: unknown key (not a name) is ignored: did you mean dest_mode?",
		"commands:\n  posts: [a]\n  befor: [b]":  "line 2: unknown key posts is ignored: did you mean post?; line 3: unknown key befor is ignored",
		"commands:\n  pre:\n  - ! grep x\n  - !foo bar\n  - &a b\n  - &c d\n  - *c\n  - '! e'\n  - !!str f": "line 3: commands.pre has a command that begins with !, which YAML takes for a tag: put it in quotes; line 4: commands.pre has a command that begins with !, which YAML takes for a tag: put it in quotes; line 5: commands.pre has a command that begins with &, which YAML takes for an anchor: put it in quotes",
		"abc: 1\nurl: 2":                          "line 1: unknown key abc is ignored; line 2: unknown key url is ignored",
		"src: a\nsrc: b\nsrc: c":                  "line 2: duplicate key src: the last value is used; line 3: duplicate key src: the last value is used",
		"commands: {env: {A: a, A: b, 'x y': a}}": "line 1: duplicate key A: the last value is used",
		"commands: {env: {'x y': a, 'x y': a}}":   "line 1: duplicate key (not a name): the last value is used",
		"x-foo: 1\n.bar: 2\ncommands: {x-baz: 3}": "line 3: unknown key x-baz is ignored",
		"defs: &d {src: a}\n<<: *d":               "",
		"defs: &d {src: a}":                       "line 1: unknown key defs is ignored",
		"src: a\n---\nsrc: b":                     "line 3: a second YAML document is ignored",
		"src: a\n--- [":                           "line 2: a second YAML document is ignored",
		"src: a\n...\nb: [":                       "line 2: a second YAML document is ignored",
		"---\nsrc: a\n\n--- [":                    "line 4: a second YAML document is ignored",
		"---\nsrc: a\n---\n":                      "",
		"src: a\n---\n# end\n---\n...\n---\n":     "",
		"src: a\n---\n---\nsrc: b\n---\nsrc: c":   "line 4: a second YAML document is ignored",
		"---\n---\nsrc: b":                        "line 3: a second YAML document is ignored",
		"excludes:\n- !a\n- &b\n- a":              "line 2: excludes has a pattern that begins with !, which YAML takes for a tag: put it in quotes; line 3: excludes has a pattern that begins with &, which YAML takes for an anchor: put it in quotes",
		"excludes: [\u00e9\u00e9, ! a, b]":        "line 1: excludes has a pattern that begins with !, which YAML takes for a tag: put it in quotes",
		"src: ! a\ndest: &a b\ndest_mode: !x 1\ncommands: {env: {A: &b c, B: !x , C: &c d, D: *c, E: !!str f}}": "line 1: src begins with !, which YAML takes for a tag: put it in quotes; line 2: dest begins with &, which YAML takes for an anchor: put it in quotes; line 3: dest_mode begins with !, which YAML takes for a tag: put it in quotes; line 4: commands.env: A begins with &, which YAML takes for an anchor: put it in quotes; line 4: commands.env: B begins with !, which YAML takes for a tag: put it in quotes",
		"src: a\n...\n":                              "",
		strings.Repeat("k: \n", 30) + "dest: \n":     "",
		"post: [a]\ncommands: {dest: a, cheksum: b}": "line 1: unknown key post is ignored: did you mean commands.post?; line 2: unknown key cheksum is ignored: did you mean checksum at the top level?; line 2: unknown key dest is ignored: did you mean dest at the top level?",
		"~: a\n? |\n  x\n: b\n" + "'sec ret': c\n":   "line 1: unknown key (not a name) is ignored; line 2: unknown key (not a name) is ignored; line 5: unknown key (not a name) is ignored",
	} {
		_, got, err := decode(in)
		if strings.HasPrefix(in, "k:") {
			if err != nil || strings.Count(got, "; ") != maxReport+1 || !strings.HasSuffix(got, "; and 19 more duplicate keys") {
				t.Errorf("30 equal keys: got %s and %v", got, err)
			}
		} else if err != nil || got != want {
			t.Errorf("%q:\ngot      %s and %v,\nexpected %s", in, got, err, want)
		}
	}
}

func TestOneMore(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"excludes:\n" + strings.Repeat("- ! a\n", maxReport+1): "; and 1 more unquoted text",
		"excludes:\n" + strings.Repeat("- ! a\n", maxReport+2): "; and 2 more unquoted texts",
		strings.Repeat("src: a\n", maxReport+2):                "; and 1 more duplicate key",
	} {
		if _, got, err := decode(in); err != nil || !strings.HasSuffix(got, want) {
			t.Errorf("%q: got %s and %v, expected %s", in, got, err, want)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"scr: a":         "line 1: unknown key scr: did you mean src?",
		"url: a":         "line 1: unknown key url",
		"src: a\nsrc: b": "line 2: duplicate key src",
	} {
		r := Decode([]byte(in), []Field{{Name: "src", To: new(string)}})
		if r.Err() != nil || len(r.Warnings) != 1 || r.Warnings[0].Refused().String() != want {
			t.Errorf("%q: got %v and %v, expected %s", in, r.Warnings, r.Err(), want)
		}
	}
}

func TestLastValueIsUsed(t *testing.T) {
	t.Parallel()
	m, _, err := decode("src: [a]\nsrc: b\ncommands: {pre: [a]}\ncommands: {env: {A: b}, env: {C: d}}")
	want, _, _ := decode("src: b\ncommands: {env: {C: d}}")
	if err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v and %v, expected %+v", m, err, want)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"src: a\n\ncommands:\n  post:\n    - a\n    - echo done: yes": `line 6: commands.post has a map where a command should be: put a command with ": " in it in quotes, as - 'echo done: yes'`,
		"commands:\n  post: systemctl restart app":                    `line 2: commands.post is a text, expected a list: write "- systemctl restart app" on a line of its own`,
		"commands:\n  post:\n    echo done: yes":                      `line 3: commands.post is a map, expected a list: write it as "- command" on a line of its own`,
		"commands: [a]":                                               "line 1: commands is a list, expected the keys pre, post, env",
		"commands: a":                                                 "line 1: commands is a text, expected the keys pre, post, env",
		"excludes: '*.pid'":                                           `line 1: excludes is a text, expected a list: write it as "- pattern" on a line of its own`,
		"excludes: [[a]]":                                             `line 1: excludes has a list where a pattern should be: put a pattern that begins with [ in quotes`,
		"excludes:\n- - a":                                            `line 2: excludes has a list where a pattern should be`,
		"commands: {pre: [{ echo a; }]}":                              `line 1: commands.pre has a map where a command should be: put a command that begins with { in quotes`,
		"src: a\ncommands:\n  pre:\n    -a\n    -b":                   `line 4: commands.pre is a text, expected a list: put a blank after each -`,
		"src: a\ncommands:\n  pre:\n  -a\n  -b":                       `line 4: put a blank after the - of an item`,
		"src: a\ncommands:\n  pre: --a":                               `line 3: commands.pre is a text, expected a list: write - '--a' on a line of its own`,
		"src:file:///a\ndest:/b":                                      `line 1: a text, expected the keys of a manifest: put a blank after each :`,
		"commands:\n  pre:\n  - echo a:":                              `line 3: commands.pre has a map where a command should be: put a command with ": " in it in quotes, as - 'echo a:'`,
		"src: [a]\ndest: {a: b}":                                      "line 1: src is a list, expected a text; line 2: dest is a map, expected a text",
		"dest_mode: bad":                                              "line 1: dest_mode is not a mode",
		"keep: [a]":                                                   "line 1: keep is a list, expected a text",
		"dest_mode: [a]":                                              "line 1: dest_mode is a list, expected a text",
		"commands: {env: [a]}":                                        `line 1: commands.env is a list, expected a map: write it as "NAME: value" on lines of their own`,
		"commands: {env: {A: [a]}}":                                   "line 1: commands.env: A is a list, expected a text",
		"x-a: &a text\n\nsrc: b\nexcludes: *a\ncommands: [c]":         `line 4: excludes is a text, expected a list: write "- text" on a line of its own; line 5: commands is a list, expected the keys pre, post, env`,
		"root:x:0:0":                                                  "line 1: a text, expected the keys of a manifest (is it a manifest at all?)",
		"# a\n- b":                                                    "line 2: a list, expected the keys of a manifest (is it a manifest at all?)",
		"[a]: b":                                                      "line 1: a list is used as a key: put a text that begins with { or [ in quotes",
		"commands: {env: {{a: b}: c}}":                                "line 1: a map is used as a key: put a text that begins with { or [ in quotes",
		"src: a\n<<: b":                                               "line 2: << merges a text, expected a map or a list of maps",
		"<<: ~":                                                       "line 1: << merges a text, expected a map or a list of maps",
		"commands:\n  <<: [{}, [a]]":                                  "line 2: << merges a list that has a list in it, expected a list of maps",
		"commands:\n  env:\n    <<: 1":                                "line 3: << merges a text, expected a map or a list of maps",
		"src: a\ndest: !!binary '%secret'":                            "line 2: a !!binary value is not valid base64",
		"a: &a [*a]":                                                  "line 1: an alias refers to a value that contains it",
		"src: a\n<<: &a\n  dest: b\n  <<: *a":                         "line 4: an alias refers to a value that contains it",
		"commands: &a {env: {A: [[*a]]}}":                             "line 1: an alias refers to a value that contains it",
		"src: a\ncommands:\n  pre:\n    - a\n\tpost: b\n":             "line 5: a TAB: YAML is indented by spaces",
		"\tsrc: a":                                                    "line 1: a TAB: YAML is indented by spaces",
		"commands:\n\tpre: [a]":                                       "line 2: a TAB: YAML is indented by spaces",
		"excludes:\n  - a\n  \t- b\nsrc: c":                           "line 3: a TAB: YAML is indented by spaces",
		"excludes:\n- a\n- @b\n- c":                                   "line 3: put a text that begins with @, % or a backquote in quotes",
		"excludes:\n- a\n- *.pid\n- c":                                "line 3: a * or & without a name after it: put a text that begins with one in quotes",
		"excludes:\n- a\n- *secret\n- c":                              "line 3: an alias (*) without its anchor (&) above it: put a text that begins with * in quotes",
		"src: a\ndest: b: c\n":                                        `line 2: a ": " is not allowed here: put a text with ": " in it in quotes, or check the indentation`,
		"src: a\ncommands:\n  pre:\n  - a\n  post: 'b' c\n":           "line 5: text after a closing quote: put the whole text in one pair of quotes",
		"commands:\n  pre:\n  - echo a\n  - [ -f x ] && echo hi\n":    "line 4: text after a ] or }: put a text that begins with [ or { in quotes",
		"commands:\n  pre:\n  - echo a\n  - \"a\" && b\n":             "line 4: text after a closing quote: put the whole text in one pair of quotes",
		"commands:\n  pre:\n  - it's: 'x'\n":                          `line 3: commands.pre has a map where a command should be: put a command with ": " in it in quotes, as - 'it''s: x'`,
		"dest: /d\nexcludes: '*.pid'\n":                               "line 2: excludes is a text, expected a list: write - '*.pid' on a line of its own",
		"commands:\n  pre:\n  - | grep x\n":                           "line 3: a | or > with a text after it: put a text that begins with one in quotes",
		"src: a\nb\ndest: c\n":                                        `line 2: expected a key with ":" after it`,
		"src: a\ndest: 'b\nc: d\n":                                    "line 2: a quote that is opened is never closed",
		"src: a\n\x01":                                                "line 2: characters that are not text (is it a manifest at all?)",
		"src: [":                                                      "line 1: a [ or { is never closed, or a text in it needs quotes",
		strings.Repeat("a: b\n", 20000) + "c: d: e":                   `line 20001: a ": " is not allowed here: put a text with ": " in it in quotes, or check the indentation`,
		"excludes: [" + strings.Repeat("[a],\n", 50) + "]":            "",
	} {
		_, _, err := decode(in)
		if err == nil {
			t.Errorf("%q: no error", in)
		} else if want == "" {
			if got := err.Error(); strings.Count(got, "; ") != maxReport || !strings.HasSuffix(got, "; and 40 more problems") {
				t.Errorf("50 problems: got %s", got)
			}
		} else if err.Error() != want {
			t.Errorf("%.200q:\ngot      %v,\nexpected %s", in, err, want)
		}
	}
}

// TestBombs decodes documents of up to 1 MiB, the limit of a manifest, that take
// long if each alias is expanded.
func TestBombs(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	fill := func(head, line string) string {
		return head + strings.Repeat(line, (size-len(head))/len(line))
	}
	var merges, lists strings.Builder
	merges.WriteString("x0: &x0 {src: a}\n")
	lists.WriteString("x0: &x0 [a]\n")
	for i := 1; i < 26; i++ {
		this, last := string(rune('a'+i)), string(rune('a'+i-1))
		if i == 1 {
			last = "x0"
		}
		merges.WriteString(this + ": &" + this + " {<<: [" + strings.Repeat("*"+last+",", 9) + "]}\n")
		lists.WriteString(this + ": &" + this + " [" + strings.Repeat("*"+last+",", 9) + "]\n")
	}
	for name, in := range map[string]string{
		"merges":             merges.String() + "<<: *z",
		"lists":              lists.String() + "excludes: *z",
		"items":              fill("x-a: &a "+strings.Repeat("a", size/2)+"\nexcludes:\n", "- *a\n"),
		"binary":             fill("x-a: &a !!binary "+strings.Repeat("YWFh", size/8)+"\nexcludes:\n", "- *a\n"),
		"invalid binary":     fill("x-a: &a !!binary "+strings.Repeat("YWFh", size/8)+"%\nexcludes:\n", "- *a\n"),
		"merged list":        fill("x-a: &a {}\nx-l: &l ["+strings.Repeat("*a,", size/6)+"]\n", "<<: *l\n"),
		"merge keys":         fill("x-a: &a {}\n", "<<: *a\n"),
		"unknown keys":       fill("", "a-long-name-that-is-not-the-name-of-any: \n"),
		"distinct keys":      fill("x: 1", "\n? \n: "),
		"duplicate keys":     fill("", "src: a\n"),
		"long line":          "# \u00e9\nexcludes: [\u00e9" + strings.Repeat(",a", size/2-20) + "]",
		"wrong items":        fill("excludes:\n", "- []\n"),
		"wrong aliases":      fill("x-a: &a []\nexcludes:\n", "- *a\n"),
		"depth":              fill("src: ", "["),
		"nested merges":      "<<: " + strings.Repeat("{<<: ", 4000) + "{src: a}" + strings.Repeat("}", 4000),
		"syntax error":       fill("", "a: b # c\n") + "c: d: e",
		"short syntax error": strings.Repeat("a: b # c\n", maxSearch/9) + "c: d: e",
		"comments":           fill("src: a\n", "#\n"),
	} {
		start := time.Now()
		_, _, err := decode(in)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %v", name, took)
		} else {
			t.Logf("%s: %v", name, took)
		}
		if err != nil && len(err.Error()) > 4000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// TestNoLeak decodes texts of the kinds that an event could name instead of a
// manifest.
func TestNoLeak(t *testing.T) {
	t.Parallel()
	texts := map[string]string{
		"shadow":     "root:$6$Zx81kLqv$VbR.ab12Qe:19000:0:99999:7:::\ndaemon:*:18858:0:99999:7:::\nbin:!:18858::::::\n",
		"ini":        "[default]\naws_access_key_id = AKIAQWERTYUIOPASDFGH\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n",
		"pem":        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAx1Yz\nQkFzZTY0U2VjcmV0\n-----END RSA PRIVATE KEY-----\n",
		"netrc":      "machine example.net login alice password Tr0ub4dor&3\n",
		"htpasswd":   "alice:$apr1$W5ijvFRb$abc: x\nbob: {SHA}qvTGHdzF6KLavt4PO0gs2a6pQ00=\n",
		"properties": "db.password.of.alice: hunter22secret\nsrc: [hunter33secret]\ncommands: hunter44secret\nexcludes: {hunter55 secret: x}\n",
		"json":       `{"auths": {"registry.example.net": {"auth": "YWxpY2U6c2VjcmV0"}}, "commands": ["b3RoZXJzZWNyZXQ"], "pre": [{"token of bob": 1}]}`,
		"aliases":    "src: *hunter22secret\n",
		"anchors":    "src: &hunter22secret [*hunter22secret]\n",
		"tags":       "src: !hunter22secret!x y\n",
		"tag":        "src: !!hunter22secret y\ndest: !hunter33secret [a]\n",
		"binary":     "src: !!binary hunter22secret%\n",
		"escapes":    "src: \"\\hunter22secret\"\n",
		"directive":  "%hunter22secret x\n---\nsrc: a\n",
		"tabs":       "alice\n\thunter22secret\n",
		"keys":       "? hunter22 secret\n: a\n? [hunter33secret]\n: b\n<<: hunter44secret\nsrc: a\n? hunter22 secret\n",
		"documents":  "src: a\n---\nhunter22secret: [\n",
		"ELF":        "\x7fELF\x02\x01\x01 hunter22secret",
	}
	for _, pattern := range []string{"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/*.conf", "/etc/*/*.conf", "/proc/meminfo", "/proc/self/status"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && len(data) < 1<<20 {
				texts[name] = string(data)
			}
		}
	}
	for name, in := range texts {
		_, warnings, err := decode(in)
		report := warnings
		if err != nil {
			report = strings.TrimPrefix(warnings+"; "+err.Error(), "; ")
		}
		checkReport(t, name, report)
		// What checkReport allows as text of the program should not be content
		// by chance: look for these values in particular.
		for _, secret := range []string{"hunter", "secret", "alice", "$6$", "AKIA", "MIIE", "Tr0ub", "qvTG", "YWxp", "b3Ro", "token of"} {
			if strings.Contains(in, secret) && strings.Contains(report, secret) {
				t.Errorf("%s: %q is in: %s", name, secret, report)
			}
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	const in = "# a\nsrc:\n  a\ncommands:\n  pre:\n  - a\n\n  - [b]\n  env:\n    A: b\n    C.D: [e]\nexcludes: &e [a,\n b]\ndest: [c]\n<<: {checksum: *e}\n"
	var list []string
	var variables map[string]string
	r := Decode([]byte(in), []Field{
		{Name: "src", To: new(string)}, {Name: "checksum", To: &list}, {Name: "dest", To: new(string)}, {Name: "excludes", To: &list},
		{Name: "commands", To: []Field{{Name: "pre", To: &list}, {Name: "post", To: &list}, {Name: "env", To: &variables}}},
	})
	for _, test := range []struct {
		path  string
		item  []int
		wrong bool
		line  int
	}{
		{"src", nil, false, 3},
		{"commands", nil, true, 4},
		{"commands.pre", nil, true, 5},
		{"commands.pre", []int{0}, true, 6},
		{"commands.pre", []int{1}, true, 8},
		{"commands.pre", []int{2}, true, 5},
		{"commands.post", nil, false, 4},
		{"commands.env.A", nil, false, 10},
		{"commands.env.C.D", nil, false, 11},
		{"commands.env.E", nil, false, 9},
		{"excludes", []int{1}, false, 13},
		{"checksum", []int{0}, false, 12},
		{"dest", nil, true, 14},
		{"no_such", nil, false, 2},
		{"", nil, false, 2},
	} {
		if got := r.Line(test.path, test.item...); got != test.line || r.Wrong(test.path) != test.wrong {
			t.Errorf("%s %v: line %d, wrong %t, expected %+v", test.path, test.item, got, r.Wrong(test.path), test)
		}
	}
	if not := Decode([]byte("\na: ["), nil); !not.Wrong("") || not.Line("") != 1 {
		t.Error("a document that cannot be parsed is not wrong at line 1")
	}
	r.Renumber(func(line int) int { return 10 * line })
	if r.Line("commands.pre", 1) != 80 || r.Problems[0].Line != 80 {
		t.Errorf("renumbered: %d and %v", r.Line("commands.pre", 1), r.Problems)
	}
}
