// Package runlog is the log of one deployment. It stands behind the standard
// logger while the deployment runs, and does four things with each line:
//
//	redact the secrets of URLs in it
//	escape control characters, since the log may be shown on a terminal or in a
//	chat, and names, URLs and the output of commands come from elsewhere
//	keep it in a buffer, for the success and failure commands, if its level is
//	INFO or above (or any, when DEBUG is wanted), whatever is shown
//	write it to the output if its level is the wanted one or above, as text, with
//	its priority where the output is systemd's journal, or as a JSON object
//
// The level of a line stands in brackets at the beginning of its message, as in
// "[WARN] text". A line without one, and all that commands print, is INFO.
//
// The buffer is bounded: of a log of more than 8 MiB, it has the beginning and the
// end, so that a command's endless output does not fill the memory.
package runlog

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/logutils"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/redact"
)

// Levels are the levels of lines, the lowest first.
var Levels = []string{"DEBUG", "INFO", "WARN", "ERROR"}

// JSON is the format in which each line of the output is a JSON object. Any other
// name is text.
const JSON = "json"

const (
	keptHead = 4 << 20 // bytes that a long log keeps of its beginning
	keptTail = 4 << 20 // and of its end
)

// Log is a writer for the standard logger. It may be used by several goroutines.
type Log struct {
	mu      sync.Mutex
	out     io.Writer
	json    bool
	shown   logutils.LevelFilter // by out
	kept    logutils.LevelFilter // in buf
	buf     *bytes.Buffer
	dropped int64 // bytes left out in the middle of buf
	warned  int   // lines of the level WARN
}

// New returns a Log that writes lines of the level and above to out in a format, and
// appends them to buf as text. A level may be in upper or lower case. One that is
// unknown is INFO, so that the error that says so is shown.
func New(out io.Writer, buf *bytes.Buffer, level, format string) *Log {
	level = strings.ToUpper(level)
	if !slices.Contains(Levels, level) {
		level = "INFO"
	}
	l := &Log{out: out, json: format == JSON, buf: buf}
	for _, name := range Levels {
		l.shown.Levels = append(l.shown.Levels, logutils.LogLevel(name))
	}
	l.kept.Levels = l.shown.Levels
	l.shown.SetMinLevel(logutils.LogLevel(level))
	l.kept.SetMinLevel("INFO")
	if level == "DEBUG" {
		l.kept.SetMinLevel("DEBUG")
	}
	return l
}

// Write takes one line of the standard logger.
func (l *Log) Write(line []byte) (int, error) {
	return len(line), l.write(levelOf(line), line, nil)
}

// Print writes a text of one or more lines, without a date, whatever they look like.
func (l *Log) Print(level, text string) error { return l.write(level, []byte(text), nil) }

// write takes one message of the standard logger or, if of is not nil, any number of
// lines of a stream.
func (l *Log) write(level string, line []byte, of *Stream) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if redact.Needed(line) {
		line = []byte(redact.Text(string(line)))
	}
	line = redact.PrintableLines(line)
	if level == "WARN" {
		l.warned++
	}
	marked := []byte("[" + level + "]")
	if l.kept.Check(marked) {
		l.keep(line)
	}
	if !l.shown.Check(marked) {
		return nil
	}
	switch {
	case l.json:
		line = objects(level, line, of)
	case l.out == os.Stderr:
		line = prefixed(line, journalPrefix(level))
		if clear := progress.Clear(); clear != "" {
			line = append([]byte(clear), line...)
		}
	}
	_, err := l.out.Write(line)
	return err
}

// Warnings returns the number of lines of the level WARN so far, shown or not.
func (l *Log) Warnings() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warned
}

// keep appends line to the buffer. Where that makes the buffer too long, it drops
// bytes from the middle, many at once, since the tail has to be moved each time.
func (l *Log) keep(line []byte) {
	const slack = 512 << 10
	if n := l.buf.Len(); n > slack && l.buf.Available() < len(line) {
		l.buf.Grow(keptHead + keptTail + 2*slack - n) // in one step instead of by doubling
	}
	l.buf.Write(line)
	if excess := l.buf.Len() - keptHead - keptTail; excess > slack {
		b := l.buf.Bytes()
		copy(b[keptHead:], b[keptHead+excess:])
		l.buf.Truncate(keptHead + keptTail)
		l.dropped += int64(excess)
	}
}

// Copy returns a copy of what has been kept so far, with a line that says how much
// was left out.
func (l *Log) Copy() *bytes.Buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	excess := int64(len(b)) - keptHead - keptTail
	if l.dropped == 0 && excess <= 0 {
		return bytes.NewBuffer(slices.Clone(b))
	}
	debug.FreeOSMemory() // a log of this size leaves much garbage, and the copy needs memory
	out := bytes.NewBuffer(make([]byte, 0, keptHead+keptTail+128))
	out.Write(b[:keptHead])
	fmt.Fprintf(out, "\n[... %d bytes of the log left out here ...]\n", l.dropped+excess)
	out.Write(b[int64(len(b))-keptTail:])
	return out
}

// levelOf returns the level at the beginning of the message in a line of the
// standard logger. It is INFO where there is none.
func levelOf(line []byte) string {
	text := message(line)
	for _, level := range Levels {
		if bytes.HasPrefix(text, []byte("["+level+"]")) {
			return level
		}
	}
	return "INFO"
}

// message returns a line of the standard logger without what its flags put before
// the message: the prefix, the date, the time, and a file name with a line number.
// What does not look like them is of the message.
func message(line []byte) []byte {
	flags, prefix := log.Flags(), []byte(log.Prefix())
	if flags&log.Lmsgprefix == 0 {
		line = bytes.TrimPrefix(line, prefix)
	}
	if flags&log.Ldate != 0 {
		line = cutDigits(line, "0000/00/00 ")
	}
	if flags&log.Lmicroseconds != 0 {
		line = cutDigits(line, "00:00:00.000000 ")
	} else if flags&log.Ltime != 0 {
		line = cutDigits(line, "00:00:00 ")
	}
	if flags&(log.Lshortfile|log.Llongfile) != 0 {
		if file, rest, ok := bytes.Cut(line, []byte(": ")); ok && bytes.Contains(file, []byte(".go:")) {
			line = rest
		}
	}
	if flags&log.Lmsgprefix != 0 {
		line = bytes.TrimPrefix(line, prefix)
	}
	return line
}

// cutDigits returns line without its beginning, if that is like layout, in which a 0
// stands for any digit.
func cutDigits(line []byte, layout string) []byte {
	if len(line) < len(layout) {
		return line
	}
	for i, want := range []byte(layout) {
		if got := line[i]; got != want && (want != '0' || got < '0' || got > '9') {
			return line
		}
	}
	return line[len(layout):]
}

// Output returns a logger for the lines of a stream, and a function that hands them
// on: many at once, since there may be many thousands. All of them are INFO whatever
// they look like, so that none is lost. The two must not be called at the same time.
func (l *Log) Output(of Stream) (lines *log.Logger, flush func()) {
	var buf bytes.Buffer
	return log.New(&buf, log.Prefix(), log.Flags()), func() {
		_ = l.write("INFO", buf.Bytes(), &of) // as with log.Print, there is nobody to tell of an error
		buf.Reset()
	}
}
