package stretcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxEventSize bounds what is read from stdin. A Consul agent keeps 256
// events of at most a few hundred bytes each.
const maxEventSize = 16 << 20

// event is what the agent was started for.
type event struct {
	manifestURL string
	id          string // Consul's ID or Serf's Lamport time, where there is one
}

// readEvent reads one event from in: Consul's JSON, a Serf payload or a manifest
// URL. It waits for the end of in, or of ctx.
func readEvent(ctx context.Context, in io.Reader) (*event, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, maxEventSize+1))
		read <- result{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an event on stdin: %w", context.Cause(ctx))
	case r := <-read:
		if r.err != nil {
			return nil, fmt.Errorf("read an event from stdin: %w", r.err)
		}
		if len(r.data) > maxEventSize {
			return nil, fmt.Errorf("read an event from stdin: more than %d bytes", maxEventSize)
		}
		return parseEvent(r.data)
	}
}

// parseEvent parses the JSON of Consul, a Serf payload or a manifest URL.
func parseEvent(data []byte) (*event, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark
	text := strings.TrimSpace(string(data))
	e := &event{manifestURL: text, id: os.Getenv("SERF_USER_LTIME")}
	consul := os.Getenv("CONSUL_INDEX") != ""
	if strings.HasPrefix(text, "[") || consul && text == "null" {
		ce, err := ParseConsulEvents(strings.NewReader(text))
		if err != nil {
			return nil, err
		}
		e.id = ce.ID
		e.manifestURL = strings.TrimSpace(string(ce.Payload))
		if e.manifestURL == "" {
			return nil, fmt.Errorf("event %s of Consul has no payload: expected a manifest URL, as in: consul event -name %s s3://bucket/manifest.yml", ce.ID, ce.Name)
		}
	}
	if e.manifestURL == "" {
		return nil, errors.New("stdin is empty: expected a manifest URL, a Serf payload that is one, or the JSON of consul watch")
	}
	if strings.ContainsAny(e.manifestURL, "\r\n\x00") {
		return nil, fmt.Errorf("the event holds more than one line: expected one manifest URL, got %.200q", e.manifestURL)
	}
	return e, nil
}
