package eventinput

import (
	"log"
	"os"

	"github.com/fujiwara/stretcher/internal/runlog"
)

// Serf logs which event a Serf agent runs this handler for, and returns its
// Lamport time. It is "" without such an agent
// (https://www.serf.io/docs/agent/event-handlers.html).
func Serf() (lamportTime string) {
	kind, name := os.Getenv("SERF_EVENT"), os.Getenv("SERF_USER_EVENT")
	switch {
	case kind == "query":
		log.Println("Reading Serf query:", runlog.Escape(os.Getenv("SERF_QUERY_NAME")))
		lamportTime = os.Getenv("SERF_QUERY_LTIME")
	case kind == "user" || name != "":
		log.Println("Reading Serf user event:", runlog.Escape(name))
		lamportTime = os.Getenv("SERF_USER_LTIME")
	case kind != "":
		log.Println("Reading Serf event:", runlog.Escape(kind))
	}
	if lamportTime != "" {
		log.Println("Serf Lamport time:", runlog.Escape(lamportTime))
	}
	return lamportTime
}
