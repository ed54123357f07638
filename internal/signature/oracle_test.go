package signature

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oracle runs minisign(1) in a directory of the test.
type oracle struct {
	t   *testing.T
	dir string
}

func newOracle(t *testing.T) oracle {
	t.Helper()
	if _, err := exec.LookPath("minisign"); err != nil {
		t.Skip("minisign is not installed")
	}
	return oracle{t, t.TempDir()}
}

func (o oracle) run(args ...string) (string, error) {
	cmd := exec.Command("minisign", args...)
	cmd.Dir = o.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (o oracle) must(args ...string) string {
	o.t.Helper()
	out, err := o.run(args...)
	if err != nil {
		o.t.Fatalf("minisign %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (o oracle) path(name string) string { return filepath.Join(o.dir, name) }

func (o oracle) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o oracle) read(name string) string {
	o.t.Helper()
	text, err := os.ReadFile(o.path(name))
	if err != nil {
		o.t.Fatal(err)
	}
	return string(text)
}

// What minisign(1) has signed is accepted, and what it does not accept is refused.
// In two cases, its own rules are laxer or stricter.
func TestOracle(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	for _, key := range []string{"a", "b"} {
		o.must("-G", "-W", "-p", key+".pub", "-s", key+".key")
	}
	o.write("app.yml", message)
	for mode, flags := range map[string][]string{"prehashed": nil, "legacy": {"-l"}} {
		o.must(append([]string{"-S", "-s", "a.key", "-m", "app.yml", "-t", "release 1 ü"}, flags...)...)
		signature := o.read("app.yml.minisig")
		o.must(append([]string{"-S", "-s", "a.key", "-m", "app.yml", "-t", "another"}, flags...)...)
		another := o.read("app.yml.minisig")
		lines, others := strings.SplitAfter(signature, "\n"), strings.SplitAfter(another, "\n")
		key := o.read("a.pub")
		crlf := strings.NewReplacer("\n", "\r\n")
		for name, test := range map[string]struct {
			key, message, signature string
			ours                    string // "" where both agree
		}{
			"plain":                        {key, message, signature, ""},
			"other key":                    {o.read("b.pub"), message, signature, ""},
			"changed byte":                 {key, strings.Replace(message, "app", "apq", 1), signature, ""},
			"added newline":                {key, message + "\n", signature, ""},
			"without CR":                   {key, strings.ReplaceAll(message, "\r", ""), signature, ""},
			"empty message":                {key, "", signature, ""},
			"changed trusted comment":      {key, message, strings.Replace(signature, "release 1", "release 2", 1), ""},
			"trusted comment of another":   {key, message, lines[0] + lines[1] + others[2] + lines[3], ""},
			"comment, signature as before": {key, message, others[0] + others[1] + lines[2] + lines[3], ""},
			"changed untrusted comment":    {key, message, strings.Replace(signature, "signature from", "anything by", 1), ""},
			"no untrusted comment":         {key, message, lines[1] + lines[2] + lines[3], ""},
			"CRLF":                         {key, message, crlf.Replace(signature), ""},
			"no last newline":              {key, message, strings.TrimSpace(signature), ""},
			"cut off in the comment":       {key, message, lines[0] + lines[1] + lines[2][:10], ""},
			"cut off in the signature":     {key, message, signature[:100], ""},
			"without the last line":        {key, message, lines[0] + lines[1] + lines[2], ""},
			"without two lines":            {key, message, lines[0] + lines[1], ""},
			"empty signature":              {key, message, "", ""},
			"key with CRLF":                {crlf.Replace(key), message, signature, ""},
			"key without last newline":     {strings.TrimSpace(key), message, signature, ""},
			"cut off key":                  {key[:len(key)-9], message, signature, ""},
			// minisign(1) accepts this line as an argument, of -P.
			"only the line of the key": {strings.SplitAfter(key, "\n")[1], message, signature, "accepted"},
			// It does not read on after the fourth line.
			"more lines": {key, message, signature + "junk\n", "refused"},
		} {
			o.write("test.pub", test.key)
			o.write("test.yml", test.message)
			o.write("test.yml.minisig", test.signature)
			out, err := o.run("-V", "-p", "test.pub", "-m", "test.yml")
			keys, ours := ReadKeys([]string{o.path("test.pub")})
			comment, id := "", ""
			if ours == nil {
				id, comment, ours = keys.Verify([]byte(test.message), []byte(test.signature))
			}
			want := err == nil
			if test.ours != "" {
				if want = !want; want != (test.ours == "accepted") {
					t.Errorf("%s, %s: minisign has changed: %v: %s", mode, name, err, out)
				}
			}
			if want != (ours == nil) {
				t.Errorf("%s, %s: %v; minisign: %v: %s", mode, name, ours, err, out)
			}
			if ours == nil && (comment != "release 1 ü" && comment != "another" || !strings.Contains(key, "minisign public key "+id+"\n")) {
				t.Errorf("%s, %s: key %s, comment %q", mode, name, id, comment)
			}
			if name == "other key" && (ours == nil || !strings.Contains(out, "is "+strings.TrimSuffix(strings.Fields(ours.Error())[3], ","))) {
				t.Errorf("%s: %v; minisign: %s", mode, ours, out)
			}
		}
	}
}
