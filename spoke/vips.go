package spoke

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// VIPService is a VIP as pods of this cluster see it: what it is called, and where connections to it are to be sent.
type VIPService struct {
	// Cluster owns the VIP. It is empty for a federated VIP, which no cluster owns.
	Cluster federation.ClusterID
	Service federation.ServiceID
	// Name is the registry's name, such as local-production-webapp, and TailscaleService the name in the tailnet, without
	// svc:. Both are empty for a VIP of another cluster, of which this one knows the address only.
	Name, TailscaleService string
	// Tailnet is the name that the TailscaleGateway gives the tailnet of an own VIP.
	Tailnet string
	// Addrs are the VIP's addresses, IPv4 first.
	Addrs []netip.Addr
	// Target says for humans where the VIP leads, without a port: a name in the cluster, or another cluster.
	Target string
	Ports  []VIPPort
}

// VIPPort is a port of a VIP and where its connections are sent: to the ready pods for an own VIP, to the egress proxies
// for a remote one, and for a federated VIP to the healthy endpoints that the cluster prefers.
type VIPPort struct {
	Port     federation.Port
	Backends []netip.AddrPort
}

// VIPs are the VIPs that the cluster has or refers to.
type VIPs struct {
	// Known is false for a spoke that has never heard of the hub: then it cannot say which VIPs there are.
	Known bool
	// Services are sorted by kind, service and cluster.
	Services []VIPService
	// Joined are the Gateways that they can belong to, sorted by TailscaleGateway.
	Joined []Joined
}

// VIPs returns the VIPs that the cluster has or refers to.
func (s *Spoke) VIPs(ctx context.Context) (VIPs, error) {
	return ask(ctx, s, func(time.Time) VIPs {
		return VIPs{Known: s.link.Version() > 0, Services: s.vipServices(), Joined: s.local.sortedJoined()}
	})
}

func (s *Spoke) vipServices() []VIPService {
	var out []VIPService
	for _, r := range s.link.Resources() {
		if r.VIP != nil {
			out = append(out, s.ownVIP(*r.VIP))
		}
	}
	for id, set := range s.out.sets {
		for _, e := range set.Endpoints {
			if e.Cluster != s.cfg.Cluster && e.Addr.IsValid() {
				out = append(out, s.remoteVIP(id, e))
			}
		}
	}
	slices.SortFunc(out, func(a, b VIPService) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (s *Spoke) ownVIP(v federation.VIP) VIPService {
	out := VIPService{
		Cluster: v.Owner.Cluster, Service: v.Owner.Service, Name: v.Name, TailscaleService: v.ServiceName, Tailnet: v.Tailnet,
		Addrs: slices.Clone(v.Addrs), Target: "every cluster that serves " + v.Owner.Service.Namespace + "/" + v.Owner.Service.Name,
	}
	svc := s.local.behind(v.Owner.Service)
	if !v.Federated() {
		out.Target = fmt.Sprintf("%s.%s.svc.cluster.local", svc.Name.Name, svc.Name.Namespace)
		if svc.Name == (Name{}) {
			out.Target = v.Owner.Service.Namespace + "/" + v.Owner.Service.Name
		}
	}
	for _, p := range v.Ports {
		port := VIPPort{Port: p, Backends: svc.ready(p.Port, p.Protocol)}
		if v.Federated() && p.Protocol == federation.TCP {
			port.Backends = s.preferred(v.Owner.Service, p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// preferred are the addresses of a service that take traffic now: those of the first priority that has a healthy one, or
// all degraded ones if none has.
func (s *Spoke) preferred(id federation.ServiceID, port uint16) []netip.AddrPort {
	all := s.resolve(id, s.out.sets[id].Endpoints, port)
	for _, health := range []federation.Health{federation.Healthy, federation.Degraded} {
		first := slices.IndexFunc(all, func(e Endpoint) bool { return e.Health == health })
		if first < 0 {
			continue
		}
		var out []netip.AddrPort
		for _, e := range all {
			if e.Health == health && e.Priority == all[first].Priority {
				out = append(out, e.Addr)
			}
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return out
	}
	return nil
}

func (s *Spoke) remoteVIP(id federation.ServiceID, e federation.Endpoint) VIPService {
	out := VIPService{Cluster: e.Cluster, Service: id, Addrs: []netip.Addr{e.Addr}, Target: string(e.Cluster)}
	for _, p := range e.Ports {
		port := VIPPort{Port: p}
		if listen, ok := s.ports.get(portKey{VIP: federation.ExportKey{Cluster: e.Cluster, Service: id}, Port: p.Port, Protocol: p.Protocol}); ok {
			for _, x := range s.lead(Endpoint{}, e.TailnetRef, listen) {
				port.Backends = append(port.Backends, x.Addr)
			}
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}
