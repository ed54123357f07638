package rsyncoutput

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseItem(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]item{
		"@>f+++++++++ 12 a b":             {">f+++++++++", 12, "a b", false},
		"@*deleting   0 d/":               {"*deleting", 0, "d", true},
		"@.d          4096 ./":            {".d", 4096, ".", true},
		"@cL+++++++++ 1  leading":         {"cL+++++++++", 1, " leading", false},
		`@.f..t...... 3 nl\#012\#134#012`: {".f..t......", 3, "nl\n\\#012", false},
		`@.f..t...... 3 \#400\#1\#`:       {".f..t......", 3, `\#400\#1\#`, false},
	} {
		if got, ok := parseItem(line); !ok || got != want {
			t.Errorf("%q: got %+v, %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "@", "@>f+++++++++ 12 ", "@>f+++++++++ 12", "@>f+++++++++ x a", "@>f+++++++++ -1 a", ">f+++++++++ 12 a", "@ab+++++++++ 1 a", "@>f+++++++++12 a b", "@>f+++++++++ 1 /"} {
		if got, ok := parseItem(line); ok {
			t.Errorf("%q: got %+v", line, got)
		}
	}
}

func FuzzParseItem(f *testing.F) {
	f.Add(`@>f+++++++++ 12 a\#012b`)
	f.Add("@*deleting   0 d/")
	f.Add("@>f+++++++++ 1 /x")
	f.Fuzz(func(t *testing.T, line string) {
		i, ok := parseItem(line)
		if !ok {
			return
		}
		if i.path == "" || i.size < 0 || len(i.flags) < 2 {
			t.Errorf("%q: got %+v", line, i)
		}
		i.change("/no/such", "/no/such")
	})
}

// What rsync prints in a dry run is kept, and its messages are passed on.
func TestChanges(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("rsync is not installed")
	}
	base := t.TempDir()
	script := `set -e; umask 022; mkdir -p from/dir to/dir to/gone/sub to/kept to/type
touch -d @1000000000 from/same to/same from/mode to/mode from/time; touch -d @1000000001 to/time; chmod 600 from/mode
echo new > from/contents; echo older > to/contents; ln -s a from/link; ln -s b to/link; echo x > from/type; touch to/type/x
echo x > "from/new
line"; echo x > to/gone/sub/x; mkdir from/was-link; echo x > from/was-link/same; ln -s . to/was-link; touch to/kept/x.pid; touch -d @1000000000 from/dir to/dir from; touch -d @1000000001 to; touch -d @1000000002 from/contents; touch -h -d @1000000000 from/link to/link`
	for _, verbose := range [][]string{nil, {"-v"}, {"-vv"}, {"-vvv"}} {
		dir := filepath.Join(base, fmt.Sprint(verbose))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		setUp := exec.Command("sh", "-c", script)
		setUp.Dir = dir
		if out, err := setUp.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var shown strings.Builder
		o := New(&shown, true)
		o.KeepItems()
		rsync := exec.Command("rsync", slices.Concat([]string{"-a", "--delete"}, DryRun, verbose, []string{"--exclude=*.pid", "--stats", "from/", "to/"})...)
		rsync.Dir, rsync.Stdout, rsync.Stderr = dir, o, o
		if err := rsync.Run(); err != nil {
			t.Fatal(err, shown.String())
		}
		o.Close()
		var got []string
		for _, i := range o.Changes(filepath.Join(dir, "from"), filepath.Join(dir, "to")) {
			got = append(got, i.String())
		}
		want := []string{"would change ./: time", "would change contents: contents, time", "would delete gone/", "would delete gone/sub/", "would delete gone/sub/x",
			"would change link: target", "would change mode: mode 0644 -> 0600", `would create new\nline`, "would change time: copied, time",
			"would change type: type directory -> file", "would delete type/x",
			"would change was-link/: type symlink -> directory", "would create was-link/same"}
		if got, want := strings.Join(got, "\n"), strings.Join(want, "\n"); got != want {
			t.Errorf("%q: got\n%s\nexpected\n%s", verbose, got, want)
		}
		if len(verbose) == 0 || verbose[0] == "-v" {
			if shown.String() != "cannot delete non-empty directory: kept\n" {
				t.Errorf("%q: showed %q", verbose, shown.String())
			}
		}
	}
}
