package spoke

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// The probes: a fast one per remote cluster in use, a slow one per remote VIP in use.
const (
	clusterProbeInterval = 500 * time.Millisecond
	clusterProbeTimeout  = 500 * time.Millisecond
	vipProbeInterval     = 5 * time.Second
	vipProbeTimeout      = 2 * time.Second
)

// dirty says which outputs have to be computed again.
type dirty struct {
	services                                         map[federation.ServiceID]bool
	backends                                         map[Name]bool
	ingress, egress, structure, report, kept, status bool
}

func (d *dirty) service(id federation.ServiceID) {
	if d.services == nil {
		d.services = map[federation.ServiceID]bool{}
	}
	d.services[id] = true
}

func (d *dirty) backend(name Name) {
	if d.backends == nil {
		d.backends = map[Name]bool{}
	}
	d.backends[name] = true
}

func (d *dirty) clean() bool {
	return len(d.services)+len(d.backends) == 0 && !d.ingress && !d.egress && !d.structure && !d.report && !d.kept && !d.status
}

// everything marks all that the state leads to, as after a start.
func (d *dirty) everything(link linkstate.State) {
	d.ingress, d.egress, d.structure, d.report, d.status = true, true, true, true, true
	for _, r := range link.Resources() {
		if r.EndpointSet != nil {
			d.service(r.EndpointSet.Service)
		}
	}
}

// outputs are what was published last.
type outputs struct {
	// sets are the endpoint sets with the own view on top.
	sets      map[federation.ServiceID]federation.EndpointSet
	structure Structure
	// assignments are the keys that each service's endpoints were published under.
	assignments map[federation.ServiceID]map[Assignment][]Endpoint
	backends    map[Name]map[Assignment][]Endpoint
	// egressAddrs are where the egress proxies of each tailnet are.
	egressAddrs map[string][]netip.Addr
	version     uint64
}

func newOutputs() outputs {
	return outputs{
		sets:        map[federation.ServiceID]federation.EndpointSet{},
		assignments: map[federation.ServiceID]map[Assignment][]Endpoint{},
		backends:    map[Name]map[Assignment][]Endpoint{},
	}
}

// settle computes what is dirty and publishes what changed: the egress ports before the endpoints that lead to them,
// and the endpoints before the structure, so that no Envoy cluster is offered whose endpoints were never told.
func (s *Spoke) settle(now time.Time) {
	d := s.dirty
	s.dirty = dirty{}
	if d.clean() {
		return
	}
	s.settleEgressAddrs(&d)
	for id := range d.services {
		s.settleSet(id, now)
	}
	s.touchBackends(&d, slices.Collect(maps.Keys(d.services))...)
	if d.egress || len(d.services) > 0 {
		s.settleEgress(now)
	}
	if d.ingress {
		s.settleIngress()
	}
	s.settleEndpoints(d, now)
	if d.structure || len(d.services) > 0 {
		s.settleStructure(now)
	}
	if d.report || d.structure {
		s.settleReport(now)
	}
	if d.kept {
		s.kept.set(s.link)
	}
	if d.status || d.structure || d.ingress || d.egress || len(d.services)+len(d.backends) > 0 {
		n, _ := s.changes.get()
		s.changes.set(n + 1)
	}
}

// settleSet puts the own view on top of the hub's endpoint set, and notes what that changes.
func (s *Spoke) settleSet(id federation.ServiceID, now time.Time) {
	r, ok := s.link.Get(linkstate.Resource{EndpointSet: &federation.EndpointSet{Service: id}}.Key())
	before := s.out.sets[id]
	if !ok {
		delete(s.out.sets, id)
		return
	}
	set := endpoints.Overlay(s.ownView(*r.EndpointSet), s.probes.Unreachable)
	s.out.sets[id] = set
	for _, e := range set.Endpoints {
		i := slices.IndexFunc(before.Endpoints, func(o federation.Endpoint) bool { return o.Cluster == e.Cluster })
		if i < 0 || before.Endpoints[i].Health == e.Health {
			continue
		}
		d := Decision{At: now, Service: id.String(), Cluster: e.Cluster, From: before.Endpoints[i].Health, To: e.Health, Reason: e.Reason}
		s.decisions.add(d)
		s.cfg.Log.Info("an endpoint's health changed", "service", d.Service, "cluster", string(d.Cluster),
			"from", d.From.String(), "to", d.To.String(), "reason", d.Reason)
	}
}

// ownView puts what the cluster knows of its own export over what the hub said of it.
func (s *Spoke) ownView(set federation.EndpointSet) federation.EndpointSet {
	port, ok := routedPort(set)
	if !ok {
		return set
	}
	return endpoints.Own(set, s.cfg.Cluster, len(s.local.behind(set.Service).ready(port, federation.TCP)) > 0)
}

