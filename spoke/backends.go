package spoke

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/checks"
)

// backends are the TailscaleEndpoints of the cluster, and what the checks of their endpoints say.
type backends struct {
	byName map[Name]Backend
	// health is by probe and by prober.
	health map[string]map[uint32]*checks.Health
	// owners are the backends of the probes.
	owners map[string]Name
}

func newBackends() backends {
	return backends{byName: map[Name]Backend{}, health: map[string]map[uint32]*checks.Health{}, owners: map[string]Name{}}
}

// names are those of all backends, sorted.
func (b *backends) names() []Name { return slices.SortedFunc(maps.Keys(b.byName), Name.Compare) }

// set replaces a backend, or takes it away if it is nil, and reports whether that is a change. An endpoint whose check
// is another one now begins anew.
func (b *backends) set(name Name, next *Backend) bool {
	old, had := b.byName[name]
	if next == nil && !had || next != nil && had && old.equal(*next) {
		return false
	}
	delete(b.byName, name)
	kept := map[string]*HealthCheck{}
	if next != nil {
		b.byName[name] = *next
		for _, e := range next.Endpoints {
			if e.Check != nil && e.Service == (federation.ServiceID{}) {
				kept[probeID(name, e.Name)] = e.Check
			}
		}
	}
	for _, e := range old.Endpoints {
		id := probeID(name, e.Name)
		if k := kept[id]; k == nil || !k.equal(e.Check) {
			delete(b.health, id)
			delete(b.owners, id)
		}
	}
	for id := range kept {
		b.owners[id] = name
	}
	return true
}

// record takes what a prober found, and returns the backend whose endpoints are to be told anew, if any.
func (b *backends) record(r ProbeResult, prober uint32) (Name, bool) {
	name, ok := b.owners[r.ID]
	if !ok {
		return Name{}, false
	}
	for _, e := range b.byName[name].Endpoints {
		if probeID(name, e.Name) != r.ID {
			continue
		}
		if b.health[r.ID] == nil {
			b.health[r.ID] = map[uint32]*checks.Health{}
		}
		h := b.health[r.ID][prober]
		if h == nil {
			h = checks.New(checks.Thresholds{Healthy: e.Check.Healthy, Unhealthy: e.Check.Unhealthy})
			b.health[r.ID][prober] = h
		}
		before, _ := b.verdict(name, e)
		h.Record(checks.Result{OK: r.Reachable, At: r.At, Reason: r.Error, Row: r.Row})
		after, _ := b.verdict(name, e)
		return name, before != after
	}
	return Name{}, false
}

// forget drops what a prober found that is not there any more.
func (b *backends) forget(prober uint32) (changed bool) {
	for _, of := range b.health {
		if _, ok := of[prober]; ok {
			delete(of, prober)
			changed = true
		}
	}
	return changed
}

// verdict is what the checks of an endpoint say together: one prober that reaches it is enough.
func (b *backends) verdict(name Name, e BackendEndpoint) (EndpointHealth, string) {
	if e.Check == nil || e.Service != (federation.ServiceID{}) {
		return EndpointUnchecked, ""
	}
	of := b.health[probeID(name, e.Name)]
	out, reason := EndpointUnknown, ""
	for _, prober := range slices.Sorted(maps.Keys(of)) {
		switch of[prober].State() {
		case checks.Healthy:
			return EndpointHealthy, ""
		case checks.Unhealthy:
			out, reason = EndpointUnhealthy, of[prober].Failed().Reason
		}
	}
	return out, reason
}

// SetBackend says that a TailscaleEndpoints object is there, or is now like this.
func (s *Spoke) SetBackend(ctx context.Context, b Backend) error {
	return s.do(ctx, func(time.Time) { s.backendChanged(b.Name, &b) })
}

// RemoveBackend says that a TailscaleEndpoints object is gone.
func (s *Spoke) RemoveBackend(ctx context.Context, name Name) error {
	return s.do(ctx, func(time.Time) { s.backendChanged(name, nil) })
}

// SetRules replaces the rules of the cluster's routes that have a TailscaleEndpoints as backend. They are sorted, and must
// not be changed afterwards.
func (s *Spoke) SetRules(ctx context.Context, rules []Rule) error {
	return s.do(ctx, func(time.Time) {
		if !slices.EqualFunc(s.local.rules, rules, Rule.Equal) {
			s.local.rules, s.dirty.structure = rules, true
		}
	})
}

func (s *Spoke) backendChanged(name Name, b *Backend) {
	if s.backends.set(name, b) {
		s.dirty.backend(name)
		s.dirty.egress, s.dirty.structure, s.dirty.status = true, true, true
	}
}

// forgetProbers drops what egress proxies found that are gone.
func (s *Spoke) forgetProbers(gone []ProxyID) {
	for _, k := range gone {
		if k.Role == Egress && s.backends.forget(s.proxies.prober(k)) {
			for name := range s.backends.byName {
				s.dirty.backend(name)
			}
		}
	}
}

// Backends returns what is known of all backends, sorted.
func (s *Spoke) Backends(ctx context.Context) ([]BackendStatus, error) {
	return ask(ctx, s, func(time.Time) []BackendStatus {
		var out []BackendStatus
		for _, name := range s.backends.names() {
			st := BackendStatus{Name: name}
			for _, e := range s.backends.byName[name].Endpoints {
				x := BackendEndpointStatus{Name: e.Name, Addr: e.Addr, Host: e.Host}
				x.Health, x.Reason = s.backends.verdict(name, e)
				st.Endpoints = append(st.Endpoints, x)
			}
			out = append(out, st)
		}
		return out
	})
}

