package unixfs

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSyncfs(t *testing.T) {
	t.Parallel()
	dir, err := OpenDir(unix.AT_FDCWD, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := Syncfs(t.Context(), dir); err != nil {
		t.Error(err)
	}
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	// Both may be ready at once.
	if err := Syncfs(ctx, dir); err != nil && !errors.Is(err, cause) {
		t.Errorf("after the end of ctx: %v", err)
	}
	unix.Close(dir)
	if err := Syncfs(t.Context(), -1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: %v", err)
	}
}
