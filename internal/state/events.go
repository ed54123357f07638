package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// The kinds of events that can be told from each other.
const (
	Consul    = "consul"
	Serf      = "serf"
	SerfQuery = "serf query"
)

const (
	// maxEvents is how many events of Consul, which itself keeps 256, and names of
	// events of Serf are remembered. The oldest are dropped first.
	maxEvents = 1000
	// maxKey is the longest name or ID that is remembered as it is, in bytes.
	maxKey = 256
)

// Event is what tells an event from others. The zero value is no event, or one that
// cannot be told from others: it is never handled already.
type Event struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	ID   string `json:"id"` // Consul's ID, or the Lamport time of Serf
}

// String names an event in the log.
func (e Event) String() string {
	if e.Kind == Consul {
		return fmt.Sprintf("the Consul event %s", e.ID)
	}
	return fmt.Sprintf("the Serf %s %s with Lamport time %s", map[string]string{Serf: "event", SerfQuery: "query"}[e.Kind], e.Name, e.ID)
}

// Handled is an event that has been handled with success.
type Handled struct {
	Kind string    `json:"kind"`
	Name string    `json:"name,omitempty"` // of an event of Serf
	ID   string    `json:"id,omitempty"`   // of an event of Consul
	Time uint64    `json:"ltime,omitempty"`
	At   time.Time `json:"at"`
}

// handled returns e as it is remembered. It is false for an event that cannot be
// told from others.
func (e Event) handled(at time.Time) (h Handled, ok bool) {
	switch e.Kind {
	case Consul:
		return Handled{Kind: e.Kind, ID: key(e.ID), At: at}, e.ID != ""
	case Serf, SerfQuery:
		ltime, err := strconv.ParseUint(e.ID, 10, 64)
		return Handled{Kind: e.Kind, Name: key(e.Name), Time: ltime, At: at}, err == nil
	}
	return Handled{}, false
}

// Reason says why h makes e a handled event.
func (h Handled) Reason(e Event) string {
	at := h.At.Format(time.RFC3339)
	if later := fmt.Sprint(h.Time); h.Kind != Consul && later != e.ID {
		return fmt.Sprintf("one with Lamport time %s was handled at %s (after the cluster was made anew, remove state.json from the state directory)", later, at)
	}
	return "it was handled at " + at
}

// key returns a short text in UTF-8 that stands for s.
func key(s string) string {
	if len(s) <= maxKey && utf8.ValidString(s) {
		return s
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s)))
}

// sameStream reports whether h and o are the same event of Consul, or events of the
// same name of Serf, of which only the last is remembered.
func (h Handled) sameStream(o Handled) bool {
	return h.Kind == o.Kind && h.Name == o.Name && h.ID == o.ID
}

// find returns what says that e has been handled, nil if nothing does. Of events of
// Serf of one name, those not above the Lamport time of the last one are handled.
func find(list []Handled, e Event) *Handled {
	wanted, ok := e.handled(time.Time{})
	if !ok {
		return nil
	}
	for _, h := range list {
		if h.sameStream(wanted) && wanted.Time <= h.Time {
			return &h
		}
	}
	return nil
}

// remember adds e to a list, whose newest entry is the last.
func remember(list []Handled, e Event, at time.Time) []Handled {
	added, ok := e.handled(at)
	if !ok || find(list, e) != nil {
		return list
	}
	list = slices.DeleteFunc(list, added.sameStream)
	list = append(list, added)
	// Consul's events must not push out the names of Serf, nor these them.
	ofConsul := func(h Handled) bool { return h.Kind == Consul }
	same := 0
	for _, h := range list {
		if ofConsul(h) == ofConsul(added) {
			same++
		}
	}
	if same > maxEvents {
		oldest := slices.IndexFunc(list, func(h Handled) bool { return ofConsul(h) == ofConsul(added) })
		list = slices.Delete(list, oldest, oldest+1)
	}
	return list
}
