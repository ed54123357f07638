package destlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// traces describes a directory for lock files and what is in it.
func traces(t *testing.T, dir string) string {
	t.Helper()
	text := ""
	for _, name := range append(tartest.NamesIn(t, dir), ".") {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("%s %d %v %v\n", name, st.Ino, st.Mtim, st.Ctim)
	}
	return text
}

// Wait waits for a deployment that runs, and leaves no trace: neither a directory
// for lock files nor a file, and what a killed run left stays.
func TestWait(t *testing.T) {
	dest, directories := place(t)
	logged := logOf(func() {
		if err := wait(t.Context(), dest, directories); err != nil {
			t.Fatal(err)
		}
	}, func(string) {})
	if _, err := os.Lstat(directories[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory for lock files was made: %v", err)
	}
	if logged != "" {
		t.Errorf("logged %q", logged)
	}

	l := mustAcquire(t, dest, directories)
	before := traces(t, directories[0])
	if busy, err := running(dest, directories); !busy || err != nil {
		t.Errorf("running: %v, %v", busy, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	logged = logOf(func() {
		if err := wait(ctx, dest, directories); !errors.Is(err, stop) || !strings.HasPrefix(err.Error(), "lock "+dest+": waiting for pid ") {
			t.Errorf("got error %v", err)
		}
	}, func(string) { cancel(stop) })
	if !strings.HasPrefix(logged, "waiting for another deployment to "+dest+": pid ") {
		t.Errorf("logged %q", logged)
	}
	if after := traces(t, directories[0]); after != before {
		t.Errorf("changed:\n%s\n%s", before, after)
	}

	waited := make(chan error, 1)
	logOf(func() {
		go func() { waited <- wait(t.Context(), dest, directories) }()
		select {
		case err := <-waited:
			t.Errorf("did not wait: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		l.Release()
		if err := <-waited; err != nil {
			t.Error(err)
		}
	}, func(string) {})

	// What a killed run left is not a lock.
	if err := os.WriteFile(filepath.Join(directories[0], fileName("path "+dest)), []byte("1 2006-01-02\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before = traces(t, directories[0])
	if busy, err := running(dest, directories); busy || err != nil {
		t.Errorf("running: %v, %v", busy, err)
	}
	if err := wait(t.Context(), dest, directories); err != nil {
		t.Error(err)
	}
	if after := traces(t, directories[0]); after != before {
		t.Errorf("changed:\n%s\n%s", before, after)
	}
}
