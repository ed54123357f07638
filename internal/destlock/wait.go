package destlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Wait waits until no deployment of this user to dest runs, as Acquire does, but
// takes no lock: a deployment may begin as soon as it returns. It changes nothing,
// not even for a moment. Its errors are those of Acquire.
func Wait(ctx context.Context, dest string) error {
	return wait(ctx, dest, directories(os.Geteuid()))
}

// Running reports whether a deployment of this user to dest runs. It changes
// nothing.
func Running(dest string) (bool, error) {
	return running(dest, directories(os.Geteuid()))
}

func wait(ctx context.Context, dest string, directories []string) error {
	for {
		err := eachHeld(dest, directories, func(f *os.File) error { return flock(ctx, f, dest) })
		again := false // another one has waited too
		if err == nil {
			again, err = running(dest, directories)
		}
		if err != nil {
			return fmt.Errorf("lock %s: %w", dest, err)
		}
		if !again {
			return nil
		}
	}
}

func running(dest string, directories []string) (found bool, err error) {
	err = eachHeld(dest, directories, func(f *os.File) error {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			found, err = true, nil
		}
		return err
	})
	return found, err
}

// eachHeld calls do with the lock files of dest that exist. Closing them gives up a
// lock that do takes; their holders have removed those that are free, but for killed
// ones.
func eachHeld(dest string, directories []string, do func(f *os.File) error) error {
	names, err := namesOf(dest)
	if err != nil {
		return err
	}
	for _, path := range directories {
		dir, err := openExisting(path)
		if err != nil {
			continue // then Acquire does not use it either
		}
		for _, name := range names {
			f, err := openFile(dir, fileName(name), 0)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
				continue
			}
			if err == nil {
				err = do(f)
				f.Close()
			}
			if err != nil {
				dir.Close()
				return err
			}
		}
		dir.Close()
	}
	return nil
}
