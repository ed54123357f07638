// Package eventinput reads one event from stdin: a line with a URL, or the JSON
// array that consul watch writes.
//
// An event is complete when its line ends or its array closes. Its reader does not
// wait for the end of stdin, because the sender may keep that open: a person at a
// terminal, a shell that goes on to something else, an ssh connection. An event
// without a newline is complete at the end of stdin.
package eventinput

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// maxSize bounds what is read from stdin. A Consul agent keeps 256 events of at
// most a few hundred bytes each.
const maxSize = 16 << 20

// readAhead is how much is read at once. It is what a pipe holds, so that what was
// written together is seen together.
const readAhead = 64 << 10

const byteOrderMark = "\xef\xbb\xbf"

// Read returns the event at the beginning of in, without the white space around
// it. It is "" where in has nothing else. Leading blank lines and a byte order
// mark are skipped. What follows the event is not waited for; if some of it has
// been read together with the event, a warning says that it is ignored.
//
// When ctx ends first, the error wraps the cause of ctx, and in may still be read
// from.
func Read(ctx context.Context, in io.Reader) (string, error) {
	if f, ok := in.(*os.File); ok && unixfs.IsTerminal(f) {
		log.Print("Reading a manifest URL from the terminal; end with Enter or Ctrl-D, or pass it as an argument: stretcher URL")
	}
	type result struct {
		text     string
		followed bool
		err      error
	}
	read := make(chan result, 1)
	go func() {
		text, followed, err := scan(in)
		read <- result{text, followed, err}
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("wait for an event on stdin: %w", context.Cause(ctx))
	case r := <-read:
		if r.err != nil {
			return "", fmt.Errorf("read an event from stdin: %w", r.err)
		}
		if r.followed {
			log.Print("[WARN] ignored what follows the first line, or the first list of Consul events, on stdin")
		}
		return r.text, nil
	}
}

// scan reads up to the end of the event and reports whether more than white space
// had arrived after it.
func scan(in io.Reader) (text string, followed bool, err error) {
	r := bufio.NewReaderSize(in, readAhead)
	// One byte first: peeking for three would wait for more where in has only "[]".
	b, err := r.Peek(1)
	if errors.Is(err, io.EOF) { // a terminal would have to be told so twice
		return "", false, nil
	}
	if string(b) == byteOrderMark[:1] {
		if b, _ := r.Peek(len(byteOrderMark)); string(b) == byteOrderMark {
			_, _ = r.Discard(len(byteOrderMark)) // cannot fail: these bytes are buffered
		}
	}
	var event []byte
	var array nesting
	for size := 0; ; size++ {
		if size == maxSize {
			return "", false, fmt.Errorf("more than %d bytes", maxSize)
		}
		b, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", false, err
		}
		if len(event) == 0 && isSpace(b) {
			continue
		}
		event = append(event, b)
		if isArray := event[0] == '['; isArray && array.closedBy(b) || !isArray && b == '\n' {
			break
		}
	}
	rest, _ := r.Peek(r.Buffered())
	return strings.TrimSpace(string(event)), len(bytes.TrimSpace(rest)) > 0, nil
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

// nesting finds the end of a JSON array in a sequence of bytes. The zero value is
// the state before its first bracket.
type nesting struct {
	depth    int  // of open brackets and braces
	inString bool // brackets in strings do not count
	escaped  bool // the last byte was a backslash in a string
}

// closedBy takes the next byte, and reports whether it closes the array.
func (n *nesting) closedBy(b byte) bool {
	switch {
	case n.escaped:
		n.escaped = false
	case n.inString && b == '\\':
		n.escaped = true
	case b == '"':
		n.inString = !n.inString
	case n.inString:
	case b == '[' || b == '{':
		n.depth++
	case b == ']' || b == '}':
		n.depth--
		return n.depth == 0
	}
	return false
}

// beginsManifest reports whether a YAML manifest may begin so: with a comment, a
// directive, a marker of a document, or a key.
func beginsManifest(text string) bool {
	if strings.HasPrefix(text, "#") || strings.HasPrefix(text, "%YAML") {
		return true
	}
	endsWord := func(rest string) bool { return rest == "" || isSpace(rest[0]) }
	if rest, ok := strings.CutPrefix(text, "---"); ok && endsWord(rest) {
		return true
	}
	key, rest, ok := strings.Cut(text, ":")
	if key = strings.Trim(strings.TrimSpace(key), `"'`); !ok || key == "" || !endsWord(rest) {
		return false
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	return strings.Trim(key[:1], letters) == "" && strings.Trim(key, letters+"0123456789-") == ""
}

// Mistake returns an error for input that is certainly not a manifest URL, and
// says what to send instead. It is nil for anything else. The error does not quote
// the input, since a manifest may contain secrets.
func Mistake(text string) error {
	switch {
	case text == "":
		return errors.New("stdin is empty: expected a manifest URL, as in: echo s3://bucket/app.yml | stretcher")
	case strings.HasPrefix(text, "{"):
		return errors.New("stdin holds a JSON object: an event has to be a list of Consul events, [ {...} ], or a URL")
	case beginsManifest(text):
		return errors.New("stdin holds a manifest, expected its URL: echo file:///path/to/it.yml | stretcher")
	}
	return nil
}
