package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// maxHistory is the size that history.jsonl may grow to, in bytes. It is then
	// cut to its newest lines, of keptHistory bytes together.
	maxHistory  = 2 << 20
	keptHistory = 1 << 20
	// maxText is the length to which Shortened shortens each text, in bytes.
	maxText = 4 << 10
	// maxLine is more than a line has, in bytes, even if each byte of its texts is
	// escaped.
	maxLine = 256 << 10
)

// Results of deployments.
const (
	Success = "success"
	Failure = "failure"
)

// UnknownDest stands for the dest of a deployment that failed before its manifest had
// been read. A dest is an absolute path, and so never equal to it.
const UnknownDest = "unknown"

// Deployment is a line of the history. Its texts have to be free of secrets, and
// Shortened.
type Deployment struct {
	Time     time.Time `json:"time"`            // of its start
	Event    *Event    `json:"event,omitempty"` // nil if it was started by hand
	Rollback bool      `json:"rollback,omitempty"`
	Manifest string    `json:"manifest,omitempty"` // its URL
	Checksum string    `json:"checksum,omitempty"`
	Dest     string    `json:"dest,omitempty"`     // "" if only commands were run
	Strategy string    `json:"strategy,omitempty"` // "" as dest, or before it is known
	Result   string    `json:"result"`             // Success or Failure
	Error    string    `json:"error,omitempty"`
	Duration float64   `json:"duration"` // seconds
	Bytes    int64     `json:"bytes"`    // downloaded of the archive, retries included

	// DestUnknown is set if the manifest has not been read, or has no valid dest.
	DestUnknown bool `json:"-"`
}

// Label returns the dest in totals and metrics.
func (d *Deployment) Label() string {
	if d.DestUnknown {
		return UnknownDest
	}
	return d.Dest
}

// Shortened returns d with those of its texts that have more than 4 KiB shortened.
func (d Deployment) Shortened() Deployment {
	for _, text := range []*string{&d.Manifest, &d.Checksum, &d.Dest, &d.Strategy, &d.Error} {
		*text = shorten(*text)
	}
	return d
}

func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}

func (d *Dir) openHistory() (*os.File, error) {
	return openFile(d.file("history.jsonl"), os.O_RDWR|os.O_CREATE|os.O_APPEND)
}

// appendHistory adds a line to the history. A part of a line that a kill, a power cut
// or a full disk left at its end is removed first.
func (d *Dir) appendHistory(deployment Deployment) error {
	if e := deployment.Event; e != nil {
		deployment.Event = &Event{e.Kind, key(e.Name), key(e.ID)}
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // URLs have an & in them
	if err := e.Encode(deployment); err != nil {
		return err
	}
	line := buf.Bytes()
	f, err := d.openHistory()
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := repair(f)
	if err != nil {
		return err
	}
	if size+int64(len(line)) > maxHistory {
		kept := make([]byte, min(size, keptHistory))
		if _, err := f.ReadAt(kept, size-int64(len(kept))); err != nil {
			return err
		}
		return unixfs.ReplaceFile(f.Name(), append(newestLines(kept, keptHistory-len(line)), line...), 0o600)
	}
	_, err = f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

// repair removes what follows the last newline, and returns the size of the rest. If
// that is longer than any line, the file is not a history, and is left as it is but
// for a newline.
func repair(f *os.File) (size int64, err error) {
	size, err = f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return size, err
	}
	end := make([]byte, min(size, maxLine))
	if _, err := f.ReadAt(end, size-int64(len(end))); err != nil {
		return size, err
	}
	torn := int64(len(end) - 1 - bytes.LastIndexByte(end, '\n'))
	switch {
	case torn == 0:
		return size, nil
	case torn < maxLine:
		return size - torn, f.Truncate(size - torn)
	}
	n, err := f.Write([]byte("\n"))
	return size + int64(n), err
}

// newestLines returns the newest whole lines of data, of at most size bytes together.
// data ends with a newline, and its first line may be a part of one, unless data is
// no longer than size.
func newestLines(data []byte, size int) []byte {
	if len(data) <= size {
		return data
	}
	start := len(data) - max(size, 0)
	// A line that begins just there is whole.
	next := bytes.IndexByte(data[start-1:], '\n')
	return data[start+next:]
}
