package hub

import (
	"context"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// VIPState says how far a VIP is.
type VIPState string

// The states of a VIP.
const (
	// VIPAssigned VIPs have an address.
	VIPAssigned VIPState = "assigned"
	// VIPPending ones wait for theirs.
	VIPPending VIPState = "pending"
	// VIPReleased ones are kept for an export that went away, which may come back.
	VIPReleased VIPState = "released"
)

// VIPStates are all of them.
var VIPStates = []VIPState{VIPAssigned, VIPPending, VIPReleased}

// StateOf says how far a VIP is.
func StateOf(e *vip.Entry) VIPState {
	switch {
	case !e.ReleasedAt.IsZero():
		return VIPReleased
	case len(e.Addrs) == 0:
		return VIPPending
	default:
		return VIPAssigned
	}
}

// Stats are the numbers of what a hub has.
type Stats struct {
	Epoch uint64
	// Rebuilding is set while a hub that has lost its store learns what there is, and says nothing.
	Rebuilding bool
	// Exports counts the exports of each member.
	Exports map[federation.ClusterID]int
	VIPs    map[VIPState]int
	// Tasks is how many VIPs the tailnets are still to be asked for.
	Tasks int
}

// Stats returns the numbers of now. It takes time in proportion to the number of VIPs.
func (h *Hub) Stats(ctx context.Context) (Stats, error) {
	s, err := ask(ctx, h, func(co *coordinator.Coordinator) Stats {
		s := Stats{Epoch: h.epoch, Rebuilding: co.Rebuilding(), Exports: map[federation.ClusterID]int{}, VIPs: map[VIPState]int{}}
		for _, c := range co.Members() {
			s.Exports[c] = co.State().CountExports(c)
		}
		for e := range co.Registry().All() {
			s.VIPs[StateOf(e)]++
		}
		return s
	})
	s.Tasks = h.prov.tasks()
	return s, err
}

// tasks is how many there are.
func (p *provisioner) tasks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.Len()
}
