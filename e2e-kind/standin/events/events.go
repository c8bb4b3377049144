// Package events keeps what the Envoy stand-in did with each xDS response, so that a harness can see when an update
// arrived. Test equipment, never part of the product.
package events

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Outcomes of a response.
const (
	Ack  = "ack"
	Nack = "nack"
)

// Event is one xDS response that was applied or refused, or a change of a stream ("connected", "disconnected").
type Event struct {
	Time    time.Time `json:"time"` // when the response had been applied, RFC 3339 with nanoseconds
	Source  string    `json:"source"`
	Type    string    `json:"type"`
	Names   []string  `json:"names,omitempty"`
	Removed []string  `json:"removed,omitempty"`
	Version string    `json:"version,omitempty"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
}

// Log is a bounded ring of events. Its methods may be called from several goroutines.
type Log struct {
	mu     sync.Mutex
	ring   []Event
	next   int
	now    func() time.Time
	mirror *json.Encoder
	failed error
}

// New returns a log of the last size events. Each event is also written to mirror as a JSON line if it is not nil.
func New(size int, now func() time.Time, mirror io.Writer) *Log {
	l := &Log{ring: make([]Event, 0, size), now: now}
	if mirror != nil {
		l.mirror = json.NewEncoder(mirror)
	}
	return l
}

// Add stamps and records an event.
func (l *Log) Add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Time = l.now()
	if len(l.ring) < cap(l.ring) {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.next] = e
		l.next = (l.next + 1) % len(l.ring)
	}
	if l.mirror != nil && l.failed == nil {
		l.failed = l.mirror.Encode(e)
	}
}

// All returns the recorded events, oldest first.
func (l *Log) All() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]Event{}, l.ring[l.next:]...), l.ring[:l.next]...)
}

// Err returns the first failure to write the mirror.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}
