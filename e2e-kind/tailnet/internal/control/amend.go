package control

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// amend makes the test server's map for a node what production would send. It
// reports whether the node is known; if not, the map tells it that its key has
// expired, and it will ask for a new one.
func amend(res *tailcfg.MapResponse, nodeKey key.NodePublic, view *state.View) (known bool) {
	self, known := view.Nodes[nodeKey]
	if !known {
		res.Node.KeyExpiry = time.Unix(1, 0).UTC()
		res.Node.Expired = true
		res.Peers = nil
		return false
	}
	amendNode(res.Node, self)
	for _, name := range sortedServices(self.Hosted) {
		for _, a := range self.Hosted[name] {
			// Every host accepts the service's packets, so that none are
			// lost while peers move from one host to the other.
			if p := netip.PrefixFrom(a, a.BitLen()); !slices.Contains(res.Node.AllowedIPs, p) {
				res.Node.AllowedIPs = append(res.Node.AllowedIPs, p)
			}
		}
	}
	res.Node.Online = nil
	res.Peers = slices.DeleteFunc(res.Peers, func(p *tailcfg.Node) bool {
		peer, ok := view.Nodes[p.Key]
		if !ok || !peer.Authorized || !self.Authorized {
			return true
		}
		// A peer is shown once it has said where it can be reached: a
		// handshake that can't be sent is tried again only after 5 s.
		if len(p.Endpoints) == 0 {
			return true
		}
		amendNode(p, peer)
		p.CapMap = nil // what a peer hosts is its own business
		return false
	})
	slices.SortFunc(res.UserProfiles, func(a, b tailcfg.UserProfile) int { return cmp.Compare(a.ID, b.ID) })
	res.Domain = view.Domain
	res.ControlTime = nil // the test server's is a constant of years ago
	if res.DNSConfig != nil {
		res.DNSConfig.Domains = []string{view.Domain}
		res.DNSConfig.ExtraRecords = view.Records
		res.DNSConfig.CertDomains = nil
	}
	return true
}

func amendNode(n *tailcfg.Node, view state.NodeView) {
	n.StableID = view.ID
	n.Machine = view.Machine
	n.Name = view.Name
	n.Tags = view.Tags
	n.MachineAuthorized = view.Authorized
	online := view.Online
	n.Online = &online
	n.LastSeen = nil
	if !view.LastSeen.IsZero() {
		seen := view.LastSeen.UTC().Round(time.Second)
		n.LastSeen = &seen
	}
	n.PrimaryRoutes = view.Routes
	n.AllowedIPs = slices.Concat(n.Addresses, view.Routes)
	if len(view.Hosted) > 0 {
		// Marshalling a map of names and addresses can't fail.
		mapping, _ := json.Marshal(view.Hosted)
		if n.CapMap == nil {
			n.CapMap = tailcfg.NodeCapMap{}
		}
		n.CapMap[tailcfg.NodeAttrServiceHost] = []tailcfg.RawMessage{tailcfg.RawMessage(mapping)}
	}
}

func sortedServices(m tailcfg.ServiceIPMappings) []tailcfg.ServiceName {
	names := make([]tailcfg.ServiceName, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
