package stretcher

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// One at a time, also among the goroutines of one process.
func TestLockDest(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "dest")
	if err := os.Mkdir(dest, 0o777); err != nil {
		t.Fatal(err)
	}
	var holders, turns atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				l, err := lockDest(t.Context(), dest)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				turns.Add(1)
				holders.Add(-1)
				l.release()
			}
		})
	}
	wg.Wait()
	if n := turns.Load(); n != 80 {
		t.Errorf("%d had their turn, expected 80", n)
	}
}

func TestLockDestCancelled(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	held, err := lockDest(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	var waited error
	logged := logOf(func() {
		log.SetOutput(io.MultiWriter(log.Writer(), writerFunc(func() { cancel(stopped) })))
		_, waited = lockDest(ctx, dest)
	})
	if !errors.Is(waited, stopped) {
		t.Errorf("got error %v", waited)
	}
	if want := regexp.MustCompile(`^waiting for another deployment to ` + regexp.QuoteMeta(dest) + `: pid \d+, since 20\d\d-`); !want.MatchString(logged) {
		t.Errorf("logged %q", logged)
	}
	// Who gave up waiting, does not keep the lock.
	held.release()
	held.release() // a no-op
	next, err := lockDest(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range next.files {
		files = append(files, f.Name())
	}
	next.release()
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s is left", f)
		}
	}
	(*destLock)(nil).release()
}

// writerFunc is called when something is written.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestIsAncestor(t *testing.T) {
	if !isAncestor(os.Getppid()) {
		t.Error("the parent is no ancestor")
	}
	if isAncestor(os.Getpid()) || isAncestor(-1) || isAncestor(0) {
		t.Error("this process, or none, is an ancestor")
	}
}

func TestRealPath(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"real/inner", "file"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": "real", "absolute": dir + "/real", "loop": "loop", "dangling": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"real":                   "real",
		"real/":                  "real",
		"./link//inner/.":        "real/inner",
		"absolute/inner":         "real/inner",
		"link/missing":           "real/missing",
		"link/missing/too/deep/": "real/missing/too/deep",
		"missing/../link":        "real",
		"dangling":               "dangling",
	} {
		if got, err := realPath(dir + "/" + path); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: got %s, %v, expected %s", path, got, err, want)
		}
	}
	if _, err := realPath(dir + "/loop/dest"); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("a loop of symlinks: got error %v", err)
	}
	if got, err := realPath("/no/such/path"); err != nil || got != "/no/such/path" {
		t.Errorf("a path of which nothing is there: got %s, %v", got, err)
	}
}
