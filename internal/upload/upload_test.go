package upload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/fetch"
)

func TestNewPrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ prefix, url, err string }{
		{"s3://bucket", "s3://bucket/a%20b.yml", ""},
		{"s3://bucket/app//", "s3://bucket/app/a%20b.yml", ""},
		{"gs://bucket/app/", "gs://bucket/app/a%20b.yml", ""},
		{"file:///srv/a%20b", "file:///srv/a%20b/a%20b.yml", ""},
		{"https://user:s3cret@example.com/app", "", "cannot upload by https: give the URL of a bucket"},
		{"HTTP://example.com", "", "cannot upload by http: "},
		{"ftp://example.com/app", "", "ftp"},
		{"s3://bucket/app?versionId=1", "", "without ? and #: write %3F"},
		{"file:///srv/100%", "", "write %25 for a percent sign"},
		{"s3://", "", "expected a prefix"},
		{"", "", "expected a prefix"},
		{"app", "", "expected a prefix"},
		{"file://host/srv", "", "expected an absolute path"},
	} {
		p, err := NewPrefix(test.prefix)
		if test.err == "" {
			if err != nil || p.URL("a b.yml") != test.url {
				t.Errorf("%s: %s, %v", test.prefix, p.URL("a b.yml"), err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", test.prefix, err)
		}
	}
}

// FuzzPrefix looks for prefixes and names that are not stored under the prefix by
// their name.
func FuzzPrefix(f *testing.F) {
	f.Add("/srv/app", "app.yml")
	f.Add("/srv/a%20b/", "ü %2f#?.yml")
	f.Fuzz(func(t *testing.T, dir, name string) {
		p, err := NewPrefix("file://" + dir)
		if err != nil || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return
		}
		under, err := fetch.NewPlace(p.URL(name), fetch.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(under.Path) != name {
			t.Errorf("%q under %q is stored as %q", name, dir, under.Path)
		}
	})
}

// A file is complete or not there, and nothing else stays, whatever fails.
func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	store := filepath.Join(dir, "a", "store")
	to := file(filepath.Join(store, "to"))
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	var sent int64
	count := func(n int64) { sent += n }
	if err := to.put(cancelled, f, 7, count); err == nil || err.Error() != "interrupted" {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := to.size(t.Context()); err != errMissing {
		t.Errorf("after that: %v", err)
	}
	if err := to.put(t.Context(), f, 8, count); err == nil || err.Error() != "the file has become shorter while it was read, 7 of 8 bytes" {
		t.Errorf("too short: %v", err)
	}
	if _, err := to.size(t.Context()); err != errMissing {
		t.Errorf("after that: %v", err)
	}
	sent = 0
	if err := to.put(t.Context(), f, 7, count); err != nil || sent != 7 {
		t.Errorf("%d bytes are sent: %v", sent, err)
	}
	if err := to.put(t.Context(), f, 3, count); !errors.Is(err, errExists) {
		t.Errorf("a second time: %v", err)
	}
	if text, err := os.ReadFile(string(to)); err != nil || string(text) != "content" {
		t.Errorf("%q, %v", text, err)
	}
	if list, err := os.ReadDir(store); err != nil || len(list) != 1 {
		t.Errorf("the store has %v, %v", list, err)
	}
	if _, err := file(store).size(t.Context()); err == nil || errors.Is(err, errMissing) {
		t.Errorf("a directory: %v", err)
	}
}
