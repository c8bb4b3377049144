package tailnet

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 2 * time.Minute
)

// gate keeps callers from an API that is in trouble: after a failure it is shut for as long as the API asked, or for a
// time that doubles with each failure in a row, with jitter so that hubs do not come back together.
type gate struct {
	mu       sync.Mutex
	failures int
	until    time.Time
	why      *Error
}

// shut returns the error that shut the gate, with how long it stays so, or nil when it is open.
func (g *gate) shut(now time.Time) *Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.until.Sub(now)
	if left <= 0 {
		return nil
	}
	e := *g.why
	e.RetryAfter = left
	return &e
}

// ok opens the gate for good.
func (g *gate) ok() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures, g.until, g.why = 0, time.Time{}, nil
}

// fail shuts the gate. Of failures that overlap, the one that lasts longest counts.
func (g *gate) fail(now time.Time, why *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := why.RetryAfter
	if wait <= 0 {
		wait = min(firstBackoff<<min(g.failures, 10), lastBackoff)
		wait = wait/2 + rand.N(wait/2+1)
	} else {
		wait += rand.N(wait/10 + 1) // never earlier than asked for
	}
	g.failures++
	if until := now.Add(wait); until.After(g.until) {
		g.until, g.why = until, why
	}
}
