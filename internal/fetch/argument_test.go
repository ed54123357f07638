package fetch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestArgumentURL(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"s3://bucket/key":                "s3://bucket/key",
		"HTTPS://h/app.yml?a=b":          "HTTPS://h/app.yml?a=b",
		" http://h/app.yml\r\n":          "http://h/app.yml",
		"file:/srv/app.yml":              "file:/srv/app.yml",
		"file:///no/such/100%":           "file:///no/such/100%",
		"/dev/null/x":                    "not a directory",
		t.TempDir():                      "not a regular file",
		"/dev/null":                      "not a regular file",
		"":                               `"" is neither a URL`,
		"\x00":                           `"\x00" is neither a URL`,
		"s3://b/1\ns3://b/2?sig=s3cret":  `"s3://b/1\ns3://b/2?sig=REDACTED" is neither a URL`,
		"http:/h/app.yml":                `"http:/h/app.yml" is neither a URL`,
		"://h/app.yml":                   `unknown scheme ""`,
		"ftp://u:s3cret@h/?token=s3cret": `unknown scheme "ftp"`,
		"u:s3cret@h/?next=http://h":      `"u:REDACTED@h/?next=http://h" is neither a URL`,
		"h/app.yml?token=s3cret":         `"h/app.yml?token=REDACTED" is neither a URL`,
	} {
		got, err := ArgumentURL(arg)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("%q: got %s, want %s", arg, got, want)
		}
	}
}

// The URL of a file names this file, whatever bytes its name has.
func FuzzArgumentURL(f *testing.F) {
	for _, name := range []string{"app.yml", "a b", "100%", "%41", "a?b#c", "\xff\xfe", "\n", "a:b", "ümläut", " app"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path := t.TempDir() + "/" + name
		if strings.ContainsAny(name, "/\x00") || os.WriteFile(path, nil, 0o644) != nil {
			t.Skip("not the name of a file")
		}
		url, err := ArgumentURL(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(url, func(c rune) bool { return c <= ' ' || c > '~' }) {
			t.Errorf("the URL is %q", url)
		}
		if s, err := newSource(url, Options{}); err != nil || s != (fileSource{path}) {
			t.Errorf("%q: the source of %s is %+v, %v", path, url, s, err)
		}
	})
}

// Relative paths are those of the current directory, and ".." is the parent that the
// kernel finds.
func TestArgumentURLRelative(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "real", "inner"), 0o755)
	}
	if err == nil {
		err = os.Symlink("real/inner", filepath.Join(dir, "link"))
	}
	for _, name := range []string{"app.yml", "real/app.yml"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for arg, want := range map[string]string{
		"app.yml":            "/app.yml",
		"./app.yml":          "/app.yml",
		"real//app.yml":      "/real/app.yml",
		"link/../app.yml":    "/real/app.yml",
		"real/../app.yml":    "/app.yml",
		"link/../../app.yml": "/app.yml",
	} {
		if got, err := ArgumentURL(arg); err != nil || got != "file://"+dir+want {
			t.Errorf("%s: got %s, %v", arg, got, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := ArgumentURL("app.yml"); err == nil || errors.Is(err, fs.ErrInvalid) {
		t.Errorf("in a directory that is gone: error %v", err)
	}
}
