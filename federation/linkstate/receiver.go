package linkstate

import (
	"errors"
	"time"
)

// The pause before a spoke opens the link again: it doubles from try to try.
const (
	PauseMin = 100 * time.Millisecond
	PauseMax = 5 * time.Second
)

// Receiver is the spoke's end of the link over all its connections, one after the other: what to ask the hub for, when
// the hub counts as silent, and when to try again. What the hub has said is the [State] beside it, which outlives
// connections and processes: that is why a hub of an older epoch is refused on a new connection too. The zero Receiver
// has not tried yet.
//
// A try is: Begin, Joined if the hub lets the spoke in, then any number of Heard and Took, and Ended.
type Receiver struct {
	began    time.Time
	patience time.Duration
	silentAt time.Time
	tries    int
	// whole is set when an update did not follow on the state: then only a full one helps.
	whole bool
}

// Begin notes that a try begins.
func (r *Receiver) Begin(now time.Time) { r.began = now }

// Joined notes that the hub let the spoke in, and that it is to be heard of once in a heartbeat.
func (r *Receiver) Joined(heartbeat time.Duration, now time.Time) {
	r.patience = missed * heartbeat
	r.silentAt = now.Add(r.patience)
}

// Position returns what to ask the hub to go on from: the state's epoch and version, or version 0 of its epoch, which
// stands for everything, if that did not lead on.
func (r *Receiver) Position(epoch, version uint64) (uint64, uint64) {
	if r.whole {
		return epoch, 0
	}
	return epoch, version
}

// Heard notes a message of the hub, whatever is in it.
func (r *Receiver) Heard(now time.Time) { r.silentAt = now.Add(r.patience) }

// Took notes what [State.Apply] made of an update. After any error the connection is of no use any more.
func (r *Receiver) Took(u Update, err error) {
	switch {
	case errors.Is(err, ErrGap):
		r.whole = true
	case err == nil && u.Full:
		r.whole = false
	}
}

// Deadline returns when the hub counts as silent, unless it is heard of.
func (r *Receiver) Deadline() (time.Time, bool) { return r.silentAt, !r.silentAt.IsZero() }

// Ended notes that the try is over, and returns how long to pause before the next one: half of it is certain, the
// other half is scattered by the jitter, which is from 0 up to 1, so that spokes that lost a hub together do not come
// back together. A try that lasted longer than the longest pause was either good or pause enough: it starts over.
func (r *Receiver) Ended(now time.Time, jitter float64) time.Duration {
	if now.Sub(r.began) > PauseMax {
		r.tries = 0
	}
	pause := PauseMin
	for range r.tries {
		if pause = min(2*pause, PauseMax); pause == PauseMax {
			break
		}
	}
	r.tries++
	r.silentAt = time.Time{}
	return pause/2 + time.Duration(jitter*float64(pause/2))
}
