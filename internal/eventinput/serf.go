package eventinput

import (
	"log"
	"os"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/state"
)

// Serf logs which event a Serf agent runs this handler for, and returns it, its ID
// being the Lamport time. That is "" without such an agent
// (https://www.serf.io/docs/agent/event-handlers.html).
//
// A command of a deployment has the variables of the event that started it. In an
// agent that such a command runs, the event has no kind, since it is not what that
// agent deploys.
func Serf() (e state.Event) {
	kind, name := os.Getenv("SERF_EVENT"), os.Getenv("SERF_USER_EVENT")
	switch {
	case kind == "query":
		e = state.Event{Kind: state.SerfQuery, Name: os.Getenv("SERF_QUERY_NAME"), ID: os.Getenv("SERF_QUERY_LTIME")}
		log.Println("Reading Serf query:", redact.Printable(e.Name))
	case kind == "user" || name != "":
		e = state.Event{Kind: state.Serf, Name: name, ID: os.Getenv("SERF_USER_LTIME")}
		log.Println("Reading Serf user event:", redact.Printable(name))
	case kind != "":
		log.Println("Reading Serf event:", redact.Printable(kind))
	}
	if e.ID != "" {
		log.Println("Serf Lamport time:", redact.Printable(e.ID))
	}
	if e.ID == os.Getenv("STRETCHER_EVENT_ID") {
		e.Kind = ""
	}
	return e
}
