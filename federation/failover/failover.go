// Package failover decides which exports serve, and for whom.
//
// Health has two signals: the control view (what the member's API server says, and whether hub and member still
// hear each other) and the data view (probes of other members through the path that traffic takes). Neither alone
// evicts an export that still serves. The rules are in rules.go, in the order in which they are asked.
//
// A [State] is changed in three steps: Plan says what an event would change and changes nothing, the caller stores
// the decisions, Apply makes the change. Applying the same transitions gives the same state.
package failover

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Policy holds the times of failover. The zero value is not useful, start from [DefaultPolicy].
type Policy struct {
	// Grace is how long a lost control view is borne before it counts against the member.
	Grace time.Duration
	// FailbackDelay is how long an export must have been good, without a break, before it serves again. Since
	// down is immediate, it also bounds switches to one per FailbackDelay and direction.
	FailbackDelay time.Duration
	// Fresh is how long an observation of a cluster's ingress counts, FreshVIP one of a single VIP, which are probed
	// more seldom.
	Fresh, FreshVIP time.Duration
}

// DefaultPolicy suits members some 10 ms apart whose observers probe each other's ingress twice a second, and each VIP
// every five seconds.
func DefaultPolicy() Policy {
	return Policy{Grace: 5 * time.Second, FailbackDelay: 10 * time.Second, Fresh: 3 * time.Second, FreshVIP: 15 * time.Second}
}

// Reason says why an export is in its state.
type Reason string

// The reasons of decisions. They stand in the journal, in endpoint sets and in the status of objects.
const (
	// Serving: ready endpoints, and reachable as far as anybody knows.
	Serving Reason = "Serving"
	// ServingStale: the control view is lost, but observers still reach it.
	ServingStale Reason = "ServingStale"
	// NoReadyEndpoints: the member's API server calls no endpoint ready.
	NoReadyEndpoints Reason = "NoReadyEndpoints"
	// UnreachableByQuorum: most fresh observers do not reach it.
	UnreachableByQuorum Reason = "UnreachableByQuorum"
	// UnreachableByObserver: this consumer's own observer does not reach it, most others do.
	UnreachableByObserver Reason = "UnreachableByObserver"
	// ControlLostUnreachable: the control view is lost for the grace time and an observer does not reach it.
	ControlLostUnreachable Reason = "ControlLostUnreachable"
	// ControlLostUnobserved: the link is lost for the grace time and nobody observes it.
	ControlLostUnobserved Reason = "ControlLostUnobserved"
)

// Event is something that happened. The types below are all there are.
type Event interface{ event() }

type (
	// ExportChanged is an export that is new, or whose readiness changed.
	ExportChanged struct{ Export federation.Export }
	// ExportRemoved is an export that its member no longer offers.
	ExportRemoved struct{ Key federation.ExportKey }
	// ClusterGone is a member that left: it is forgotten with all its exports and observations.
	ClusterGone struct{ Cluster federation.ClusterID }
	// LinkChanged says whether the spoke's link is alive.
	LinkChanged struct {
		Cluster federation.ClusterID
		Up      bool
	}
	// APIChanged says whether the hub reaches the member's API server.
	APIChanged struct {
		Cluster federation.ClusterID
		Up      bool
	}
	// Observed is a probe's result, At in the hub's time.
	Observed struct {
		Observer  federation.ClusterID
		Target    federation.Target
		Reachable bool
		At        time.Time
	}
	// Tick is time that passed; it is due at [State.Deadline].
	Tick struct{}
)

func (ExportChanged) event() {}
func (ExportRemoved) event() {}
func (ClusterGone) event()   {}
func (LinkChanged) event()   {}
func (APIChanged) event()    {}
func (Observed) event()      {}
func (Tick) event()          {}

// Vote is one observer's view of an export, as it entered a decision.
type Vote struct {
	Observer  federation.ClusterID
	Reachable bool
	Age       time.Duration
	// Doubtful votes do not count: their observer fails most of what it probes, so it is the one to doubt.
	Doubtful bool
}

// Inputs are what a decision was taken on.
type Inputs struct {
	Ready int
	// LinkLost and APILost say for how long; negative means not lost.
	LinkLost time.Duration
	APILost  time.Duration
	// Votes are the fresh ones, sorted by observer.
	Votes []Vote
}

// Decision is a change of an export's state for one consumer, or for all.
type Decision struct {
	At     time.Time
	Export federation.ExportKey
	// Consumer is empty for all consumers.
	Consumer federation.ClusterID
	From, To federation.Health
	Reason   Reason
	Inputs   Inputs
}

// Verdict is the state of an export as one consumer should see it.
type Verdict struct {
	Health federation.Health
	Reason Reason
	Stale  bool
	// Since is when Health last changed.
	Since time.Time
}

// fresh is how long an observation of the target counts.
func (p Policy) fresh(t federation.Target) time.Duration {
	if t.Service == (federation.ServiceID{}) {
		return p.Fresh
	}
	return p.FreshVIP
}
