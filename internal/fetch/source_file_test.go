package fetch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFileURLs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, test := range []struct{ url, name string }{
		{"file://DIR/plain", "plain"},
		{"FILE://DIR/plain", "plain"},
		{"file://localhostDIR/plain", "plain"},
		{"file://DIR/a b", "a b"},
		{"file://DIR/a%20b", "a b"},
		{"file://DIR/größe", "größe"},
		{"file://DIR/gr%C3%B6%C3%9Fe", "größe"},
		{"file://DIR/a+b%2Bc", "a+b+c"},
		{"file:DIR/plain", "plain"},
		{"File:DIR/a%20b", "a b"},
		{"file://DIR/plain?a=b", "plain"},
		{"file://DIR/plain#a?b", "plain"},
		{"file:DIR/plain?a#b", "plain"},
		{"file://DIR/a%23b%3Fc", "a#b?c"},
		{"file://DIR/100%", "100%"},
		{"file://DIR/./plain", "plain"},
	} {
		if err := os.WriteFile(filepath.Join(dir, test.name), []byte(test.name), 0o644); err != nil {
			t.Fatal(err)
		}
		got, logged, err := download(t, Options{}, strings.Replace(test.url, "DIR", dir, 1))
		if err != nil || string(got) != test.name {
			t.Errorf("%s: got %q, %v", test.url, got, err)
		}
		if ignored := strings.Contains(logged, "[WARN]"); ignored != strings.ContainsAny(test.url, "?#") {
			t.Errorf("%s: log:\n%s", test.url, logged)
		}
	}
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url, want string
		retried   bool
	}{
		{"file://DIR/missing", "fetch file://DIR/missing: no such file or directory (given up after 3 attempts)", true},
		{"file://DIR", "fetch file://DIR: not a regular file", false},
		{"file://DIR/fifo", "fetch file://DIR/fifo: not a regular file", false},
		{"file:///dev/zero", "fetch file:///dev/zero: not a regular file", false},
		{"file://DIR/file/below", "fetch file://DIR/file/below: not a directory", false},
		{"file://host/path", "file://host/path: expected an absolute path, as in file:///path", false},
		{"file://path", "file://path: expected an absolute path, as in file:///path", false},
		{"file://", "file://: expected an absolute path, as in file:///path", false},
		{"file:///a%00b", "file:///a%00b: the path has a NUL byte", false},
	} {
		_, logged, err := download(t, quick(2), strings.Replace(test.url, "DIR", dir, 1))
		if want := strings.ReplaceAll(test.want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", test.url, err, want)
		}
		if retried := strings.Contains(logged, "attempt"); retried != test.retried {
			t.Errorf("%s: retried is %v", test.url, retried)
		}
	}
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() == 0 {
			t.Skip("root may read any file")
		}
		path := writeFile(t, nil)
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		_, logged, err := download(t, quick(2), "file://"+path)
		if err == nil || !strings.Contains(err.Error(), "permission denied") || strings.Contains(logged, "attempt") {
			t.Errorf("error %v\n%s", err, logged)
		}
	})
}

func TestFileThatComesLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "later")
	record := &recorder{hook: func(line string) {
		if strings.Contains(line, "attempt 2 of 4 failed") {
			if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
				t.Error(err)
			}
		}
	}}
	got, logged, err := download(t, quick(3).logTo(record), "file://"+path)
	if err != nil || string(got) != "content" {
		t.Errorf("got %q, %v\n%s", got, err, logged)
	}
}

// TestFileChanged changes a file between its first bytes and its end.
func TestFileChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"written to": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("other content"), 0o644), os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
		},
		"appended to": func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		},
		"truncated": func(path string) error { return os.Truncate(path, 5) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, []byte("some content."))
			s, err := newSource("file://"+path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			o, err := s.open(t.Context(), 0, -1, "")
			if err != nil {
				t.Fatal(err)
			}
			defer o.body.Close()
			if _, err := io.ReadFull(o.body, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(o.body); err != errChanged {
				t.Errorf("reading on: error %v", err)
			}
			if _, err := s.open(t.Context(), 5, -1, o.validator); err != errChanged {
				t.Errorf("opening again: error %v", err)
			}
		})
	}
	t.Run("replaced", func(t *testing.T) { // what is open stays as it is
		t.Parallel()
		path := writeFile(t, []byte("some content."))
		s := fileSource{path}
		o, err := s.open(t.Context(), 5, 4, "")
		if err != nil {
			t.Fatal(err)
		}
		defer o.body.Close()
		if err := os.Rename(writeFile(t, []byte("other content")), path); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(o.body); err != nil || string(got) != "cont" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}
