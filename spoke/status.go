package spoke

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/probes"
)

// Reasons of a link that is down. They are those of the condition HubConnected.
const (
	ReasonStarting       = "Starting"
	ReasonConnected      = "Connected"
	ReasonJoinKeyRefused = "JoinKeyRefused"
	ReasonHubUnreachable = "HubUnreachable"
	ReasonNotAccepted    = "NotAccepted"
	ReasonClusterIDTaken = "ClusterIDTaken"
	ReasonRefused        = "Refused"
)

// LinkStatus is the state of the link to the hub.
type LinkStatus struct {
	Up bool `json:"up"`
	// Reason is one of the constants, Message says what is wrong and what to do.
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// Since is when Up or Reason last changed: while the link is down, the state is stale since then.
	Since time.Time `json:"since"`
	// AppliedAt is when the state last changed; zero if it is from disk.
	AppliedAt time.Time `json:"appliedAt,omitzero"`
}

// Decision is a change of an endpoint's health, by the hub or by the spoke's own view.
type Decision struct {
	At      time.Time            `json:"at"`
	Service string               `json:"service"`
	Cluster federation.ClusterID `json:"cluster"`
	From    federation.Health    `json:"from"`
	To      federation.Health    `json:"to"`
	Reason  string               `json:"reason,omitempty"`
}

