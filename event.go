package stretcher

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"strings"

	"github.com/fujiwara/stretcher/internal/eventinput"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
	"github.com/fujiwara/stretcher/internal/state"
)

// event is what the agent was started for.
type event struct {
	manifestURL string
	id          string      // Consul's ID or Serf's Lamport time, where there is one
	origin      state.Event // without a kind where nothing tells the event from others
}

// readEvent reads one event from in: Consul's JSON, a Serf payload or a manifest
// URL. It waits for the end of the event, or of ctx. After an error, the event has what
// is known of it, or is nil.
func readEvent(ctx context.Context, in io.Reader) (*event, error) {
	serf := eventinput.Serf()
	text, err := eventinput.Read(ctx, in)
	if err != nil {
		return &event{origin: serf}, err
	}
	return parseEvent(text, serf)
}

// parseEvent parses the JSON of Consul, a Serf payload or a manifest URL. serf
// is what the environment says about an event.
func parseEvent(text string, serf state.Event) (*event, error) {
	if strings.HasPrefix(text, "[") || text == "null" && os.Getenv("CONSUL_INDEX") != "" {
		return parseConsulEvent(text)
	}
	if err := eventinput.Mistake(text); err != nil {
		return &event{origin: serf}, err
	}
	return newEvent(text, serf)
}

// parseConsulEvent returns the last event of a list.
func parseConsulEvent(text string) (*event, error) {
	ce, earlier, err := lastConsulEvent(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if earlier > 0 {
		log.Printf("Skipping %s", runlog.Count(earlier, "earlier event"))
	}
	log.Println("Consul event ID:", redact.Printable(ce.ID))
	log.Printf("Consul event name: %s, Lamport time: %d", redact.Printable(ce.Name), ce.LTime)
	origin := state.Event{Kind: state.Consul, Name: ce.Name, ID: ce.ID}
	url := strings.TrimSpace(string(ce.Payload))
	if err := eventinput.PayloadMistake(url, ce.ID, ce.Name); err != nil {
		return &event{origin: origin}, err
	}
	return newEvent(url, origin)
}

func newEvent(url string, origin state.Event) (*event, error) {
	if strings.ContainsAny(url, "\r\n\x00") {
		return &event{origin: origin}, errors.New("the event holds more than one line: expected one manifest URL") // no quotation: it may be a manifest
	}
	return &event{manifestURL: url, id: origin.ID, origin: origin}, nil
}
