package spoke

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// egressAddrs are the addresses of the egress proxies that Envoy and the pods may be sent to, sorted: the one that is
// configured, or those of the replicas behind the configured Service. A replica whose stream to the spoke has ended is left
// out, for Kubernetes takes far longer to notice that a node is dead. It is not while it is all that is left: proxies go
// on without their spoke.
func (s *Spoke) egressAddrs() []netip.Addr {
	if s.cfg.EgressService == (Name{}) {
		return []netip.Addr{s.cfg.EgressAddr}
	}
	ready := map[netip.Addr]bool{}
	for _, p := range s.local.services[s.cfg.EgressService].Ports {
		for _, a := range p.Ready {
			ready[a.Addr()] = true
		}
	}
	known := maps.Clone(ready)
	for k, x := range s.proxies.byKey {
		if k.Role == Egress && x.status.Listen.IsValid() && x.status.Applied > 0 && x.streams > 0 {
			known[x.status.Listen] = !x.status.Draining
		}
	}
	for a := range s.proxies.lost {
		known[a] = false
	}
	maps.DeleteFunc(known, func(_ netip.Addr, up bool) bool { return !up })
	if len(known) == 0 {
		known = ready
	}
	return slices.SortedFunc(maps.Keys(known), netip.Addr.Compare)
}

// settleEgressAddrs notes where the egress proxies are now, and what has to be told anew if they moved.
func (s *Spoke) settleEgressAddrs(d *dirty) {
	next := s.egressAddrs()
	s.forgetLost()
	if slices.Equal(next, s.out.egressAddrs) {
		return
	}
	s.out.egressAddrs = next
	for id := range s.out.sets {
		d.service(id)
	}
	for name := range s.backends.byName {
		d.backend(name)
	}
}

// forgetLost drops the lost replicas that Kubernetes has noticed too: another pod may get the address.
func (s *Spoke) forgetLost() {
	maps.DeleteFunc(s.proxies.lost, func(a netip.Addr, _ bool) bool {
		return !slices.ContainsFunc(s.local.services[s.cfg.EgressService].Ports, func(p ServicePort) bool {
			return slices.ContainsFunc(p.Ready, func(r netip.AddrPort) bool { return r.Addr() == a })
		})
	})
}

// lead returns an endpoint for each egress proxy, at the port that it has for a remote one.
func (s *Spoke) lead(e Endpoint, port uint16) []Endpoint {
	out := make([]Endpoint, 0, len(s.out.egressAddrs))
	for _, a := range s.out.egressAddrs {
		e.Addr = netip.AddrPortFrom(a, port)
		out = append(out, e)
	}
	return out
}

// share divides the weight of each cluster among its addresses, within a priority: a cluster with many addresses counts
// no more than one with few. The weights are multiplied as far as that takes to stay whole.
func share(es []Endpoint) {
	type part struct {
		priority uint32
		cluster  federation.ClusterID
	}
	counts, common := map[part]uint32{}, map[uint32]uint32{}
	for _, e := range es {
		counts[part{e.Priority, e.Cluster}]++
	}
	for p, n := range counts {
		common[p.priority] = leastCommonMultiple(max(common[p.priority], 1), n)
	}
	for i, e := range es {
		es[i].Weight *= common[e.Priority] / counts[part{e.Priority, e.Cluster}]
	}
}

func leastCommonMultiple(a, b uint32) uint32 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}
