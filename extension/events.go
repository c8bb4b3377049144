package extension

import (
	"sync"
	"time"
)

// EventKind says what happened between the endpoint discovery server and an Envoy.
type EventKind string

const (
	// Sent is an assignment on its way to an Envoy.
	Sent EventKind = "Sent"
	// Acked is an Envoy's word that it uses what was sent.
	Acked EventKind = "Acked"
	// Nacked is an Envoy's refusal; it goes on with what it had.
	Nacked EventKind = "Nacked"
)

// Event is one exchange with an Envoy, for timelines.
type Event struct {
	// Seq counts all events of a server from 1.
	Seq  uint64
	Kind EventKind
	At   time.Time
	// Node is the Envoy's node id, and Stream its connection.
	Node   string
	Stream int64
	// Names are the assignments, sorted, and Removed those that were taken away.
	Names   []string
	Removed []string
	Version string
	Nonce   string
	// Error is what a refusal said.
	Error string
}

// eventsKept bounds the memory of [EDS.Events].
const eventsKept = 1024

// events is a ring of the newest events.
type events struct {
	mu   sync.Mutex
	ring []Event
	next uint64
}

func (e *events) add(ev Event) Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	ev.Seq = e.next
	if len(e.ring) < eventsKept {
		e.ring = append(e.ring, ev)
	} else {
		e.ring[(ev.Seq-1)%eventsKept] = ev
	}
	return ev
}

// since returns the kept events after seq, oldest first.
func (e *events) since(seq uint64) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Event
	for s := max(seq, e.next-uint64(len(e.ring))) + 1; s <= e.next; s++ {
		out = append(out, e.ring[(s-1)%eventsKept])
	}
	return out
}
