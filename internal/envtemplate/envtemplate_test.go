package envtemplate

import (
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	t.Setenv("COLOUR", "green")
	t.Setenv("EMPTY", "")
	t.Setenv("BRACES", `{{ env "COLOUR" }}`)
	for in, want := range map[string]string{
		`{{ env "COLOUR" }}`:               "green",
		`{{env "COLOUR"}}{{env "COLOUR"}}`: "greengreen",
		"{{\tenv  `COLOUR` \n}}":           "green",
		`{{ env "COLOUR" "red" }}`:         "green",
		`{{ env "NO_SUCH_COLOUR" "red" }}`: "red",
		`{{ env "EMPTY" "red" }}`:          "red",
		`{{ env "NO_SUCH_COLOUR" }}`:       "",
		`{{ env "X_UNSET" "a \"b\" é" }}`:  `a "b" é`,
		`{{ must_env "COLOUR" }}`:          "green",
		`{{ must_env "EMPTY" }}`:           "",
		`{{ env "BRACES" }}`:               `{{ env "COLOUR" }}`, // once is enough
	} {
		if got, err := Expand([]byte(in)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, expected %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		`docker ps --format '{{.Names}}'`, `{{ .env "COLOUR" }}`, `{{ env COLOUR }}`, `{{ env 'COLOUR' }}`, `{{ env }}`, `{{ must_env }}`,
		`{{ envy "COLOUR" }}`, `{{ env"COLOUR" }}`, `{{ must_env "COLOUR" "red" }}`, `{ { env "COLOUR" } }`, `{{ env "COLOUR" | upper }}`, `{{ env "\z" }}`,
	} {
		if got, err := Expand([]byte(in)); err != nil || string(got) != in {
			t.Errorf("%s: became %q, %v", in, got, err)
		}
	}
	_, err := Expand([]byte(`{{ must_env "NO_SUCH_B" }} {{ must_env "NO_SUCH_A" }} {{ must_env "NO_SUCH_B" }} {{ must_env "COLOUR" }}`))
	if want := "must_env: NO_SUCH_B, NO_SUCH_A not set in the environment of the agent"; err == nil || err.Error() != want {
		t.Errorf("got error %v, expected %s", err, want)
	}
}

func FuzzExpand(f *testing.F) {
	f.Add(`a {{ env "STRETCHER_FUZZ" "default" }} b {{ must_env "PATH" }} {{.Names}}`)
	f.Add("{{ env `A` \"\\u00e9\" }} {{ env \"\\q\" }}")
	f.Fuzz(func(t *testing.T, in string) {
		out, err := Expand([]byte(in))
		if err != nil {
			if !strings.Contains(in, "must_env") {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		// The text between references stays.
		rest := string(out)
		for _, text := range reference.Split(in, -1) {
			var ok bool
			if _, rest, ok = strings.Cut(rest, text); !ok {
				t.Fatalf("%q became %q, without %q", in, out, text)
			}
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