// settleIngress publishes the VIPs to host with their ready endpoints: those of the own exports, and the federated ones
// that the cluster is to advertise beside them.
func (s *Spoke) settleIngress() {
	next := ProxyConfig{Cluster: s.cfg.Cluster, Released: s.proxies.released()}
	for _, r := range s.link.Resources() {
		if r.VIP == nil {
			continue
		}
		svc := s.local.behind(r.VIP.Owner.Service)
		vip := IngressVIP{Tailnet: r.VIP.TailnetRef, Service: r.VIP.ServiceName}
		for _, p := range r.VIP.Ports {
			vip.Ports = append(vip.Ports, ServicePort{Port: p, Ready: svc.ready(p.Port, p.Protocol)})
		}
		next.Ingress = append(next.Ingress, vip)
	}
	s.publishConfig(s.ingress, next)
}

// settleEgress gives the remote VIPs their ports and publishes them, with the probes.
func (s *Spoke) settleEgress(now time.Time) {
	keys, clusters := s.remotes()
	changed, err := s.ports.want(append(keys, s.backendPorts()...), now)
	s.problem("egress ports", err)
	if changed {
		s.problem("save egress ports", s.savePorts())
	}
	next := ProxyConfig{Cluster: s.cfg.Cluster, Probes: s.probesOf(clusters)}
	for _, id := range s.serviceIDs() {
		for _, e := range s.out.sets[id].Endpoints {
			for _, p := range e.Ports {
				port, ok := s.ports.get(portKey{VIP: federation.ExportKey{Cluster: e.Cluster, Service: id}, Port: p.Port, Protocol: p.Protocol})
				if e.Cluster == s.cfg.Cluster || !ok {
					continue
				}
				next.Egress = append(next.Egress, EgressPort{
					Tailnet: e.TailnetRef,
					Listen:  netip.AddrPortFrom(s.cfg.EgressAddr, port), Remote: netip.AddrPortFrom(e.Addr, p.Port), Protocol: p.Protocol,
					Cluster: e.Cluster, Service: id, Reset: s.probes.Unreachable(federation.Target{Cluster: e.Cluster}),
				})
			}
		}
	}
	s.probes.Watch(intervals(next.Probes))
	ports, probes := s.backendEgress()
	next.Egress, next.Probes = append(next.Egress, ports...), append(next.Probes, probes...)
	s.publishConfig(s.egress, next)
}

// intervals are those of the probes' targets.
func intervals(all []Probe) map[federation.Target]time.Duration {
	out := make(map[federation.Target]time.Duration, len(all))
	for _, p := range all {
		out[p.Target] = p.Interval
	}
	return out
}

// remotes are the ports of all remote VIPs, and the remote clusters, that some endpoint set refers to.
func (s *Spoke) remotes() ([]portKey, map[federation.ClusterID]bool) {
	var keys []portKey
	clusters := map[federation.ClusterID]bool{}
	for id, set := range s.out.sets {
		for _, e := range set.Endpoints {
			if e.Cluster == s.cfg.Cluster {
				continue
			}
			clusters[e.Cluster] = true
			for _, p := range e.Ports {
				keys = append(keys, portKey{VIP: federation.ExportKey{Cluster: e.Cluster, Service: id}, Port: p.Port, Protocol: p.Protocol})
			}
		}
	}
	return keys, clusters
}

// probesOf are the probes for the clusters in use and their VIPs.
func (s *Spoke) probesOf(clusters map[federation.ClusterID]bool) []Probe {
	var out []Probe
	for _, c := range slices.Sorted(maps.Keys(clusters)) {
		if peer := s.peer(c); len(peer.Ingress) > 0 {
			out = append(out, Probe{
				ID: "cluster/" + string(c), Target: federation.Target{Cluster: c}, Addrs: peer.Ingress,
				Interval: clusterProbeInterval, Timeout: clusterProbeTimeout,
			})
		}
	}
	for _, id := range s.serviceIDs() {
		for _, e := range s.out.sets[id].Endpoints {
			i := slices.IndexFunc(e.Ports, func(p federation.Port) bool { return p.Protocol == federation.TCP })
			if e.Cluster == s.cfg.Cluster || i < 0 {
				continue
			}
			t := federation.Target{Cluster: e.Cluster, Service: id}
			out = append(out, Probe{
				ID: "vip/" + t.String(), Tailnet: e.TailnetRef, Target: t, Addrs: []netip.AddrPort{netip.AddrPortFrom(e.Addr, e.Ports[i].Port)},
				Interval: vipProbeInterval, Timeout: vipProbeTimeout,
			})
		}
	}
	return out
}

func (s *Spoke) peer(c federation.ClusterID) federation.Peer {
	if r, ok := s.link.Get(linkstate.Resource{Peer: &federation.Peer{Cluster: c}}.Key()); ok {
		return *r.Peer
	}
	return federation.Peer{Cluster: c}
}

// serviceIDs are those of all endpoint sets, sorted.
func (s *Spoke) serviceIDs() []federation.ServiceID {
	return slices.SortedFunc(maps.Keys(s.out.sets), federation.ServiceID.Compare)
}

// publishConfig publishes a configuration with the next version if it says something new.
func (s *Spoke) publishConfig(b *board[ProxyConfig], next ProxyConfig) {
	old, _ := b.get()
	next.Version = old.Version
	if old.Version > 0 && equalConfig(old, next) {
		return
	}
	s.out.version++
	next.Version = s.out.version
	b.set(next)
}

