// Package runlog is the log of one deployment. It stands behind the standard
// logger while the deployment runs, and does four things with each line:
//
//	redact the secrets of URLs in it
//	escape control characters, since the log may be shown on a terminal or in a
//	chat, and names, URLs and the output of commands come from elsewhere
//	keep it in a buffer, for the success and failure commands, if its level is
//	INFO or above (or any, when DEBUG is wanted), whatever is shown
//	write it to the output if its level is the wanted one or above, with its
//	priority where the output is systemd's journal
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
	"regexp"
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

const (
	keptHead = 4 << 20 // bytes that a long log keeps of its beginning
	keptTail = 4 << 20 // and of its end
)

// Log is a writer for the standard logger. It may be used by several goroutines.
type Log struct {
	mu      sync.Mutex
	out     io.Writer
	shown   logutils.LevelFilter // by out
	kept    logutils.LevelFilter // in buf
	buf     *bytes.Buffer
	dropped int64 // bytes left out in the middle of buf
	warned  int   // lines of the level WARN
}

// New returns a Log that writes lines of the level and above to out, and appends
// them to buf. A level may be in upper or lower case. One that is
// unknown is INFO, so that the error that says so is shown.
func New(out io.Writer, buf *bytes.Buffer, level string) *Log {
	level = strings.ToUpper(level)
	if !slices.Contains(Levels, level) {
		level = "INFO"
	}
	l := &Log{out: out, buf: buf}
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
	return len(line), l.write(levelOf(line), line)
}

func (l *Log) write(level string, line []byte) error {
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
	if l.out == os.Stderr {
		line = prefixed(line, JournalPrefix(level))
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

// header matches what the standard logger puts before a message, apart from its
// prefix: the date, the time, and a file name with a line number.
var header = regexp.MustCompile(`^[0-9/:. ]*(\S+\.go:[0-9]+: )?`)

// levelOf returns the level at the beginning of the message in a line of the
// standard logger. It is INFO where there is none.
func levelOf(line []byte) string {
	if prefix := log.Prefix(); prefix != "" {
		line = bytes.Replace(line, []byte(prefix), nil, 1) // it may stand after the header
	}
	message := line[len(header.Find(line)):]
	for _, level := range Levels {
		if bytes.HasPrefix(message, []byte("["+level+"]")) {
			return level
		}
	}
	return "INFO"
}

// Output returns a logger for the lines that commands print, and a function that
// hands them on: many at once, since there may be many thousands. All of them are
// INFO whatever they look like, so that none is lost. The two must not be called
// at the same time.
func (l *Log) Output() (lines *log.Logger, flush func()) {
	var buf bytes.Buffer
	return log.New(&buf, log.Prefix(), log.Flags()), func() {
		l.write("INFO", buf.Bytes()) // as with log.Print, there is nobody to tell of an error
		buf.Reset()
	}
}
