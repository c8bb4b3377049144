package hub

import (
	"context"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// The methods below tell the hub something. They return once the loop has taken it, and fail only when ctx ends.

// SetExport says that a member offers an export, or offers it in a new state.
func (h *Hub) SetExport(ctx context.Context, x federation.Export) error {
	return h.decide(ctx, failover.ExportChanged{Export: x})
}

// RemoveExport says that a member no longer offers an export.
func (h *Hub) RemoveExport(ctx context.Context, k federation.ExportKey) error {
	return h.decide(ctx, failover.ExportRemoved{Key: k})
}

// ExportsListed says that all exports that a member's API server has were told.
func (h *Hub) ExportsListed(ctx context.Context, c federation.ClusterID) error {
	return h.send(ctx, coordinator.ExportsListed{Cluster: c})
}

// Expect says which members are accepted. A hub that has lost its store speaks once it knows the exports of them all.
func (h *Hub) Expect(ctx context.Context, accepted []federation.ClusterID) error {
	return h.send(ctx, coordinator.MembersExpected{Clusters: slices.Clone(accepted)})
}

// RemoveCluster says that a member left the federation.
func (h *Hub) RemoveCluster(ctx context.Context, c federation.ClusterID) error {
	return h.send(ctx, coordinator.MemberGone{Cluster: c})
}

// DismissCluster says that a member left for good: its VIPs are deleted without resting first.
func (h *Hub) DismissCluster(ctx context.Context, c federation.ClusterID) error {
	return h.send(ctx, coordinator.MemberGone{Cluster: c, ForGood: true})
}

// APIState says whether the hub reaches a member's API server.
func (h *Hub) APIState(ctx context.Context, c federation.ClusterID, up bool, reason string) error {
	h.Log.Info("member API server", "cluster", string(c), "up", up, "reason", reason)
	return h.decide(ctx, failover.APIChanged{Cluster: c, Up: up})
}

// Joined says that a member's spoke joined from a locality.
func (h *Hub) Joined(ctx context.Context, c federation.ClusterID, l federation.Locality) error {
	return h.send(ctx, coordinator.MemberSeen{Cluster: c, Locality: l})
}

// LinkState says whether a member's link is alive.
func (h *Hub) LinkState(ctx context.Context, c federation.ClusterID, up bool) error {
	return h.decide(ctx, failover.LinkChanged{Cluster: c, Up: up})
}

// Observed gives the result of an observer's probe, that ended age ago.
func (h *Hub) Observed(ctx context.Context, observer federation.ClusterID, t federation.Target, reachable bool, age time.Duration) error {
	return h.decide(ctx, failover.Observed{Observer: observer, Target: t, Reachable: reachable, At: h.Now().Add(-age)})
}

// Operate says what an operator wants of a cluster, or of one export. Only the store can tell whether it was done.
func (h *Hub) Operate(ctx context.Context, o failover.Operated) error { return h.decide(ctx, o) }

// Hosts gives the ingress hosts of a member that serve now.
func (h *Hub) Hosts(ctx context.Context, c federation.ClusterID, hosts []ledger.Host) error {
	return h.send(ctx, coordinator.MemberHosts{Cluster: c, Hosts: hosts})
}

// Interest gives the services that a member refers to.
func (h *Hub) Interest(ctx context.Context, c federation.ClusterID, i federation.Interest) error {
	return h.send(ctx, coordinator.MemberInterest{Cluster: c, Interest: i})
}

// SetPolicies gives all policies that there are, and the one for what none of them selects.
func (h *Hub) SetPolicies(ctx context.Context, fallback policy.Policy, policies []policy.Policy) error {
	return h.send(ctx, coordinator.PoliciesSet{Fallback: fallback, Policies: slices.Clone(policies)})
}

func (h *Hub) decide(ctx context.Context, e failover.Event) error {
	return h.send(ctx, coordinator.Failover{Event: e})
}

// Exports returns the exports that the hub has of a member, sorted.
func (h *Hub) Exports(ctx context.Context, c federation.ClusterID) ([]federation.ExportKey, error) {
	return ask(ctx, h, func(co *coordinator.Coordinator) []federation.ExportKey { return co.State().Exports(c) })
}

// CountExports returns how many exports the hub has of a member.
func (h *Hub) CountExports(ctx context.Context, c federation.ClusterID) (int, error) {
	return ask(ctx, h, func(co *coordinator.Coordinator) int { return co.State().CountExports(c) })
}

// DryRun says what events would do from now to the horizon. It changes nothing.
func (h *Hub) DryRun(ctx context.Context, events []failover.Event, horizon time.Duration) (coordinator.Forecast, error) {
	return ask(ctx, h, func(co *coordinator.Coordinator) coordinator.Forecast { return co.DryRun(events, h.Now(), horizon) })
}

// Look has the loop give the coordinator to a function, to be read: it must not be changed, nor kept. The loop does nothing
// else meanwhile, so a look should take a millisecond, not a second.
func (h *Hub) Look(ctx context.Context, look func(*coordinator.Coordinator)) error {
	_, err := ask(ctx, h, func(co *coordinator.Coordinator) struct{} {
		look(co)
		return struct{}{}
	})
	return err
}

// ask has the loop answer a question.
func ask[T any](ctx context.Context, h *Hub, question func(*coordinator.Coordinator) T) (T, error) {
	answer := make(chan T, 1)
	if err := h.put(ctx, event{ask: func(co *coordinator.Coordinator) { answer <- question(co) }}); err != nil {
		var zero T
		return zero, err
	}
	return <-answer, nil // the loop answers before it takes anything else
}
