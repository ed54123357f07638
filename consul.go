package stretcher

import (
	"encoding/base64"
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
	last, _, err := lastConsulEvent(in)
	return last, err
}

// lastConsulEvent is ParseConsulEvents, and counts the events before the last.
func lastConsulEvent(in io.Reader) (last *ConsulEvent, earlier int, err error) {
	var events ConsulEvents
	if err := json.NewDecoder(in).Decode(&events); err != nil {
		var wrongType *json.UnmarshalTypeError
		var notBase64 base64.CorruptInputError
		switch {
		case errors.As(err, &notBase64):
			err = fmt.Errorf("a Payload is not base64: %w", err)
		case errors.As(err, &wrongType) && wrongType.Field == "":
			err = fmt.Errorf("expected a list of events, [ {...} ], got a %s at byte %d", wrongType.Value, wrongType.Offset)
		case errors.As(err, &wrongType):
			err = fmt.Errorf("the %s of an event is a %s, expected a %s", wrongType.Field, wrongType.Value, wrongType.Type.Kind())
		}
		return nil, 0, fmt.Errorf("parse Consul events: %w", err)
	}
	if len(events) == 0 {
		return nil, 0, ErrNoEvents
	}
	return &events[len(events)-1], len(events) - 1, nil
}
