package stretcher

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/fujiwara/stretcher/internal/eventinput"
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
// is the newest. The others are not decoded. For an array without events, the error is
// ErrNoEvents.
func ParseConsulEvents(in io.Reader) (*ConsulEvent, error) {
	last, _, err := lastConsulEvent(in)
	return last, err
}

// lastConsulEvent is ParseConsulEvents, and counts the events before the last.
func lastConsulEvent(in io.Reader) (last *ConsulEvent, earlier int, err error) {
	var events []json.RawMessage
	if err := json.NewDecoder(in).Decode(&events); err != nil {
		return nil, 0, eventinput.ListError(err)
	}
	if len(events) == 0 {
		return nil, 0, ErrNoEvents
	}
	// An earlier event that is wrong must not keep the newest from being deployed.
	last = new(ConsulEvent)
	if err := json.Unmarshal(events[len(events)-1], last); err != nil {
		return nil, 0, eventinput.ListError(err)
	}
	return last, len(events) - 1, nil
}
