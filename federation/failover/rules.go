package failover

import "time"

// Opinion is what the inputs say of a subject at one moment, before any delay.
type Opinion struct {
	Down   bool
	Reason Reason
	// Stale says that the control view is lost and the subject serves all the same.
	Stale bool
}

// Rule looks at the inputs and has an opinion, or none.
type Rule func(Inputs) (Opinion, bool)

// Table returns the rules in the order in which they are asked: the first that has an opinion is followed. A subject
// of which no rule has an opinion serves.
func Table() []Rule {
	return []Rule{Emptied, NoneReady, Unreachable, LostAndUnreachable, LostAndUnobserved, LostButServing}
}

// judge asks the rules.
func judge(rules []Rule, in Inputs) Opinion {
	for _, r := range rules {
		if o, ok := r(in); ok {
			return o
		}
	}
	return Opinion{Reason: Serving}
}

// Emptied holds when a drain has come to its end.
func Emptied(in Inputs) (Opinion, bool) {
	return Opinion{Down: true, Reason: Drained}, in.Mode == Drain && in.ModeFor >= in.Ramp
}

// NoneReady holds for an export that its member's API server calls unready, whatever anybody reaches.
func NoneReady(in Inputs) (Opinion, bool) {
	return Opinion{Down: true, Reason: NoReadyEndpoints}, in.Ready == 0
}

// Unreachable holds when most of the observers whose votes count do not reach the subject.
func Unreachable(in Inputs) (Opinion, bool) {
	all := in.Votes.Reach + in.Votes.Fail
	return Opinion{Down: true, Reason: UnreachableByQuorum}, all > 0 && in.Votes.Fail >= all/2+1
}

// LostAndUnreachable needs the grace time although an observer has spoken: a lost link and one failing observer may be
// one cut wire.
func LostAndUnreachable(in Inputs) (Opinion, bool) {
	return Opinion{Down: true, Reason: ControlLostUnreachable}, in.Votes.Fail > 0 && max(in.LinkLost, in.APILost) >= in.Times.Grace
}

// LostAndUnobserved holds for a cluster whose link is lost for the grace time and that nobody observes. A lost API
// server alone evicts nobody: its workloads go on.
func LostAndUnobserved(in Inputs) (Opinion, bool) {
	unobserved := in.Ready == notAnExport && in.Votes.Reach+in.Votes.Fail == 0
	return Opinion{Down: true, Reason: ControlLostUnobserved}, unobserved && in.LinkLost >= in.Times.Grace
}

// LostButServing holds when the control view is lost and nothing says that the subject is down.
func LostButServing(in Inputs) (Opinion, bool) {
	return Opinion{Reason: ServingStale, Stale: true}, in.LinkLost >= 0 || in.APILost >= 0
}

const (
	// notAnExport is [Inputs.Ready] of a whole cluster.
	notAnExport = -1
	// notLost and neverHeard are [Inputs.LinkLost] and APILost of a signal that is there, and of one that a hub that
	// has just started has not heard of yet.
	notLost    time.Duration = -1
	neverHeard time.Duration = -2
)

// evidence reports whether something says that the subject is there. A cell that is down does not recover on silence:
// a hub that restarts would take the dead for living until somebody tells it otherwise.
func (in Inputs) evidence() bool { return in.LinkLost == notLost || in.Reached || in.Votes.Reach > 0 }