// Push is an exchange of endpoints: given to the endpoint discovery server, sent to an Envoy, or answered by it.
type Push struct {
	At time.Time `json:"at"`
	// Event is Published for what the spoke gave to the server; Sent, Acked and Nacked are between server and Envoy.
	Event string `json:"event"`
	// Assignment is the first few names, separated by commas; Names counts all.
	Assignment string `json:"assignment"`
	Names      int    `json:"names"`
	// Node is the Envoy, Error what it refused.
	Node    string `json:"node,omitempty"`
	Version string `json:"version,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Published is the event of a [Push] that the spoke made.
const Published = "Published"

// ProbeStatus is what is known of a probe's target.
type ProbeStatus struct {
	Target      string `json:"target"`
	Reachable   bool   `json:"reachable"`
	Unreachable bool   `json:"unreachable"`
	// LastAt, RTTMicros and Error are of the last result that counts.
	LastAt    time.Time `json:"lastAt,omitzero"`
	RTTMicros int64     `json:"rttMicros,omitempty"`
	Error     string    `json:"error,omitempty"`
	// FirstFailure is the result that began the present or last time of being unreachable, Changed the last change.
	FirstFailure time.Time `json:"firstFailure,omitzero"`
	Changed      time.Time `json:"changed,omitzero"`
}

// ProxyInfo is a proxy in the status.
type ProxyInfo struct {
	Role      Role              `json:"role"`
	Tailnet   string            `json:"tailnet,omitempty"`
	Replica   uint32            `json:"replica"`
	Connected bool              `json:"connected"`
	NodeID    string            `json:"nodeID,omitempty"`
	Addr      netip.AddrPort    `json:"addr,omitzero"`
	Applied   uint64            `json:"applied"`
	Draining  bool              `json:"draining,omitempty"`
	Errors    map[string]string `json:"errors,omitempty"`
}

// EgressInfo is an egress port in the status.
type EgressInfo struct {
	Listen  netip.AddrPort       `json:"listen"`
	Remote  netip.AddrPort       `json:"remote"`
	Cluster federation.ClusterID `json:"cluster"`
	Service string               `json:"service"`
	Reset   bool                 `json:"reset,omitempty"`
}

// SetInfo is an endpoint set in the status, with the own view on top.
type SetInfo struct {
	Service   string                `json:"service"`
	Endpoints []federation.Endpoint `json:"endpoints"`
}

// Status is everything that a spoke tells of itself.
type Status struct {
	Cluster federation.ClusterID `json:"cluster"`
	Now     time.Time            `json:"now"`
	Link    LinkStatus           `json:"link"`
	// Consumers are the members that refer to every service, this one among them; sorted.
	Consumers []federation.ClusterID `json:"consumers,omitempty"`
	Epoch     uint64                 `json:"epoch"`
	Version   uint64                 `json:"version"`
	// VIPs are those of the cluster's own exports, FederatedVIPs those of whole services that it is to advertise too.
	VIPs          []federation.VIP    `json:"vips"`
	FederatedVIPs []federation.VIP    `json:"federatedVIPs,omitempty"`
	Notices       []federation.Notice `json:"notices"`
	Sets          []SetInfo           `json:"sets"`
	Gateways      []Gateway           `json:"gateways"`
	Policies      []Policy            `json:"policies"`
	Proxies       []ProxyInfo         `json:"proxies"`
	Egress        []EgressInfo        `json:"egress"`
	Probes        []ProbeStatus       `json:"probes"`
	Decisions     []Decision          `json:"decisions"`
	Pushes        []Push              `json:"pushes"`
	Hooks         []HookCall          `json:"hooks"`
	// Problems are the parts of the spoke that have one.
	Problems map[string]string `json:"problems,omitempty"`
	// IngressReady and EgressReady report whether a proxy of the role works; the problems are of any of the role.
	IngressReady   bool   `json:"ingressReady"`
	EgressReady    bool   `json:"egressReady"`
	IngressProblem string `json:"ingressProblem,omitempty"`
	EgressProblem  string `json:"egressProblem,omitempty"`
}

// Status returns what the spoke tells of itself now.
func (s *Spoke) Status(ctx context.Context) (Status, error) { return ask(ctx, s, s.status) }

func (s *Spoke) status(now time.Time) Status {
	st := Status{
		Cluster: s.cfg.Cluster, Now: now, Link: s.linkInfo, Epoch: s.link.Epoch(), Version: s.link.Version(),
		Gateways: s.out.structure.Gateways, Decisions: s.decisions.list(), Pushes: s.pushes.list(), Hooks: s.hooks.list(),
		Problems: maps.Clone(s.problems),
	}
	for _, r := range s.link.Resources() {
		switch {
		case r.VIP != nil && r.VIP.Federated():
			st.FederatedVIPs = append(st.FederatedVIPs, *r.VIP)
		case r.VIP != nil:
			st.VIPs = append(st.VIPs, *r.VIP)
		case r.Notice != nil:
			st.Notices = append(st.Notices, *r.Notice)
		case r.Peer != nil && r.Peer.Consumer:
			st.Consumers = append(st.Consumers, r.Peer.Cluster)
		}
	}
	if len(s.local.joined) > 0 {
		st.Consumers = append(st.Consumers, s.cfg.Cluster)
	}
	slices.Sort(st.Consumers)
	for _, id := range s.serviceIDs() {
		st.Sets = append(st.Sets, SetInfo{Service: id.String(), Endpoints: s.out.sets[id].Endpoints})
	}
	for _, n := range slices.SortedFunc(maps.Keys(s.policies), Name.Compare) {
		st.Policies = append(st.Policies, s.policies[n].want)
	}
	config, _ := s.egress.get()
	for _, e := range config.Egress {
		st.Egress = append(st.Egress, EgressInfo{Listen: e.Listen, Remote: e.Remote, Cluster: e.Cluster, Service: e.Service.String(), Reset: e.Reset})
	}
	st.Proxies, st.Probes = s.proxies.status(), probeStatus(s.probes, now)
	st.IngressReady, st.IngressProblem = s.proxies.ready(Ingress)
	st.EgressReady, st.EgressProblem = s.proxies.ready(Egress)
	return st
}

func (p *proxies) status() []ProxyInfo {
	var out []ProxyInfo
	for _, k := range slices.SortedFunc(maps.Keys(p.byKey), ProxyID.Compare) {
		x := p.byKey[k]
		out = append(out, ProxyInfo{
			Role: k.Role, Tailnet: k.Tailnet, Replica: k.Replica, Connected: x.streams > 0, NodeID: x.status.NodeID, Addr: x.status.Addr,
			Applied: x.status.Applied, Draining: x.status.Draining, Errors: x.status.Errors,
		})
	}
	return out
}

func probeStatus(o *probes.Observations, now time.Time) []ProbeStatus {
	var out []ProbeStatus
	for _, k := range o.Targets() {
		t, fresh := o.State(k, now)
		p := ProbeStatus{Target: k.String(), Unreachable: t.Unreachable, FirstFailure: t.FirstFailure, Changed: t.Changed}
		if fresh {
			p.Reachable, p.LastAt, p.RTTMicros, p.Error = t.Reachable, t.At, t.RTT.Microseconds(), t.Error
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b ProbeStatus) int { return cmp.Compare(a.Target, b.Target) })
	return out
}
