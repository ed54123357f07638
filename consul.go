package stretcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ConsulEvent is one event as consul watch -type event hands it to its
// handler (https://developer.hashicorp.com/consul/api-docs/event). Payload is
// decoded from base64, and nil where the event has none.
type ConsulEvent struct {
	ID      string `json:"ID"`
	Name    string `json:"Name"`
	Payload []byte `json:"Payload"`
	LTime   int    `json:"LTime"`
}

// ConsulEvents is what a handler of consul watch finds on stdin: the events
// it has not been given yet, the oldest first.
type ConsulEvents []ConsulEvent

// errNoEvents is an empty event list, as every consul watch sends at its
// start. It is not a failure: there is nothing to deploy.
var errNoEvents = errors.New("no Consul event in the list")

// ParseConsulEvents reads a JSON array of events and returns the last one,
// which is the newest. An array without events is an error.
func ParseConsulEvents(in io.Reader) (*ConsulEvent, error) {
	var events ConsulEvents
	if err := json.NewDecoder(in).Decode(&events); err != nil {
		return nil, fmt.Errorf("parse Consul events: %w", err)
	}
	if len(events) == 0 {
		return nil, errNoEvents
	}
	return &events[len(events)-1], nil
}
