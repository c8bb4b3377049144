package failover

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// everybody stands for all consumers where one could be named.
const everybody federation.ClusterID = ""

// opinion is what the inputs say of an export at one moment, before any delay.
type opinion struct {
	down   bool
	reason Reason
	stale  bool
}

// rule looks at the inputs and has an opinion, or none.
type rule func(Inputs, Policy) (opinion, bool)

// rules are asked in this order; the first that has an opinion is followed. The last one always has.
var rules = []rule{
	noneReady,
	unreachableByQuorum,
	controlLostUnreachable,
	controlLostUnobserved,
	serves,
}

// decide asks the rules.
func decide(in Inputs, p Policy) opinion {
	for _, r := range rules {
		if o, ok := r(in, p); ok {
			return o
		}
	}
	return opinion{reason: Serving}
}

func noneReady(in Inputs, _ Policy) (opinion, bool) {
	return opinion{down: true, reason: NoReadyEndpoints}, in.Ready == 0
}

func unreachableByQuorum(in Inputs, _ Policy) (opinion, bool) {
	bad, all := count(in.Votes)
	return opinion{down: true, reason: UnreachableByQuorum}, all > 0 && bad >= all/2+1
}

// controlLostUnreachable needs the grace time although an observer has spoken: a lost link and one failing observer
// may be one cut wire.
func controlLostUnreachable(in Inputs, p Policy) (opinion, bool) {
	bad, _ := count(in.Votes)
	return opinion{down: true, reason: ControlLostUnreachable}, bad > 0 && max(in.LinkLost, in.APILost) >= p.Grace
}

func controlLostUnobserved(in Inputs, p Policy) (opinion, bool) {
	_, all := count(in.Votes)
	return opinion{down: true, reason: ControlLostUnobserved}, all == 0 && in.LinkLost >= p.Grace
}

func serves(in Inputs, _ Policy) (opinion, bool) {
	if in.LinkLost >= 0 || in.APILost >= 0 {
		return opinion{reason: ServingStale, stale: true}, true
	}
	return opinion{reason: Serving}, true
}

// blind returns the consumers whose own observer does not reach the export. Their vote may not count against others,
// it counts for themselves.
func blind(votes []Vote) []federation.ClusterID {
	var out []federation.ClusterID
	for _, v := range votes {
		if !v.Reachable {
			out = append(out, v.Observer)
		}
	}
	return out
}

// count returns how many of the votes that count say unreachable, and how many count.
func count(votes []Vote) (bad, all int) {
	for _, v := range votes {
		switch {
		case v.Doubtful:
		case v.Reachable:
			all++
		default:
			all, bad = all+1, bad+1
		}
	}
	return bad, all
}

// cell is the delayed state of an export for one consumer or for everybody. The zero value serves.
type cell struct {
	down   bool
	reason Reason
	since  time.Time
	// goodSince is when a cell that is down began to look good again; zero while it does not.
	goodSince time.Time
}

// next moves a cell: down at once, up only after it was good for the failback delay without a break.
func (c cell) next(down bool, reason Reason, now time.Time, p Policy) cell {
	switch {
	case down && c.down:
		c.reason, c.goodSince = reason, time.Time{}
	case down:
		c = cell{down: true, reason: reason, since: now}
	case c.down && c.goodSince.IsZero():
		c.goodSince = now
	}
	if !down && c.down && !now.Before(c.goodSince.Add(p.FailbackDelay)) {
		c = cell{since: now}
	}
	return c
}

// deadline returns when next would move the cell by time alone.
func (c cell) deadline(p Policy) (time.Time, bool) {
	return c.goodSince.Add(p.FailbackDelay), c.down && !c.goodSince.IsZero()
}
