package proc

import (
	"bytes"
	"log"
	"sync"
)

// maxOutputLine is the size in bytes from which on an unfinished line is logged
// before its end arrives, so that a command cannot use up the memory.
const maxOutputLine = 64 << 10

// LineWriter logs what is written to it, line by line, for a command's stdout
// and stderr. Its methods may be called by several goroutines at once.
type LineWriter struct {
	mu      sync.Mutex
	log     *log.Logger
	flush   func()
	pending []byte // of a line whose end has not arrived
	closed  bool
}

// NewLineWriter returns a LineWriter that passes each line to logger, and calls
// flush after the lines of one Write, so that a logger that buffers can hand
// them on together. It calls neither of them after Close has returned.
func NewLineWriter(logger *log.Logger, flush func()) *LineWriter {
	return &LineWriter{log: logger, flush: flush}
}

// Write logs the lines that end in p and keeps the rest for the next call. It
// never fails. After Close it discards p: a command may be given up while a
// process that it left behind still writes.
func (w *LineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	if w.closed {
		return n, nil
	}
	for len(p) > 0 {
		line, rest, ends := bytes.Cut(p, []byte("\n"))
		w.pending = append(w.pending, line...)
		if ends || len(w.pending) >= maxOutputLine {
			w.print()
		}
		p = rest
	}
	w.flush()
	return n, nil
}

// Close logs a last line that has no newline. A second Close does nothing.
func (w *LineWriter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) > 0 {
		w.print()
		w.flush()
	}
	w.closed = true
}

func (w *LineWriter) print() {
	w.log.Printf("%s", w.pending) // a conversion to string would copy all of the output
	w.pending = w.pending[:0]
}
