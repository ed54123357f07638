package proc

import (
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// errHeld is that a process which the command left behind holds its output open.
var errHeld = errors.New("the output is held open")

// output is a pipe for the output of a command, and the writer that gets what arrives.
//
// exec.Cmd makes such pipes too, but it stops reading them a fixed time after the end
// of the command (WaitDelay). If the log is slow, because somebody has paused a
// terminal for example, what the command printed last would be lost.
type output struct {
	r, w *os.File
	to   io.Writer
	done chan struct{} // closed at the end of the output
	err  error         // after that
}

// outputs are those of one command.
type outputs []*output

// pipeOutputs makes cmd write to pipes instead of its Stdout and Stderr. If these are
// the same, it is one pipe, in which the order of what is written is kept. A file
// remains what it is.
func pipeOutputs(cmd *exec.Cmd) (all outputs, err error) {
	same := cmd.Stdout == cmd.Stderr
	for _, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		if _, isFile := (*to).(*os.File); isFile || *to == nil {
			continue
		}
		if to == &cmd.Stderr && same {
			cmd.Stderr = cmd.Stdout
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			all.closeAll()
			return nil, err
		}
		all = append(all, &output{r: r, w: w, to: *to, done: make(chan struct{})})
		*to = w
	}
	return all, nil
}

// closeAll closes the pipes of a command that was not started.
func (all outputs) closeAll() {
	for _, o := range all {
		o.r.Close()
		o.w.Close()
	}
}

// start passes on what the command, which has been started, writes.
func (all outputs) start() {
	for _, o := range all {
		o.w.Close() // only the command and its children have it now
		go func() {
			defer close(o.done)
			defer o.r.Close()
			o.err = o.pass()
		}()
	}
}

// wait waits until all that the command, which has ended, has written is passed on, and
// for outputWait until no other process holds the pipes. After that, it fails with
// errHeld.
func (all outputs) wait() (err error) {
	deadline := time.Now().Add(outputWait)
	for _, o := range all {
		_ = o.r.SetReadDeadline(deadline) // fails only if the output has ended
	}
	for _, o := range all {
		<-o.done
		err = cmp.Or(err, o.err)
	}
	return err
}

// pass passes on the output until its end, or until the deadline that wait sets.
func (o *output) pass() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := o.r.Read(buf)
		if n > 0 {
			if _, err := o.to.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return o.passRest(buf)
		case err != nil:
			return err
		}
	}
}

// passRest passes on what is in the pipe, which has all that the command has written
// and that was not read before. It fails with errHeld if that is not the end.
func (o *output) passRest(buf []byte) error {
	if err := o.r.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	pipe, err := o.r.SyscallConn()
	if err != nil {
		return err
	}
	var left int // bytes
	var readErr error
	if err := pipe.Control(func(fd uintptr) { left, readErr = unread(int(fd)) }); err != nil || readErr != nil {
		return cmp.Or(err, readErr)
	}
	left++ // to see the end
	for left > 0 {
		var n int
		err := pipe.Read(func(fd uintptr) (done bool) {
			n, readErr = unix.Read(int(fd), buf[:min(left, len(buf))])
			return true // do not wait
		})
		switch {
		case err != nil:
			return err
		case errors.Is(readErr, unix.EINTR):
			continue
		case errors.Is(readErr, unix.EAGAIN):
			return errHeld
		case readErr != nil:
			return readErr
		case n == 0:
			return nil
		}
		if _, err := o.to.Write(buf[:n]); err != nil {
			return err
		}
		left -= n
	}
	return errHeld
}
