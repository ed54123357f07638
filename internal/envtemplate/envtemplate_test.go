package envtemplate

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"
)

func TestExpand(t *testing.T) {
	t.Setenv("COLOUR", "green")
	t.Setenv("EMPTY", "")
	t.Setenv("QUOTED", "say \"hi\"\n\\")
	t.Setenv("BRACES", `{{ env "COLOUR" }}`)
	for in, want := range map[string]string{
		`{{ env "COLOUR" }}`:                         "green",
		`{{env "COLOUR"}}{{env "COLOUR"}}`:           "greengreen",
		"{{\tenv  `COLOUR` \n}}":                     "green",
		`{{ env "COLOUR" "red" }}`:                   "green",
		`{{ env "NO_SUCH_COLOUR" "red" }}`:           "red",
		`{{ env "EMPTY" "red" }}`:                    "red",
		`{{ env "NO_SUCH_COLOUR" }}`:                 "",
		`{{ env "X_UNSET" "a \"b\" é" }}`:            `a "b" é`,
		`{{ must_env "COLOUR" }}`:                    "green",
		`{{ must_env "EMPTY" }}`:                     "",
		`{{ env "BRACES" }}`:                         `{{ env "COLOUR" }}`, // once is enough
		`{{ env "X_UNSET" "EMPTY" "COLOUR" "red" }}`: "green",
		`{{ env "X_UNSET" "EMPTY" "red" }}`:          "red",
		`{{ env "X_UNSET" "COLOUR" }}`:               "green", // the default may be the name of a variable
		`{{ env "X_UNSET" "" }}`:                     "",
		`{{ must_env "QUOTED" | json_escape }}`:      `say \"hi\"\n\\`,
		`{{ env "X" "a\tb"|json_escape }}`:           `a\tb`,
		"a {{- env \"COLOUR\" }} b":                  "agreen b",
		"a \r\n\t{{-\nenv `COLOUR`\n-}}\n  b":        "agreenb",
		`a {{ env "COLOUR" -}} {{- env "COLOUR" }}`:  "a greengreen",
		`{{ must_env "QUOTED" | json_escape -}} ]`:   `say \"hi\"\n\\]`,
	} {
		if got := Expand([]byte(in)); got.Err() != nil || string(got.Text) != want {
			t.Errorf("%s: got %q, %v, expected %q", in, got.Text, got.Err(), want)
		}
	}
	err := Expand([]byte(`{{ must_env "NO_SUCH_B" }} {{ must_env "NO_SUCH_A" }} {{ must_env "NO_SUCH_B" }} {{ must_env "COLOUR" }}`)).Err()
	if want := "must_env: NO_SUCH_B, NO_SUCH_A not set in the environment of the agent"; err == nil || err.Error() != want {
		t.Errorf("got error %v, expected %s", err, want)
	}
}

// Templates of other programs stay as they are. Those that look like references are
// warned of, but not quoted.
func TestOtherTemplates(t *testing.T) {
	t.Parallel()
	for in, lines := range map[string]string{
		`docker ps --format '{{.Names}}'`: "", `{{ .env "COLOUR" }}`: "", `{{ envy "COLOUR" }}`: "", `{{ $env }}`: "", `{ { env "COLOUR" } }`: "",
		`{{ index .Config "env" }}`: "", `{{ "env x" }}`: "", `{{ 'a env b' }}`: "", `{{ .X }} env {{ .Y }}`: "", `${{ env.COLOUR }}`: "", `env "COLOUR"`: "", "{{\n.X env }}": "",
		`{{ env COLOUR }}`: "1", `{{ env 'COLOUR' }}`: "1", `{{ env }}`: "1", `{{env}}`: "1", "\n{{ must_env }}": "2", `{{ env"COLOUR" }}`: "1", `{{ env("COLOUR") }}`: "1",
		`{{ must_env "COLOUR" "red" }}`: "1", `{{ env "S3CR3T" "S3CR3T" | upper }}`: "1", `{{ env "\z" }}`: "1", `{{ (env "COLOUR") }}`: "1", `{{-env "COLOUR"}}`: "1", `{{ env "COLOUR"-}}`: "1",
		`{{ if eq "x" (env "COLOUR") }}`: "1", `{{ json_escape "S3CR3T" }}`: "1", "{{ env `a\nb` }}": "1", "{{ \n env X }}": "1", `{{ env "COLOUR" }`: "1", `{{ env "A" | json_escape | json_escape }}`: "1",
		"\n\n{{ env S3CR3T }} {{ env X }}\n{{ env }}":    "3, 4",
		strings.Repeat("{{ env S3CR3T }}\n", 12)[:12*17]: "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more",
	} {
		got := Expand([]byte(in))
		if string(got.Text) != in || got.Err() != nil {
			t.Errorf("%s: became %q, %v", in, got.Text, got.Err())
		}
		_, rest, _ := strings.Cut(got.Warning(), "line ")
		if at, _, _ := strings.Cut(rest, ": "); at != lines || strings.ContainsAny(got.Warning(), "\n") || strings.Contains(got.Warning(), "S3CR3T") {
			t.Errorf("%q: got %q, expected line %s", in, got.Warning(), lines)
		}
	}
}

