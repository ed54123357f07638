package runlog

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// toJournal reports whether stderr is a stream to systemd's journal: systemd sets
// JOURNAL_STREAM to the device and the inode of that stream. They have to be
// compared, because child processes inherit the variable, but may have another
// stderr (systemd.exec(5), under "Environment variables set or propagated by the
// service manager").
var toJournal = sync.OnceValue(func() bool {
	var stat unix.Stat_t
	return unix.Fstat(unix.Stderr, &stat) == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
})

// journalPrefix returns what has to stand before a line of a level on stderr: where
// that is the journal, the priority as sd-daemon(3) defines it, so that
// journalctl -p err shows failures; otherwise nothing.
func journalPrefix(level string) string {
	if !toJournal() {
		return ""
	}
	switch level {
	case "ERROR":
		return "<3>"
	case "WARN":
		return "<4>"
	case "DEBUG":
		return "<7>"
	}
	return "<6>"
}

// prefixed returns lines with prefix before each.
func prefixed(lines []byte, prefix string) []byte {
	if prefix == "" {
		return lines
	}
	var out []byte
	for line := range bytes.Lines(lines) {
		out = append(append(out, prefix...), line...)
	}
	return out
}
