package eventinput

import (
	"log"
	"os"

	"github.com/fujiwara/stretcher/internal/redact"
)

// Serf logs which event a Serf agent runs this handler for, and returns its
// Lamport time. It is "" without such an agent
// (https://www.serf.io/docs/agent/event-handlers.html).
func Serf() (lamportTime string) {
	kind, name := os.Getenv("SERF_EVENT"), os.Getenv("SERF_USER_EVENT")
	switch {
	case kind == "query":
		log.Println("Reading Serf query:", redact.Printable(os.Getenv("SERF_QUERY_NAME")))
		lamportTime = os.Getenv("SERF_QUERY_LTIME")
	case kind == "user" || name != "":
		log.Println("Reading Serf user event:", redact.Printable(name))
		lamportTime = os.Getenv("SERF_USER_LTIME")
	case kind != "":
		log.Println("Reading Serf event:", redact.Printable(kind))
	}
	if lamportTime != "" {
		log.Println("Serf Lamport time:", redact.Printable(lamportTime))
	}
	return lamportTime
}
