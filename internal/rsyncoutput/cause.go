package rsyncoutput

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const (
	maxCauses  = 3        // messages that an error quotes
	maxCause   = 512      // bytes of each
	maxMessage = 32 << 10 // bytes that a message may have: a path has at most 4096, each written as up to 5
)

// causes are the messages from which the cause of a failure is taken.
type causes struct {
	first   []string // messages about a cause, at most maxCauses, as rsync printed them
	number  int      // how many there were
	effect  string   // the first message about what is merely a consequence
	summary string   // the last line that begins with "rsync error: " or "rsync warning: "
	last    []byte   // the last line that was not empty
}

// beginnings are those of messages that can be about the cause.
var beginnings = [][]byte{
	[]byte("rsync: "), []byte("rsync error: "), []byte("rsync warning: "), []byte("ERROR: "), []byte("file has vanished: "),
	[]byte("could not make way for "), []byte("cannot delete "), []byte("IO error encountered"),
}

// isEffect reports whether a message is about a consequence. A process of rsync that
// finds the others gone says so, maybe before the one that has failed.
func isEffect(text string) bool {
	return strings.HasSuffix(text, "Broken pipe (32)") || strings.HasSuffix(text, "Connection reset by peer (104)") ||
		strings.Contains(text, "connection unexpectedly closed") ||
		strings.HasPrefix(text, "cannot delete non-empty directory") || strings.HasPrefix(text, "IO error encountered")
}

func (c *causes) add(line []byte) {
	line = line[:min(len(line), maxMessage)]
	c.last = append(c.last[:0], line...)
	if !slices.ContainsFunc(beginnings, func(b []byte) bool { return bytes.HasPrefix(line, b) }) {
		return
	}
	text := string(line)
	switch {
	case strings.HasPrefix(text, "rsync error: "), strings.HasPrefix(text, "rsync warning: "):
		c.summary = text
	case isEffect(text):
		if c.effect == "" {
			c.effect = text
		}
	default:
		c.number++
		if len(c.first) < maxCauses {
			c.first = append(c.first, text)
		}
	}
}

func (c *causes) String() string {
	var parts []string
	for _, text := range c.first {
		parts = append(parts, plain(text))
	}
	if more := c.number - len(c.first); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	if len(parts) == 0 {
		for _, text := range []string{c.effect, c.summary, string(c.last)} {
			if text != "" {
				parts = append(parts, plain(text))
				break
			}
		}
	}
	text := strings.Join(parts, "; ")
	if hint := c.hint(); hint != "" {
		text += ": " + hint
	}
	return text
}

// plain returns a message without what only says where in rsync it comes from, and
// without control characters.
func plain(text string) string {
	for _, r := range []struct{ pattern, by string }{ // compiled only after a failure
		{`^(rsync|rsync error|rsync warning): (\[[A-Za-z ]+\] )?`, ""},
		{` \(code \d+\)( at [a-z0-9_]+\.c\(\d+\))?( \[[^\]]*\])?$`, ""},
		{` \(\d+\)$`, ""},
		{` failed: ([^:]+)$`, ": $1"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.by)
	}
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "..."
	}
	var b strings.Builder
	for _, r := range text {
		if unicode.IsControl(r) {
			fmt.Fprintf(&b, `\#%03o`, r) // as rsync itself writes them
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hints tell what to do about the first message that matches, of those that are
// in the error. The more specific ones come first.
var hints = []struct {
	message string // a regular expression, compiled only after a failure
	hint    string
}{
	{`^rsync: (\[Receiver\] )?mkdir .*\(2\)$`, "the parent of dest is missing, make it first"},
	{`^rsync: (\[Receiver\] )?mkdir .*\(17\)$`, "dest is a symbolic link to nothing"},
	{`\(28\)$`, "free some space there (or inodes)"},
	{`\(122\)$`, "the disk quota is used up"},
	{`\(30\)$`, "it is mounted read-only"},
	{`ERROR: (destination|cannot overwrite non-directory)|cannot stat destination .*\(20\)$`, "dest is a file or below one, expected a directory or nothing"},
	{`send_files failed to open .*\(13\)$|opendir .*\(13\)$`, "its mode or owner forbids this user to read it"},
	{`\(13\)$`, "this user may not do that there"},
	{`\(1\)$`, "it belongs to another user, or is immutable (lsattr tells)"},
	{`\(16\)$`, "it is a mount point or in use"},
	{`file has vanished`, "another program deletes files from TMPDIR"},
	{`unknown option`, "this version of rsync does not have it"},
	{`\(code 20\)`, "another process has sent rsync a signal"},
	{`connection unexpectedly closed|\(32\)$|\(104\)$`, "a process of rsync has ended early, perhaps killed for lack of memory (dmesg tells)"},
}

func (c *causes) hint() string {
	messages := c.first
	if len(messages) == 0 {
		messages = []string{c.effect, c.summary}
	}
	for _, h := range hints {
		message := regexp.MustCompile(h.message)
		for _, m := range messages {
			if message.MatchString(m) {
				return h.hint
			}
		}
	}
	return ""
}
