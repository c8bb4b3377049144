package spoke

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// egressAddrs are the addresses of the egress proxies that Envoy and the pods may be sent to, by tailnet and sorted: the one
// that is configured, or those of the replicas behind the proxies' Services. A replica whose stream to the spoke has ended is
// left out, for Kubernetes takes far longer to notice that a node is dead. It is not while it is all that is left: proxies go
// on without their spoke. One that the spoke hears before Kubernetes calls it ready is in, and one that Kubernetes no longer
// calls ready is out, for it may be about to end.
func (s *Spoke) egressAddrs() map[string][]netip.Addr {
	if !s.cfg.EgressPods {
		return map[string][]netip.Addr{"": {s.cfg.EgressAddr}}
	}
	ready, known := map[string]map[netip.Addr]bool{}, map[string]map[netip.Addr]bool{}
	note := func(into map[string]map[netip.Addr]bool, tailnet string, a netip.Addr, up bool) {
		if into[tailnet] == nil {
			into[tailnet] = map[netip.Addr]bool{}
		}
		into[tailnet][a] = up
	}
	for tailnet, a := range s.local.egressPods() {
		note(ready, tailnet, a, true)
		note(known, tailnet, a, !s.proxies.lost[a])
	}
	for k, x := range s.proxies.byKey {
		if k.Role == Egress && x.status.Listen.IsValid() && x.status.Applied > 0 && x.streams > 0 {
			note(known, k.Tailnet, x.status.Listen, !x.status.Draining && !s.proxies.retired[x.status.Listen])
		}
	}
	out := map[string][]netip.Addr{}
	for tailnet, addrs := range known {
		maps.DeleteFunc(addrs, func(_ netip.Addr, up bool) bool { return !up })
		if len(addrs) == 0 {
			addrs = ready[tailnet]
		}
		if len(addrs) > 0 {
			out[tailnet] = slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare)
		}
	}
	return out
}

// settleEgressAddrs notes where the egress proxies are now, and what has to be told anew if they moved.
func (s *Spoke) settleEgressAddrs(d *dirty) {
	s.retire()
	next := s.egressAddrs()
	s.forgetLost()
	if maps.EqualFunc(next, s.out.egressAddrs, slices.Equal) {
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

// retire notes the replicas that Kubernetes called ready and no longer does, until it does again or another pod has the
// address.
func (s *Spoke) retire() {
	ready := map[netip.Addr]bool{}
	for _, a := range s.local.egressPods() {
		ready[a] = true
		delete(s.proxies.retired, a)
	}
	for a := range s.proxies.serving {
		if !ready[a] {
			s.proxies.retired[a] = true
		}
	}
	s.proxies.serving = ready
	heard := map[netip.Addr]bool{}
	for _, x := range s.proxies.byKey {
		heard[x.status.Listen] = true
	}
	maps.DeleteFunc(s.proxies.retired, func(a netip.Addr, _ bool) bool { return !heard[a] })
}

// forgetLost drops the lost replicas that Kubernetes has noticed too: another pod may get the address.
func (s *Spoke) forgetLost() {
	there := map[netip.Addr]bool{}
	for _, a := range s.local.egressPods() {
		there[a] = true
	}
	maps.DeleteFunc(s.proxies.lost, func(a netip.Addr, _ bool) bool { return !there[a] })
}

// lead returns an endpoint for each egress proxy of a tailnet, at the port that it has for a remote one. There is none where
// the cluster has no proxies in that tailnet.
func (s *Spoke) lead(e Endpoint, tailnet string, port uint16) []Endpoint {
	addrs := s.out.egressAddrs[tailnet]
	if all, ok := s.out.egressAddrs[""]; ok {
		addrs = all // proxies that name no tailnet take everything
	} else if tailnet == "" && len(s.out.egressAddrs) == 1 {
		addrs = slices.Concat(slices.Collect(maps.Values(s.out.egressAddrs))...)
	}
	out := make([]Endpoint, 0, len(addrs))
	for _, a := range addrs {
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
