package stretcher

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/hashicorp/logutils"
)

// LogBuffer holds the log of the last deployment: what is given to the
// success and failure commands on their stdin. A log of more than 8 MiB keeps
// its beginning and its end. It must not be read while a deployment runs.
var LogBuffer bytes.Buffer

const (
	logHead = 4 << 20 // what a long log keeps of its beginning, in bytes
	logTail = 4 << 20 // and of its end
)

var logLevels = []string{"DEBUG", "INFO", "WARN", "ERROR"}

// runLog is where the standard logger writes while a deployment runs: lines
// of the wanted level to the writer that was there before, and those of INFO
// and up also to LogBuffer. A line without a level counts as INFO.
type runLog struct {
	mu      sync.Mutex
	out     io.Writer
	filter  logutils.LevelFilter // of out
	keep    logutils.LevelFilter // of LogBuffer
	dropped int64                // bytes left out in the middle of LogBuffer
}

var (
	currentLogMu sync.Mutex
	currentLog   *runLog
)

// captureLog makes the standard logger write through a runLog until the
// returned function is called. Within a capture, it does nothing.
func captureLog(level string) (restore func()) {
	currentLogMu.Lock()
	defer currentLogMu.Unlock()
	if currentLog != nil {
		return func() {}
	}
	if level == "" {
		level = "INFO"
	}
	l := &runLog{out: log.Writer()}
	for _, name := range logLevels {
		l.filter.Levels = append(l.filter.Levels, logutils.LogLevel(name))
	}
	l.keep.Levels = l.filter.Levels
	l.filter.SetMinLevel(logutils.LogLevel(level))
	l.keep.SetMinLevel("INFO")
	if level == "DEBUG" {
		l.keep.SetMinLevel("DEBUG")
	}
	LogBuffer.Reset()
	currentLog = l
	log.SetOutput(l)
	return func() {
		currentLogMu.Lock()
		defer currentLogMu.Unlock()
		log.SetOutput(l.out)
		currentLog = nil
	}
}

// debugging tells whether DEBUG lines are wanted, for work done only for them.
func debugging() bool {
	currentLogMu.Lock()
	defer currentLogMu.Unlock()
	return currentLog != nil && currentLog.filter.Check([]byte("[DEBUG]"))
}

// Write takes one line of the standard logger's.
func (l *runLog) Write(line []byte) (int, error) {
	return len(line), l.write(levelOf(line), line)
}

func (l *runLog) write(level string, line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(line, []byte("://")) {
		line = []byte(redact(string(line)))
	}
	marked := []byte("[" + level + "]")
	if l.keep.Check(marked) {
		l.buffer(line)
	}
	if !l.filter.Check(marked) {
		return nil
	}
	_, err := l.out.Write(line)
	return err
}

// buffer appends line to LogBuffer, and where that has grown too long drops
// from its middle, in whole blocks so that it is seldom.
func (l *runLog) buffer(line []byte) {
	const slack = 512 << 10
	if n := LogBuffer.Len(); n > slack && LogBuffer.Available() < len(line) {
		LogBuffer.Grow(logHead + logTail + 2*slack - n) // once, not by doubling
	}
	LogBuffer.Write(line)
	if excess := LogBuffer.Len() - logHead - logTail; excess > slack {
		b := LogBuffer.Bytes()
		copy(b[logHead:], b[logHead+excess:])
		LogBuffer.Truncate(logHead + logTail)
		l.dropped += int64(excess)
	}
}

// capturedLog returns a copy of the log so far, with a line in the place of
// what was left out.
func capturedLog() *bytes.Buffer {
	currentLogMu.Lock()
	l := currentLog
	currentLogMu.Unlock()
	if l == nil {
		return bytes.NewBuffer(slices.Clone(LogBuffer.Bytes()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := LogBuffer.Bytes()
	excess := int64(len(b)) - logHead - logTail
	if l.dropped == 0 && excess <= 0 {
		return bytes.NewBuffer(slices.Clone(b))
	}
	debug.FreeOSMemory() // what the garbage of such a log takes, is needed now
	out := bytes.NewBuffer(make([]byte, 0, logHead+logTail+128))
	out.Write(b[:logHead])
	fmt.Fprintf(out, "\n[... %d bytes of the log left out here ...]\n", l.dropped+excess)
	out.Write(b[int64(len(b))-logTail:])
	return out
}

// logHeader is what the standard logger puts before a message, its prefix
// aside: the date, the time, and a file with the line in it.
var logHeader = regexp.MustCompile(`^[0-9/:. ]*(\S+\.go:[0-9]+: )?`)

// levelOf returns the level that a line of the standard logger's carries at
// the head of its message, INFO where it has none.
func levelOf(line []byte) string {
	if prefix := log.Prefix(); prefix != "" {
		line = bytes.Replace(line, []byte(prefix), nil, 1) // it may follow the header
	}
	message := line[len(logHeader.Find(line)):]
	for _, level := range logLevels {
		if bytes.HasPrefix(message, []byte("["+level+"]")) {
			return level
		}
	}
	return "INFO"
}

// outputLog returns a logger for the lines that commands print, and what hands
// them on, many at once. They count as INFO whatever they look like, so that
// none is lost.
func outputLog() (lines *log.Logger, flush func()) {
	currentLogMu.Lock()
	defer currentLogMu.Unlock()
	if currentLog == nil {
		return log.Default(), func() {}
	}
	w := &infoWriter{log: currentLog}
	return log.New(&w.lines, log.Prefix(), log.Flags()), w.flush
}

type infoWriter struct {
	log   *runLog
	lines bytes.Buffer
}

func (w *infoWriter) flush() {
	w.log.write("INFO", w.lines.Bytes())
	w.lines.Reset()
}

// logError logs err unless it is nil: for the errors of cleaning up, which
// must be seen but change nothing.
func logError(doing string, err error) {
	if err != nil {
		log.Printf("[WARN] %s: %v", doing, err)
	}
}
