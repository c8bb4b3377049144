package state

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// View is what nodes are told about each other. It is immutable.
type View struct {
	Domain  string
	Nodes   map[key.NodePublic]NodeView
	Records []tailcfg.DNSRecord // names of the services
}

// NodeView is what nodes are told about one of them.
type NodeView struct {
	ID         tailcfg.StableNodeID
	Machine    key.MachinePublic
	Name       string // fully qualified, with a trailing dot
	Tags       []string
	Authorized bool
	Online     bool
	LastSeen   time.Time // zero while online

	// Routes are the prefixes for which this node is the primary router:
	// services and subnets. Hosted are the services it may host, primary or
	// not.
	Routes []netip.Prefix
	Hosted tailcfg.ServiceIPMappings
}

// View returns the present view.
func (s *State) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		s.view = s.buildViewLocked()
	}
	return s.view
}

func (s *State) buildViewLocked() *View {
	routes, hosted := s.routesLocked()
	v := &View{Domain: s.cfg.Domain, Nodes: make(map[key.NodePublic]NodeView, len(s.devices))}
	for _, d := range s.devicesLocked() {
		v.Nodes[d.NodeKey] = NodeView{
			ID:         d.ID,
			Machine:    d.machine,
			Name:       d.Name + "." + s.cfg.Domain + ".",
			Tags:       slices.Clone(d.Tags),
			Authorized: d.Authorized,
			Online:     d.online(),
			LastSeen:   d.offlineSince,
			Routes:     routes[d.ID],
			Hosted:     hosted[d.ID],
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		for _, a := range s.services[name].Addrs {
			v.Records = append(v.Records, tailcfg.DNSRecord{
				Name:  name.WithoutPrefix() + "." + s.cfg.Domain,
				Value: a.String(),
			})
		}
	}
	return v
}

// routesLocked returns, by device, the prefixes it is the primary router for
// and the services it may host.
func (s *State) routesLocked() (map[tailcfg.StableNodeID][]netip.Prefix, map[tailcfg.StableNodeID]tailcfg.ServiceIPMappings) {
	routes := map[tailcfg.StableNodeID][]netip.Prefix{}
	hosted := map[tailcfg.StableNodeID]tailcfg.ServiceIPMappings{}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		svc := s.services[name]
		for _, id := range svc.Hosts {
			if hosted[id] == nil {
				hosted[id] = tailcfg.ServiceIPMappings{}
			}
			hosted[id][name] = svc.Addrs
		}
		if svc.Primary != "" {
			for _, a := range svc.Addrs {
				routes[svc.Primary] = append(routes[svc.Primary], netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	for prefix, id := range s.subnetRoutersLocked() {
		routes[id] = append(routes[id], prefix)
	}
	for _, r := range routes {
		slices.SortFunc(r, func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
	}
	return routes, hosted
}

// subnetRoutersLocked returns the primary router of each subnet route: the
// oldest device that is online, or else the oldest.
func (s *State) subnetRoutersLocked() map[netip.Prefix]tailcfg.StableNodeID {
	primary := map[netip.Prefix]*device{}
	for _, d := range s.devicesLocked() {
		enabled := s.enabledRoutesLocked(d)
		for _, r := range d.AdvertisedRoutes {
			if !d.Authorized || !slices.Contains(enabled, r) {
				continue
			}
			if best, ok := primary[r]; !ok || !best.online() && d.online() {
				primary[r] = d
			}
		}
	}
	ids := map[netip.Prefix]tailcfg.StableNodeID{}
	for r, d := range primary {
		ids[r] = d.ID
	}
	return ids
}
