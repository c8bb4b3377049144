package linkstate

import "time"

// missed is after how many silent heartbeats the other side counts as lost.
const missed = 3

// Lease is the hub's view of one member's reports: there, or lost. Streams may overlap when a spoke comes back before
// the hub has noticed that it went; each has a generation, and only the newest counts. Use [NewLease].
//
// The law: the member is there from the opening of a stream until the newest one is closed, or until Tick finds that it
// was not heard of for three heartbeats.
type Lease struct {
	patience   time.Duration
	generation uint64
	up         bool
	heard      time.Time
}

// NewLease returns the lease of a member that is not there, and that is to be heard of once in a heartbeat.
func NewLease(heartbeat time.Duration) *Lease { return &Lease{patience: missed * heartbeat} }

// Open notes a new stream and returns its generation, and whether the member came up by it.
func (l *Lease) Open(now time.Time) (generation uint64, up bool) {
	up = !l.up
	l.generation++
	l.up, l.heard = true, now
	return l.generation, up
}

// Heard notes a report on a stream, and returns whether it counts: one of a stream that was replaced or that was
// silent for too long tells of a time that is over.
func (l *Lease) Heard(generation uint64, now time.Time) bool {
	if generation != l.generation || !l.up {
		return false
	}
	l.heard = now
	return true
}

// Closed notes the end of a stream, and reports whether the member is lost by it.
func (l *Lease) Closed(generation uint64, _ time.Time) bool {
	lost := generation == l.generation && l.up
	if lost {
		l.up = false
	}
	return lost
}

// Patience returns for how long a stream may be silent.
func (l *Lease) Patience() time.Duration { return l.patience }

// Up reports whether the member is there.
func (l *Lease) Up() bool { return l.up }

// Deadline returns when the member will be lost unless it is heard of.
func (l *Lease) Deadline() (time.Time, bool) { return l.heard.Add(l.patience), l.up }

// Tick reports whether the member is lost by the time that passed.
func (l *Lease) Tick(now time.Time) bool {
	if at, up := l.Deadline(); !up || now.Before(at) {
		return false
	}
	l.up = false
	return true
}