func equalConfig(a, b ProxyConfig) bool {
	return slices.EqualFunc(a.Ingress, b.Ingress, func(x, y IngressVIP) bool {
		return x.Tailnet == y.Tailnet && x.Service == y.Service && slices.EqualFunc(x.Ports, y.Ports, func(p, q ServicePort) bool {
			return p.Port == q.Port && slices.Equal(p.Ready, q.Ready)
		})
	}) && slices.Equal(a.Egress, b.Egress) && slices.Equal(a.Released, b.Released) && slices.EqualFunc(a.Probes, b.Probes, Probe.equal)
}

// settleStructure publishes what shapes routes and clusters, and notes which policies have to follow.
func (s *Spoke) settleStructure(now time.Time) {
	next := Structure{Cluster: s.cfg.Cluster, Backends: s.routedBackends(), Rules: s.local.rules}
	for _, id := range s.serviceIDs() {
		svc := RoutedService{ID: id}
		svc.Port, _ = routedPort(s.out.sets[id])
		svc.App = routedApp(s.out.sets[id], svc.Port)
		for _, e := range s.out.sets[id].Endpoints {
			svc.Clusters = append(svc.Clusters, e.Cluster)
			if e.TailnetRef != "" {
				svc.Tailnets = append(svc.Tailnets, e.TailnetRef)
			}
		}
		slices.Sort(svc.Clusters)
		slices.Sort(svc.Tailnets)
		svc.Tailnets = slices.Compact(svc.Tailnets)
		if svc.Port != 0 {
			next.Services = append(next.Services, svc)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(s.local.joined), Name.Compare) {
		j := s.local.joined[name]
		next.Gateways = append(next.Gateways, Gateway{Joined: j, Policy: name.Name, Revision: s.policies[name].revisionOrZero()})
	}
	if s.out.structure.Cluster != "" && equalStructure(s.out.structure, next) {
		return
	}
	s.out.structure = next
	s.cfg.Extension.SetStructure(next)
	s.wantPolicies(next, now)
}

func equalStructure(a, b Structure) bool {
	return a.Cluster == b.Cluster && slices.EqualFunc(a.Gateways, b.Gateways, func(x, y Gateway) bool {
		return x.equal(y.Joined) && x.Policy == y.Policy && x.Revision == y.Revision
	}) && slices.EqualFunc(a.Services, b.Services, equalRouted) && slices.EqualFunc(a.Backends, b.Backends, RoutedBackend.equal) &&
		slices.EqualFunc(a.Rules, b.Rules, Rule.Equal)
}

func equalRouted(x, y RoutedService) bool {
	return x.ID == y.ID && x.Port == y.Port && x.App == y.App && slices.Equal(x.Tailnets, y.Tailnets) && slices.Equal(x.Clusters, y.Clusters)
}

// settleReport publishes what the hub should know.
func (s *Spoke) settleReport(now time.Time) {
	s.reports.set(Report{
		Epoch: s.link.Epoch(), Version: s.link.Version(), Observations: s.probes.Report(now), All: len(s.local.joined) > 0,
		HostsKnown: s.proxies.ingressKnown, Hosts: s.proxies.hosts(), Devices: s.proxies.devices(),
	})
}

// problem notes what is wrong with a part of the spoke, or that it is right again.
func (s *Spoke) problem(part string, err error) {
	switch {
	case err == nil:
		delete(s.problems, part)
	case s.problems[part] != err.Error():
		s.problems[part] = err.Error()
		s.cfg.Log.Warn("a part of the spoke has a problem", "part", part, "err", err)
	}
}

// routedPort returns the one port of a service that routes lead to: the one that is called http, else the lowest TCP
// port. It does not depend on health.
func routedPort(set federation.EndpointSet) (uint16, bool) {
	var ports []federation.Port
	for _, e := range set.Endpoints {
		for _, p := range e.Ports {
			if p.Protocol == federation.TCP {
				ports = append(ports, p)
			}
		}
	}
	if len(ports) == 0 {
		return 0, false
	}
	best := slices.MinFunc(ports, func(a, b federation.Port) int {
		return cmp.Or(boolCompare(b.Name == "http", a.Name == "http"),
			boolCompare(strings.HasPrefix(b.Name, "http-"), strings.HasPrefix(a.Name, "http-")), a.Compare(b))
	})
	return best.Port, true
}

// routedApp returns what is spoken on the routed port: what the first cluster that says anything says, in the order of
// their ids. It does not depend on health or on the order of the endpoints.
func routedApp(set federation.EndpointSet, port uint16) federation.AppProtocol {
	app, from := federation.AppUnknown, federation.ClusterID("")
	for _, e := range set.Endpoints {
		for _, p := range e.Ports {
			if p.Port == port && p.Protocol == federation.TCP && p.App != federation.AppUnknown && (from == "" || e.Cluster < from) {
				app, from = p.App, e.Cluster
			}
		}
	}
	return app
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
