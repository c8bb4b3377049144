package hub

import (
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// edits are changes of members' views.
type edits map[federation.ClusterID]map[string]*linkstate.Resource

func (e edits) put(c federation.ClusterID, r linkstate.Resource) { e.set(c, r.Key(), &r) }

func (e edits) set(c federation.ClusterID, key string, r *linkstate.Resource) {
	if e[c] == nil {
		e[c] = map[string]*linkstate.Resource{}
	}
	e[c][key] = r
}

// publish brings the views in line with what a step changed, and wakes the members that it concerns.
func (h *Hub) publish(s *step) {
	out := edits{}
	for id := range s.services {
		h.publishService(out, id)
	}
	for c := range s.members {
		h.publishMember(out, c)
	}
	for c, notices := range s.notices {
		for key, r := range notices {
			out.set(c, key, r)
		}
	}
	for c, changes := range out {
		h.board.edit(c, changes)
	}
}

// publishAll publishes everything, as after a start.
func (h *Hub) publishAll() {
	s := newStep()
	for c := range h.members {
		s.members[c] = struct{}{}
	}
	for _, e := range h.registry.Entries() {
		s.services[e.Owner.Service] = struct{}{}
	}
	h.publish(s)
}

// publishService computes a service's endpoint set for each member that refers to it, and the owners' own VIPs.
func (h *Hub) publishService(out edits, id federation.ServiceID) {
	exporters := h.exporters(id)
	for c := range h.members {
		h.publishSet(out, c, id, exporters)
		h.publishVIP(out, federation.ExportKey{Cluster: c, Service: id})
	}
}

// exporters are the exports of a service that are there now.
func (h *Hub) exporters(id federation.ServiceID) []federation.ExportKey {
	var out []federation.ExportKey
	for c := range h.members {
		k := federation.ExportKey{Cluster: c, Service: id}
		if _, ok := h.state.Export(k); ok {
			out = append(out, k)
		}
	}
	return out
}

func (h *Hub) publishSet(out edits, consumer federation.ClusterID, id federation.ServiceID, exporters []federation.ExportKey) {
	m := h.members[consumer]
	set := federation.EndpointSet{Consumer: consumer, Service: id}
	if id.Kind == federation.KindService && m.Interest.Wants(id) {
		var candidates []endpoints.Candidate
		for _, k := range exporters {
			e, ok := h.registry.Get(k)
			v, ok2 := h.state.Verdict(k, consumer)
			if !ok || !ok2 || !e.ReleasedAt.IsZero() {
				continue
			}
			candidates = append(candidates, endpoints.Candidate{
				VIP: e.VIP, Locality: h.members[k.Cluster].Locality, Health: v.Health, Reason: string(v.Reason), Stale: v.Stale,
			})
		}
		set = endpoints.Build(consumer, m.Locality, id, candidates)
	}
	r := linkstate.Resource{EndpointSet: &set}
	if len(set.Endpoints) == 0 {
		out.set(consumer, r.Key(), nil)
		return
	}
	out.put(consumer, r)
}

func (h *Hub) publishVIP(out edits, k federation.ExportKey) {
	e, ok := h.registry.Get(k)
	r := linkstate.Resource{VIP: &e.VIP}
	if !ok || !e.ReleasedAt.IsZero() || len(e.Addrs) == 0 {
		r.VIP.Owner = k
		out.set(k.Cluster, r.Key(), nil)
		return
	}
	out.put(k.Cluster, r)
}

// publishMember tells all others about a member, and the member about all others and the services it refers to.
func (h *Hub) publishMember(out edits, c federation.ClusterID) {
	for other := range h.members {
		if other == c {
			continue
		}
		h.publishPeer(out, other, c)
		h.publishPeer(out, c, other)
	}
	if _, ok := h.members[c]; !ok {
		for other := range h.members {
			h.publishPeer(out, other, c)
		}
		return
	}
	for _, e := range h.registry.Entries() { // its interest or locality may be new
		h.publishSet(out, c, e.Owner.Service, h.exporters(e.Owner.Service))
	}
}

func (h *Hub) publishPeer(out edits, to, about federation.ClusterID) {
	m, ok := h.members[about]
	r := linkstate.Resource{Peer: &federation.Peer{Cluster: about, Locality: m.Locality}}
	if !ok {
		out.set(to, r.Key(), nil)
		return
	}
	for _, host := range m.Ingress {
		if ap, err := netip.ParseAddrPort(host.Addr); err == nil { // the link refuses others
			r.Peer.Ingress = append(r.Peer.Ingress, ap)
		}
	}
	slices.SortFunc(r.Peer.Ingress, netip.AddrPort.Compare)
	out.put(to, r)
}
