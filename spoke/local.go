package spoke

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// local is the cluster as its own API server tells.
type local struct {
	services map[Name]Service
	// externals are services outside of the cluster and the tailnet that the cluster exports: endpoints with an external
	// target. A Service of the same name comes first.
	externals map[Name]Service
	// proxies are the Services of the egress proxies.
	proxies map[Name]bool
	// envoys are the Services of the Gateways' Envoys, by Gateway.
	envoys map[Name]Name
	// rules are those of the routes that send to a backend.
	rules []Rule
	// joined are the Gateways of the federation, by their TailscaleGateway.
	joined map[Name]Joined
}

func newLocal() local {
	return local{services: map[Name]Service{}, externals: map[Name]Service{}, proxies: map[Name]bool{}, envoys: map[Name]Name{}, joined: map[Name]Joined{}}
}

// setService replaces a Service, or takes it away if it is nil. It reports whether that is a change.
func (l *local) setService(name Name, svc *Service) bool {
	old, had := l.services[name]
	if svc == nil && !had || svc != nil && had && old.equal(*svc) {
		return false
	}
	if had && old.Gateway != (Name{}) && l.envoys[old.Gateway] == name {
		delete(l.envoys, old.Gateway)
	}
	delete(l.proxies, name)
	if svc == nil {
		delete(l.services, name)
		return true
	}
	l.services[name] = *svc
	if svc.Proxies.Role == Egress {
		l.proxies[name] = true
	}
	if svc.Gateway != (Name{}) {
		l.envoys[svc.Gateway] = name
	}
	return true
}

// egressPods are the addresses of the ready egress proxies, each with its tailnet.
func (l *local) egressPods() iter.Seq2[string, netip.Addr] {
	return func(yield func(string, netip.Addr) bool) {
		for name := range l.proxies {
			for _, p := range l.services[name].Ports {
				for _, a := range p.Ready {
					if !yield(l.services[name].Proxies.Tailnet, a.Addr()) {
						return
					}
				}
			}
		}
	}
}

// behind returns the local Service that an export of this cluster is made of.
func (l *local) behind(id federation.ServiceID) Service {
	if id.Kind == federation.KindListener {
		gateway, _ := id.Gateway()
		return l.services[l.envoys[Name{Namespace: id.Namespace, Name: gateway}]]
	}
	name := Name{Namespace: id.Namespace, Name: id.Name}
	if svc, ok := l.services[name]; ok {
		return svc
	}
	return l.externals[name]
}

// setExternal replaces an external service, or takes it away if it is nil. It reports whether that is a change.
func (l *local) setExternal(name Name, svc *Service) bool {
	old, had := l.externals[name]
	switch {
	case svc == nil:
		delete(l.externals, name)
		return had
	case had && old.equal(*svc):
		return false
	}
	l.externals[name] = *svc
	return true
}

// exportOf returns the id under which the Service may be exported.
func exportOf(name Name) federation.ServiceID { return federation.Service(name.Namespace, name.Name) }

// sortedJoined returns the joined Gateways by their TailscaleGateway.
func (l *local) sortedJoined() []Joined {
	out := make([]Joined, 0, len(l.joined))
	for _, name := range slices.SortedFunc(maps.Keys(l.joined), Name.Compare) {
		out = append(out, l.joined[name])
	}
	return out
}