// Lines are those of the manifest as it is stored.
func TestLines(t *testing.T) {
	t.Setenv("TWO_LINES", "x1\nx2")
	for _, test := range []struct {
		in, out string
		lines   []int // of the lines of out
		odd     []int
		missing []Reference
	}{
		{"a\n\n{{- env `TWO_LINES` -}}\n\n{{ env }}\nb", "ax1\nx2{{ env }}\nb", []int{1, 5, 6}, []int{5}, nil},
		{"a\n{{ env `TWO_LINES` }}\nb\nc", "a\nx1\nx2\nb\nc", []int{1, 2, 2, 3, 4}, nil, nil},
		{"a {{ env `TWO_LINES` }} {{ env `TWO_LINES` }}\nb", "a x1\nx2 x1\nx2\nb", []int{1, 1, 1, 2}, nil, nil},
		{"a\n b {{-\n\n must_env `NO_SUCH_A`\n}}\nc: {{ must_env \"NO_SUCH_B\" }}\n", "a\n bunset\nc: unset\n", []int{1, 2, 6, 7}, nil, []Reference{{4, "NO_SUCH_A"}, {6, "NO_SUCH_B"}}},
	} {
		got := Expand([]byte(test.in))
		if string(got.Text) != test.out || !slices.Equal(got.Odd, test.odd) || !slices.Equal(got.Missing, test.missing) {
			t.Errorf("%q: got %q, %v, %v, expected %+v", test.in, got.Text, got.Odd, got.Missing, test)
		}
		for i, want := range test.lines {
			if line := got.Line(i + 1); line != want {
				t.Errorf("%q: line %d comes from %d, expected %d", test.in, i+1, line, want)
			}
		}
	}
}

// checkLines fails if the lines of an expanded text do not ascend within those of
// the original.
func checkLines(t *testing.T, in string, r *Result) {
	t.Helper()
	last := 1
	for line := range bytes.Count(r.Text, newline) + 1 {
		from := r.Line(line + 1)
		if from < last || from > strings.Count(in, "\n")+1 {
			t.Fatalf("%q: line %d of %q comes from line %d, after line %d", in, line+1, r.Text, from, last)
		}
		last = from
	}
}

// A text whose only templates are references is expanded as text/template does it.
func FuzzExpand(f *testing.F) {
	f.Setenv("STRETCHER_FUZZ", " é<\n\"\\{{")
	f.Setenv("STRETCHER_EMPTY", "")
	f.Add(`a {{ env "STRETCHER_FUZZ" "default" }} b {{ must_env "STRETCHER_EMPTY" }}`)
	f.Add("\n{{- env `STRETCHER_EMPTY` \"\\u00e9\"|json_escape\t-}} \r\n {{must_env \"STRETCHER_FUZZ\" | json_escape}} {{ env \"\\q\" }}")
	f.Add(`{{ must_env "STRETCHER_NO_SUCH" }} {{ .X }} {{ env STRETCHER }} {{ if env "X" }}`)
	functions := template.FuncMap{
		"env":         func(names ...string) string { return env(names) },
		"json_escape": jsonEscape,
		"must_env": func(name string) (string, error) {
			value, ok := os.LookupEnv(name)
			if !ok {
				return "", errors.New("not set")
			}
			return value, nil
		},
	}
	f.Fuzz(func(t *testing.T, in string) {
		expanded := Expand([]byte(in))
		out, err := expanded.Text, expanded.Err()
		checkLines(t, in, expanded)
		for _, text := range reference().Split(in, -1) {
			if strings.Contains(text, "{{") || strings.HasSuffix(text, "{") {
				return
			}
		}
		for _, ref := range reference().FindAllStringSubmatch(in, -1) {
			if names, ok := unquote([]byte(ref[2])); !ok || ref[1] == "must_env" && len(names) > 1 {
				return
			}
		}
		parsed, parseErr := template.New("").Funcs(functions).Parse(in)
		if parseErr != nil {
			t.Fatalf("%q: got %q, %v, but text/template: %v", in, out, err, parseErr)
		}
		var want bytes.Buffer
		wantErr := parsed.Execute(&want, nil)
		if (err == nil) != (wantErr == nil) || err == nil && string(out) != want.String() {
			t.Errorf("%q: got %q, %v, expected %q, %v", in, out, err, &want, wantErr)
		}
	})
}

// The text may be any file of the host.
func TestNoLeak(t *testing.T) {
	t.Parallel()
	err := Expand([]byte("{{ must_env \"hunter2 s3cret\" }} {{ must_env \"STRETCHER_NO_SUCH\" }}")).Err()
	if want := "must_env: (not a name), STRETCHER_NO_SUCH not set in the environment of the agent"; err == nil || err.Error() != want {
		t.Errorf("got %v, expected %s", err, want)
	}
}
