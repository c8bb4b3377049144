package hub

import (
	"context"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/store"
)

// The methods below tell the hub something. They return once the loop has taken it, and fail only when ctx ends.

// SetExport says that a member offers an export, or offers it in a new state.
func (h *Hub) SetExport(ctx context.Context, x federation.Export) error {
	return h.send(ctx, decided{failover.ExportChanged{Export: x}})
}

// RemoveExport says that a member no longer offers an export.
func (h *Hub) RemoveExport(ctx context.Context, k federation.ExportKey) error {
	return h.send(ctx, decided{failover.ExportRemoved{Key: k}})
}

// RemoveCluster says that a member left the federation.
func (h *Hub) RemoveCluster(ctx context.Context, c federation.ClusterID) error {
	return h.send(ctx, memberGone{c})
}

// APIState says whether the hub reaches a member's API server.
func (h *Hub) APIState(ctx context.Context, c federation.ClusterID, up bool, reason string) error {
	h.Log.Info("member API server", "cluster", string(c), "up", up, "reason", reason)
	return h.send(ctx, decided{failover.APIChanged{Cluster: c, Up: up}})
}

// Joined says that a member's spoke joined from a locality.
func (h *Hub) Joined(ctx context.Context, c federation.ClusterID, l federation.Locality) error {
	return h.send(ctx, memberSeen{cluster: c, locality: l})
}

// LinkState says whether a member's link is alive.
func (h *Hub) LinkState(ctx context.Context, c federation.ClusterID, up bool) error {
	return h.send(ctx, decided{failover.LinkChanged{Cluster: c, Up: up}})
}

// Observed gives the result of an observer's probe, that ended age ago.
func (h *Hub) Observed(ctx context.Context, observer federation.ClusterID, t federation.Target, reachable bool, age time.Duration) error {
	return h.send(ctx, decided{failover.Observed{Observer: observer, Target: t, Reachable: reachable, At: h.Now().Add(-age)}})
}

// Hosts gives the ingress hosts of a member that serve now.
func (h *Hub) Hosts(ctx context.Context, c federation.ClusterID, hosts []store.Host) error {
	return h.send(ctx, memberHosts{cluster: c, hosts: hosts})
}

// Interest gives the services that a member refers to.
func (h *Hub) Interest(ctx context.Context, c federation.ClusterID, i store.Interest) error {
	return h.send(ctx, memberInterest{cluster: c, interest: i})
}

// Exports returns the exports that the hub has of a member, sorted.
func (h *Hub) Exports(ctx context.Context, c federation.ClusterID) ([]federation.ExportKey, error) {
	return ask(ctx, h, func(h *Hub) []federation.ExportKey { return h.state.Exports(c) })
}

// CountExports returns how many exports the hub has of a member.
func (h *Hub) CountExports(ctx context.Context, c federation.ClusterID) (int, error) {
	return ask(ctx, h, func(h *Hub) int { return h.state.CountExports(c) })
}

// ask has the loop answer a question.
func ask[T any](ctx context.Context, h *Hub, question func(*Hub) T) (T, error) {
	answer := make(chan T, 1)
	if err := h.send(ctx, asked{ask: func(h *Hub) { answer <- question(h) }}); err != nil {
		var zero T
		return zero, err
	}
	return <-answer, nil // the loop answers before it takes anything else
}

// Members returns the members that the store knew when the hub started, sorted.
func (h *Hub) Members() []federation.ClusterID { return h.stored }
