// Package failover decides which exports serve, and for whom.
//
// Health has two signals: the control view (what the member's API server says, and whether hub and member still
// hear each other) and the data view (probes of other members through the path that traffic takes). Neither alone
// evicts an export that still serves. The rules are in rules.go, in the order in which they are asked.
//
// What is judged is a subject: a whole cluster, by its link, its API server and the probes of its ingress; or one
// export of it, by its readiness and the probes of its VIP. An export is as good as the worse of the two. So a
// cluster that dies is one decision and not one for each of its exports.
//
// A [State] is changed in three steps: Plan says what an event would change and changes nothing, the caller stores
// the decisions, Apply makes the change. Applying the same transitions gives the same state.
package failover

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// Config is what a state needs to know beside its policies.
type Config struct {
	// Fresh is how long an observation of a cluster's ingress counts, FreshVIP one of a single VIP, which are probed
	// more seldom.
	Fresh, FreshVIP time.Duration
	// Rules are asked in their order; [Table] by default.
	Rules []Rule
}

// DefaultConfig suits observers that probe each other's ingress twice a second, and each VIP every five seconds.
func DefaultConfig() Config {
	return Config{Fresh: 3 * time.Second, FreshVIP: 15 * time.Second, Rules: Table()}
}

// fresh is how long an observation of the target counts.
func (c Config) fresh(t federation.Target) time.Duration {
	if t.Service == (federation.ServiceID{}) {
		return c.Fresh
	}
	return c.FreshVIP
}

// Reason says why a subject is in its state.
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
	// Draining: an operator drains it, its weight falls.
	Draining Reason = "Draining"
	// Drained: an operator drained it, it takes no new traffic.
	Drained Reason = "Drained"
	// Cordoned: an operator cordoned it. It serves those whose first choice it is, the last of all others, and does
	// not come back once it is down.
	Cordoned Reason = "Cordoned"
	// Pinned: an operator pinned the service to it. It serves everybody, and health does not move the traffic away.
	Pinned Reason = "Pinned"
	// Released: an operator took back what he wanted of it.
	Released Reason = "Released"
	// Recovering: its cluster is back, but the policy of this export waits longer than the federation's default.
	Recovering Reason = "Recovering"
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
	// Operated is what an operator wants of a cluster (Subject without a service) or of one export.
	Operated struct {
		Subject federation.Target
		Mode    Mode
		// Ramp is how long a drain takes; negative for the policy's.
		Ramp time.Duration
	}
	// PoliciesChanged are the policies that count from now on.
	PoliciesChanged struct{ Policies *policy.Set }
	// Tick is time that passed; it is due at [State.Deadline].
	Tick struct{}
)

func (ExportChanged) event()   {}
func (ExportRemoved) event()   {}
func (ClusterGone) event()     {}
func (LinkChanged) event()     {}
func (APIChanged) event()      {}
func (Observed) event()        {}
func (Operated) event()        {}
func (PoliciesChanged) event() {}
func (Tick) event()            {}

// Mode is what an operator wants of a subject.
type Mode string

// The modes. Only an export can be pinned, and only one of a service's exports at a time.
const (
	Normal Mode = ""
	Drain  Mode = "Drain"
	Cordon Mode = "Cordon"
	Pin    Mode = "Pin"
)

// maxNamed is how many failing observers a decision names; there may be hundreds.
const maxNamed = 8

// Votes are the observations that entered a decision.
type Votes struct {
	// Reach and Fail count the fresh observers that reach the subject and that do not, Doubted those who fail it but
	// also most of what else they probe: their votes do not count, they are the ones to doubt.
	Reach, Fail, Doubted int
	// Failing names the first of those who do not reach it, doubted ones included, sorted.
	Failing []federation.ClusterID `json:",omitempty"`
}

// Inputs are what a decision was taken on: with them, [Replay] takes it again.
type Inputs struct {
	// Ready is of an export; of a cluster it is -1.
	Ready int
	// LinkLost and APILost say for how long; negative means not lost.
	LinkLost time.Duration
	APILost  time.Duration
	Votes    Votes
	// Reached says of an export that somebody reaches its cluster.
	Reached bool `json:",omitempty"`
	// Blind is set if the decision is for one consumer, whose own fresh observation does not reach the subject.
	Blind bool `json:",omitempty"`
	// Mode is what an operator wanted, ModeFor since how long, Ramp how long a drain takes.
	Mode    Mode          `json:",omitempty"`
	ModeFor time.Duration `json:",omitempty"`
	Ramp    time.Duration `json:",omitempty"`
	// Times are the policy's, Policy its name.
	Times  policy.Times
	Policy string `json:",omitempty"`
	// Operated is set if an operator's wish is what happened, New if the export was not there before, Waits if its
	// cluster came back but the export's policy waits longer.
	Operated bool `json:",omitempty"`
	New      bool `json:",omitempty"`
	Waits    bool `json:",omitempty"`
	// Before is the cell that the decision moved.
	Before Cell
}

// Cell is the delayed state of a subject for one consumer, or for everybody. The zero Cell serves.
type Cell struct {
	Down   bool      `json:",omitempty"`
	Reason Reason    `json:",omitempty"`
	Since  time.Time `json:",omitzero"`
	// GoodSince is when a cell that is down began to look good again; zero while it does not.
	GoodSince time.Time `json:",omitzero"`
	// Returned is when it last came back; zero if it never was down.
	Returned time.Time `json:",omitzero"`
}

// Decision is a change of a subject's state for one consumer, or for all.
type Decision struct {
	At time.Time
	// Subject is an export, or a whole cluster if its service is zero.
	Subject federation.Target
	// Consumer is empty for all consumers.
	Consumer federation.ClusterID `json:",omitempty"`
	From, To federation.Health
	Reason   Reason
	Inputs   Inputs
}

// Verdict is the state of an export as one consumer should see it.
type Verdict struct {
	Health federation.Health
	Reason Reason
	// Stale is set while the control view of the cluster is lost and nothing else says that it is down.
	Stale bool
	// Share is the percentage of its weight that the export takes now, 0 to 100: less than all while it ramps.
	Share uint8
	// Cordoned exports rank behind all others where they are not the first choice; a pinned one is the only choice.
	Cordoned, Pinned bool
	// Since is when Health last changed; zero if it never did, or so long ago that nothing depends on it any more.
	Since time.Time
}
