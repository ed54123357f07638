package unixfs

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Syncfs waits until all that has been written to the file system of fd, which is
// open on any file or directory of it, is on disk (syncfs(2)). One such call is
// much cheaper than fsync(2) of each file and directory, but waits for what other
// programs have written there, too. On a file system in memory it returns at once.
//
// The kernel reports an error of writing since Linux 5.8. If ctx ends first, the
// error is its cause; the kernel goes on writing, and the process cannot exit
// before that has ended.
func Syncfs(ctx context.Context, fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // the caller may close fd before the call has begun
	if err != nil {
		return fmt.Errorf("flush to disk: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		defer unix.Close(own)
		done <- unix.Syncfs(own)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("flush to disk: %w", err)
	}
	return nil
}
