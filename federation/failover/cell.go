package failover

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// steps is in how many steps a weight ramps.
const steps = 10

// next moves a cell by what the inputs say of it now: down at once; up only after it was good for the failback delay
// without a break, silence being one, and at most once per hold time. What an operator had drained comes back when he
// says so.
func (c Cell) next(o Opinion, in Inputs, now time.Time) Cell {
	switch {
	case o.Down && c.Down:
		c.Reason, c.GoodSince = o.Reason, time.Time{}
		return c
	case o.Down:
		return Cell{Down: true, Reason: o.Reason, Since: now, Returned: c.Returned}
	case !c.Down:
		if c.settled(in, now) {
			return Cell{}
		}
		return c
	case c.Reason == Drained && in.Mode != Drain && in.Mode != Cordon:
		return back(in, now)
	}
	switch {
	case !in.evidence():
		c.GoodSince = time.Time{}
	case c.GoodSince.IsZero():
		c.GoodSince = now
	}
	if at, ok := c.returns(in); ok && !now.Before(at) {
		return back(in, now)
	}
	return c
}

// back is a cell that comes back.
func back(in Inputs, now time.Time) Cell {
	c := Cell{Since: now, Returned: now}
	if c.settled(in, now) {
		return Cell{}
	}
	return c
}

// settled reports whether a cell came back so long ago that nothing of it matters any more.
func (c Cell) settled(in Inputs, now time.Time) bool {
	return !now.Before(c.Returned.Add(max(in.Times.Hold, in.Times.Ramp)))
}

// returns says when a cell that is down comes back if it stays good.
func (c Cell) returns(in Inputs) (time.Time, bool) {
	at := c.GoodSince.Add(in.Times.FailbackDelay)
	if !c.Returned.IsZero() {
		at = later(at, c.Returned.Add(in.Times.Hold))
	}
	return at, c.Down && !c.GoodSince.IsZero() && in.Mode != Cordon
}

// deadline returns when time alone would move the cell or its share.
func (c Cell) deadline(in Inputs, now time.Time) time.Time {
	var at time.Time
	if back, ok := c.returns(in); ok {
		at = earlier(at, back)
	}
	if !c.Down && !c.Returned.IsZero() {
		at = earlier(at, c.Returned.Add(max(in.Times.Hold, in.Times.Ramp)))
		at = earlier(at, nextStep(c.Returned, in.Times.Ramp, now))
	}
	return at
}

// share returns the percentage of its weight that the subject takes: it rises after a return.
func (c Cell) share(in Inputs, now time.Time) uint8 {
	if c.Down || c.Returned.IsZero() || in.Times.Ramp <= 0 {
		return 100
	}
	return uint8(min(100, 10*(1+step(c.Returned, in.Times.Ramp, now))))
}

// drainShare returns the percentage that a subject takes for what an operator wants of it: it falls in a drain.
func drainShare(in Inputs) uint8 {
	switch {
	case in.Mode != Drain:
		return 100
	case in.ModeFor >= in.Ramp:
		return 0
	}
	return uint8(100 - 100/steps*int(steps*in.ModeFor/in.Ramp))
}

// step returns how many of the steps of a ramp are done. One that starts in the future, since another hub whose clock
// is ahead wrote it down, has done none.
func step(start time.Time, ramp time.Duration, now time.Time) int {
	return int(steps * min(ramp, max(0, now.Sub(start))) / ramp)
}

// nextStep returns when the next step of a ramp is due, zero after the last.
func nextStep(start time.Time, ramp time.Duration, now time.Time) time.Time {
	if ramp <= 0 || !now.Before(start.Add(ramp)) {
		return time.Time{}
	}
	done := time.Duration(step(start, ramp, now))
	// Rounded up: a tick that comes a nanosecond before its step would make no progress.
	return start.Add(((done+1)*ramp + steps - 1) / steps)
}

func health(down bool) federation.Health {
	if down {
		return federation.Unhealthy
	}
	return federation.Healthy
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
