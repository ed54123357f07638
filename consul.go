package stretcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ConsulEvent is one event, in the form in which consul watch -type event passes
// it to its handler (https://developer.hashicorp.com/consul/api-docs/event).
// Payload is decoded from base64; it is nil where the event has none.
type ConsulEvent struct {
	ID      string `json:"ID"`
	Name    string `json:"Name"`
	Payload []byte `json:"Payload"`
	LTime   int    `json:"LTime"`
}

// ConsulEvents is what consul watch writes to the stdin of its handler: the events
// that the handler has not been given yet, the oldest first.
type ConsulEvents []ConsulEvent

// ErrNoEvents is the error of ParseConsulEvents for an empty list. A consul watch
// may send one when it starts, so callers should take it for "nothing to deploy"
// instead of a failure, as Run does.
var ErrNoEvents = errors.New("no Consul event in the list")

// ParseConsulEvents parses a JSON array of events and returns the last one, which
// is the newest. For an array without events, the error is ErrNoEvents.
func ParseConsulEvents(in io.Reader) (*ConsulEvent, error) {
	var events ConsulEvents
	if err := json.NewDecoder(in).Decode(&events); err != nil {
		return nil, fmt.Errorf("parse Consul events: %w", err)
	}
	if len(events) == 0 {
		return nil, ErrNoEvents
	}
	return &events[len(events)-1], nil
}
