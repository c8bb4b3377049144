package spoke

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
)

// namesShown bounds the names of a [Push].
const namesShown = 8

// settleEndpoints publishes the endpoints of the services and backends that changed.
func (s *Spoke) settleEndpoints(d dirty, now time.Time) {
	changes := map[Assignment][]Endpoint{}
	for id := range d.services {
		replace(s.out.assignments, id, s.assignments(id), changes)
	}
	for name := range d.backends {
		replace(s.out.backends, name, s.backendAssignments(name), changes)
	}
	if len(changes) == 0 {
		return
	}
	s.cfg.Extension.SetEndpoints(changes)
	names := slices.SortedFunc(maps.Keys(changes), compareAssignments)
	shown := make([]string, 0, namesShown)
	for _, a := range names[:min(len(names), namesShown)] {
		shown = append(shown, a.String())
	}
	s.pushes.add(Push{At: now, Event: Published, Assignment: strings.Join(shown, ","), Names: len(names)})
}

// replace puts the next assignments of a key in place of the published ones, and adds to the changes what is different.
func replace[K comparable](published map[K]map[Assignment][]Endpoint, key K, next, changes map[Assignment][]Endpoint) {
	old := published[key]
	for a := range old {
		if _, ok := next[a]; !ok {
			changes[a] = nil
		}
	}
	for a, es := range next {
		if was, ok := old[a]; !ok || !slices.Equal(was, es) {
			changes[a] = es
		}
	}
	published[key] = next
	if len(next) == 0 {
		delete(published, key)
	}
}

func compareAssignments(a, b Assignment) int {
	return cmp.Or(federation.ExportKey{Cluster: a.Cluster, Service: a.Service}.Compare(federation.ExportKey{Cluster: b.Cluster, Service: b.Service}),
		a.Backend.Compare(b.Backend), cmp.Compare(a.Port, b.Port))
}

// assignments are the endpoints of a service in the hub's order, and with each of its clusters preferred.
func (s *Spoke) assignments(id federation.ServiceID) map[Assignment][]Endpoint {
	out := map[Assignment][]Endpoint{}
	set, ok := s.out.sets[id]
	port, ok2 := routedPort(set)
	if !ok || !ok2 {
		return out
	}
	out[Assignment{Service: id}] = s.resolve(id, set.Endpoints, port)
	for _, e := range set.Endpoints {
		out[Assignment{Service: id, Cluster: e.Cluster}] = s.resolve(id, endpoints.Prefer(set, e.Cluster), port)
	}
	return out
}

// resolve turns the endpoints of a set into the addresses that Envoy uses: the egress proxy's port for a remote VIP,
// the ready pods for the own export. It is empty only where the own export stands alone and has no ready pod.
// Priorities of the result have no gaps.
func (s *Spoke) resolve(id federation.ServiceID, set []federation.Endpoint, port uint16) []Endpoint {
	out := []Endpoint{}
	pods := s.local.behind(id).ready(port, federation.TCP)
	for _, e := range set {
		ep := Endpoint{Priority: e.Priority, Weight: e.Weight, Health: e.Health, Locality: s.peer(e.Cluster).Locality, Cluster: e.Cluster}
		if e.Cluster != s.cfg.Cluster {
			listen, ok := s.ports.get(portKey{VIP: federation.ExportKey{Cluster: e.Cluster, Service: id}, Port: port, Protocol: federation.TCP})
			if ok {
				out = append(out, s.lead(ep, e.TailnetRef, listen)...)
			}
			continue
		}
		for _, pod := range pods {
			ep.Addr = pod
			out = append(out, ep)
		}
	}
	share(out)
	closeGaps(out)
	return out
}

// closeGaps renumbers priorities that were left without an endpoint. The endpoints are in the order of priority.
func closeGaps(es []Endpoint) {
	next, last := uint32(0), uint32(0)
	for i := range es {
		if i > 0 && es[i].Priority != last {
			next++
		}
		last, es[i].Priority = es[i].Priority, next
	}
}
