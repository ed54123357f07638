package envtemplate

import (
	"bytes"
	"errors"
	"io"
	"log"
	"os"
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
		if got, err := Expand([]byte(in)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, expected %q", in, got, err, want)
		}
	}
	_, err := Expand([]byte(`{{ must_env "NO_SUCH_B" }} {{ must_env "NO_SUCH_A" }} {{ must_env "NO_SUCH_B" }} {{ must_env "COLOUR" }}`))
	if want := "must_env: NO_SUCH_B, NO_SUCH_A not set in the environment of the agent"; err == nil || err.Error() != want {
		t.Errorf("got error %v, expected %s", err, want)
	}
}

// Templates of other programs stay as they are. Those that look like references are
// logged, but not quoted.
func TestOtherTemplates(t *testing.T) {
	defer log.SetOutput(log.Writer())
	for in, lines := range map[string]string{
		`docker ps --format '{{.Names}}'`: "", `{{ .env "COLOUR" }}`: "", `{{ envy "COLOUR" }}`: "", `{{ $env }}`: "", `{ { env "COLOUR" } }`: "",
		`{{ index .Config "env" }}`: "", `{{ "env x" }}`: "", `{{ 'a env b' }}`: "", `{{ .X }} env {{ .Y }}`: "", `${{ env.COLOUR }}`: "", `env "COLOUR"`: "", "{{\n.X env }}": "",
		`{{ env COLOUR }}`: "1", `{{ env 'COLOUR' }}`: "1", `{{ env }}`: "1", `{{env}}`: "1", "\n{{ must_env }}": "2", `{{ env"COLOUR" }}`: "1", `{{ env("COLOUR") }}`: "1",
		`{{ must_env "COLOUR" "red" }}`: "1", `{{ env "S3CR3T" "S3CR3T" | upper }}`: "1", `{{ env "\z" }}`: "1", `{{ (env "COLOUR") }}`: "1", `{{-env "COLOUR"}}`: "1", `{{ env "COLOUR"-}}`: "1",
		`{{ if eq "x" (env "COLOUR") }}`: "1", `{{ json_escape "S3CR3T" }}`: "1", "{{ env `a\nb` }}": "1", "{{ \n env X }}": "1", `{{ env "COLOUR" }`: "1", `{{ env "A" | json_escape | json_escape }}`: "1",
		"\n\n{{ env S3CR3T }} {{ env X }}\n{{ env }}":    "3, 4",
		strings.Repeat("{{ env S3CR3T }}\n", 12)[:12*17]: "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more",
	} {
		var logged strings.Builder
		log.SetOutput(&logged)
		if got, err := Expand([]byte(in)); err != nil || string(got) != in {
			t.Errorf("%s: became %q, %v", in, got, err)
		}
		_, rest, _ := strings.Cut(logged.String(), "[WARN] manifest: line ")
		if got, _, _ := strings.Cut(rest, ": "); got != lines || strings.Contains(rest, "S3CR3T") || strings.Count(rest, "\n") > 1 {
			t.Errorf("%q: logged %q, expected line %s", in, logged.String(), lines)
		}
	}
	// Lines are counted in the manifest as it is stored.
	t.Setenv("TWO_LINES", "1\n2")
	var logged strings.Builder
	log.SetOutput(&logged)
	if _, err := Expand([]byte("a\n\n{{- env `TWO_LINES` -}}\n\n{{ env }}")); err != nil || !strings.Contains(logged.String(), "line 5: ") {
		t.Errorf("got error %v, logged %q", err, logged.String())
	}
}

// A text whose only templates are references is expanded as text/template does it.
func FuzzExpand(f *testing.F) {
	f.Setenv("STRETCHER_FUZZ", " é<\n\"\\{{")
	f.Setenv("STRETCHER_EMPTY", "")
	log.SetOutput(io.Discard)
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
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
		out, err := Expand([]byte(in))
		for _, text := range reference.Split(in, -1) {
			if strings.Contains(text, "{{") || strings.HasSuffix(text, "{") {
				return
			}
		}
		for _, ref := range reference.FindAllStringSubmatch(in, -1) {
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
	_, err := Expand([]byte("{{ must_env \"hunter2 s3cret\" }} {{ must_env \"STRETCHER_NO_SUCH\" }}"))
	if want := "must_env: (not a name), STRETCHER_NO_SUCH not set in the environment of the agent"; err == nil || err.Error() != want {
		t.Errorf("got %v, expected %s", err, want)
	}
}