// touchBackends marks the backends that have an endpoint which is one of the services.
func (s *Spoke) touchBackends(d *dirty, services ...federation.ServiceID) {
	for name, b := range s.backends.byName {
		if slices.ContainsFunc(b.Endpoints, func(e BackendEndpoint) bool { return slices.Contains(services, e.Service) }) {
			d.backend(name)
		}
	}
}

// backendPorts are the egress ports that the backends need.
func (s *Spoke) backendPorts() []portKey {
	var keys []portKey
	for name, b := range s.backends.byName {
		for _, e := range b.Endpoints {
			if e.Service == (federation.ServiceID{}) {
				keys = append(keys, endpointPort(name, e))
			}
		}
	}
	return keys
}

func endpointPort(backend Name, e BackendEndpoint) portKey {
	return portKey{VIP: federation.ExportKey{Service: endpointID(backend, e.Name)}, Port: e.TargetPort, Protocol: e.Protocol}
}

// backendEgress are the egress ports of the backends' endpoints, and the probes of those that are checked, in the order
// of the backends and their endpoints.
func (s *Spoke) backendEgress() (ports []EgressPort, probes []Probe) {
	for _, name := range s.backends.names() {
		for _, e := range s.backends.byName[name].Endpoints {
			key := endpointPort(name, e)
			listen, ok := s.ports.get(key)
			if !ok || e.Service != (federation.ServiceID{}) {
				continue
			}
			remote := netip.AddrPortFrom(e.Addr, e.TargetPort)
			ports = append(ports, EgressPort{
				Tailnet: s.backends.byName[name].Tailnet,
				Listen:  netip.AddrPortFrom(s.cfg.EgressAddr, listen), Remote: remote, Name: e.Host, Protocol: e.Protocol, Service: key.VIP.Service,
			})
			if e.Check != nil {
				probes = append(probes, Probe{
					ID: probeID(name, e.Name), Tailnet: s.backends.byName[name].Tailnet, Addrs: []netip.AddrPort{remote}, Name: e.Host, Check: e.Check.Check,
					Interval: e.Check.Interval, Timeout: e.Check.Timeout,
				})
			}
		}
	}
	return ports, probes
}

// routedBackends are the backends as routes need them.
func (s *Spoke) routedBackends() []RoutedBackend {
	var out []RoutedBackend
	for _, name := range s.backends.names() {
		if r := s.backends.byName[name].routed(); len(r.Ports)+len(r.Datagrams) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// backendAssignments are the endpoints of a backend's ports. If all endpoints of a port are unhealthy, all are used,
// degraded: what fails its check may still serve, and nothing at all certainly does not.
func (s *Spoke) backendAssignments(name Name) map[Assignment][]Endpoint {
	out := map[Assignment][]Endpoint{}
	b, ok := s.backends.byName[name]
	if !ok {
		return out
	}
	routed := b.routed()
	for _, p := range routed.Ports {
		out[Assignment{Backend: name, Port: p.Port}] = s.portEndpoints(b, p.Port, federation.TCP)
	}
	for _, port := range routed.Datagrams {
		out[Assignment{Backend: name, Port: port, UDP: true}] = s.portEndpoints(b, port, federation.UDP)
	}
	return out
}

func (s *Spoke) portEndpoints(b Backend, port uint16, protocol federation.Protocol) []Endpoint {
	es := []Endpoint{}
	for _, e := range b.Endpoints {
		if e.Port == port && e.Protocol == protocol && e.Weight > 0 {
			es = append(es, s.backendEndpoints(b.Name, e)...)
		}
	}
	failOpen(es)
	return es
}

// backendEndpoints are the addresses behind one endpoint of a backend: the egress proxy's, or those of a service.
func (s *Spoke) backendEndpoints(name Name, e BackendEndpoint) []Endpoint {
	if e.Service == (federation.ServiceID{}) {
		listen, ok := s.ports.get(endpointPort(name, e))
		if !ok {
			return nil
		}
		health := federation.Healthy
		if verdict, _ := s.backends.verdict(name, e); verdict == EndpointUnhealthy {
			health = federation.Unhealthy
		}
		return scale(s.lead(Endpoint{Weight: 1, Health: health}, s.backends.byName[name].Tailnet, listen), e.Weight)
	}
	set, known := s.out.sets[e.Service]
	port, routed := routedPort(set)
	if !known || !routed { // the hub has not heard of it: the cluster itself has
		var out []Endpoint
		for _, addr := range s.local.behind(e.Service).ready(e.TargetPort, e.Protocol) {
			out = append(out, Endpoint{Addr: addr, Weight: 1, Cluster: s.cfg.Cluster})
		}
		return scale(out, e.Weight)
	}
	return scale(s.resolve(e.Service, set.Endpoints, port), e.Weight)
}

// weightUnit is what a weight of 1 becomes, so that it can be divided among the addresses behind an endpoint.
const weightUnit = 1000

// scale makes the weights of each priority add up to the endpoint's own, roughly.
func scale(es []Endpoint, weight uint32) []Endpoint {
	sums := map[uint32]uint64{}
	for _, e := range es {
		sums[e.Priority] += uint64(e.Weight)
	}
	for i := range es {
		share := uint64(es[i].Weight) * uint64(weight) * weightUnit / max(sums[es[i].Priority], 1)
		es[i].Weight = uint32(max(share, 1))
	}
	return es
}

func failOpen(es []Endpoint) {
	if slices.ContainsFunc(es, func(e Endpoint) bool { return e.Health != federation.Unhealthy }) {
		return
	}
	for i := range es {
		es[i].Health = federation.Degraded
	}
}
