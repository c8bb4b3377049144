package failover

import (
	"fmt"

	"github.com/tailgate-project/tailgate/federation"
)

// outcome is what a cell becomes and why.
type outcome struct {
	cell   Cell
	reason Reason
	stale  bool
}

// decide moves the cell of the inputs. It sees nothing but its arguments: what it decided once it decides again.
func decide(rules []Rule, d Decision) outcome {
	in := d.Inputs
	o := Opinion{Down: in.Blind, Reason: UnreachableByObserver}
	if d.Consumer == everybody {
		o = judge(rules, in)
	}
	if in.Waits && !o.Down {
		// The cluster is back, the policy of this export waits longer than the cluster's.
		c := in.Before
		c.Down, c.Reason, c.Since = true, Recovering, d.At
		return outcome{cell: c, reason: Recovering}
	}
	after := in.Before.next(o, in, d.At)
	out := outcome{cell: after, reason: o.Reason, stale: o.Stale}
	switch {
	case after.Down:
		out.reason = after.Reason
	case o.Down || d.Consumer != everybody:
		out.reason = Serving
	}
	return out
}

// modeReason says what an operator's wish did.
func modeReason(m Mode) Reason {
	switch m {
	case Drain:
		return Draining
	case Cordon:
		return Cordoned
	case Pin:
		return Pinned
	}
	return Released
}

// Replay takes a decision again, on the inputs that it carries, and returns what it is now. Under the rules by which
// it was taken, that is the decision itself.
func Replay(rules []Rule, d Decision) Decision {
	out := decide(rules, d)
	d.From, d.To, d.Reason = health(d.Inputs.Before.Down || d.Inputs.New), health(out.cell.Down), out.reason
	if d.Inputs.Operated && d.From == d.To {
		d.Reason = modeReason(d.Inputs.Mode)
	}
	return d
}

// everybody stands for all consumers where one could be named.
const everybody federation.ClusterID = ""

// ReplayAll takes all decisions of a journal again and returns an error for the first that comes out otherwise.
func ReplayAll(rules []Rule, decisions []Decision) error {
	for i, d := range decisions {
		if got := Replay(rules, d); got.From != d.From || got.To != d.To || got.Reason != d.Reason {
			return fmt.Errorf("decision %d on %s for %q at %s: %v to %v, %s; taken again on its inputs it is %v to %v, %s",
				i, d.Subject, d.Consumer, d.At, d.From, d.To, d.Reason, got.From, got.To, got.Reason)
		}
	}
	return nil
}
