package runlog

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// Stream is one of the streams to which a command prints. The zero value stands for
// lines that are not of a command.
type Stream struct {
	Command string // safe to show
	Name    string // stdout or stderr
}

// objects returns JSON objects, each in a line of its own: one for a message or, if
// of is not nil, one for each line of a stream. What stands before a message is a
// field of its object instead: the date and the level.
func objects(level string, text []byte, of *Stream) []byte {
	var out bytes.Buffer
	handler := newHandler(&out)
	if of == nil {
		text = message(text)
		if rest, ok := bytes.CutPrefix(text, []byte("["+level+"]")); ok {
			text = bytes.TrimPrefix(rest, []byte(" "))
		}
		add(handler, level, text)
		return out.Bytes()
	}
	if of.Name != "" {
		handler = handler.WithAttrs([]slog.Attr{slog.String("command", of.Command), slog.String("stream", of.Name)})
	}
	for line := range bytes.Lines(text) {
		add(handler, level, message(line))
	}
	return out.Bytes()
}

// newHandler returns a handler that writes the objects to out. It writes records of
// all levels, because Log chooses what is shown.
func newHandler(out *bytes.Buffer) slog.Handler {
	return slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey:
			// RFC 3339 with a fraction of a fixed length, so that the objects can be
			// sorted by the text.
			a.Value = slog.StringValue(a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
		case slog.MessageKey:
			a.Key = "message"
		}
		return a
	}})
}

// add hands a text, which may end in a newline, to a handler. There are no errors: a
// level is one of Levels, and a bytes.Buffer takes everything.
func add(handler slog.Handler, level string, text []byte) {
	record := slog.Record{Time: time.Now(), Message: string(bytes.TrimSuffix(text, []byte("\n")))}
	_ = record.Level.UnmarshalText([]byte(level))
	handler.Handle(context.Background(), record)
}
