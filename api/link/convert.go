package link

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// FromUpdate converts an update of a spoke's state for the wire.
func FromUpdate(u linkstate.Update) *WatchResponse {
	out := &WatchResponse{Epoch: u.Epoch, Version: u.Version, Full: u.Full, Removed: u.Removed, Base: u.Base}
	for _, r := range u.Upserts {
		out.Upserts = append(out.Upserts, fromResource(r))
	}
	return out
}

// ToUpdate converts a response to an update of the state of the spoke of the cluster. A resource that makes no sense
// is left out and refused by its key, so that it does not hold up the others.
func ToUpdate(self federation.ClusterID, w *WatchResponse) (linkstate.Update, []*Refusal) {
	u := linkstate.Update{Epoch: w.GetEpoch(), Version: w.GetVersion(), Full: w.GetFull(), Removed: w.GetRemoved(), Base: w.GetBase()}
	var refused []*Refusal
	known := map[string]bool{}
	for _, p := range w.GetUpserts() {
		r, err := toResource(self, p)
		switch {
		case err != nil:
		case r.Key() != p.GetKey():
			err = fmt.Errorf("key does not fit the object, whose key is %q", r.Key())
		case known[r.Key()]:
			err = errors.New("key is there twice, the first one counts")
		}
		if err != nil {
			refused = append(refused, &Refusal{Key: p.GetKey(), Reason: err.Error()})
			continue
		}
		known[r.Key()] = true
		u.Upserts = append(u.Upserts, r)
	}
	return u, refused
}

func fromResource(r linkstate.Resource) *Resource {
	out := &Resource{Key: r.Key()}
	switch {
	case r.VIP != nil:
		out.Object = &Resource_Vip{Vip: &MemberVIP{
			Service: FromService(r.VIP.Owner.Service), Name: r.VIP.Name, ServiceName: r.VIP.ServiceName, Tailnet: r.VIP.Tailnet,
			TailnetRef: r.VIP.TailnetRef, Addrs: fromAddrs(r.VIP.Addrs), Ports: fromPorts(r.VIP.Ports), Federated: r.VIP.Federated(),
		}}
	case r.EndpointSet != nil:
		set := &EndpointSet{Service: FromService(r.EndpointSet.Service)}
		for _, e := range r.EndpointSet.Endpoints {
			set.Endpoints = append(set.Endpoints, &Endpoint{
				Cluster: string(e.Cluster), Addr: e.Addr.AsSlice(), Ports: fromPorts(e.Ports), Priority: e.Priority, Weight: e.Weight,
				Health: Health(e.Health), Reason: e.Reason, Stale: e.Stale, ClusterPinned: e.ClusterPinned,
				TailnetRef: e.TailnetRef,
			})
		}
		out.Object = &Resource_EndpointSet{EndpointSet: set}
	case r.Peer != nil:
		peer := &Peer{Cluster: string(r.Peer.Cluster), Region: r.Peer.Locality.Region, Zone: r.Peer.Locality.Zone, Consumer: r.Peer.Consumer}
		for _, a := range r.Peer.Ingress {
			peer.Ingress = append(peer.Ingress, a.String())
		}
		out.Object = &Resource_Peer{Peer: peer}
	case r.Notice != nil:
		out.Object = &Resource_Notice{Notice: &Notice{Subject: r.Notice.Subject, Reason: r.Notice.Reason, Message: r.Notice.Message}}
	}
	return out
}

func toResource(self federation.ClusterID, p *Resource) (linkstate.Resource, error) {
	switch o := p.GetObject().(type) {
	case *Resource_Vip:
		v, err := toVIP(self, o.Vip)
		return linkstate.Resource{VIP: v}, err
	case *Resource_EndpointSet:
		s, err := toSet(self, o.EndpointSet)
		return linkstate.Resource{EndpointSet: s}, err
	case *Resource_Peer:
		peer, err := toPeer(o.Peer)
		return linkstate.Resource{Peer: peer}, err
	case *Resource_Notice:
		n := o.Notice
		return linkstate.Resource{Notice: &federation.Notice{Subject: n.GetSubject(), Reason: n.GetReason(), Message: n.GetMessage()}}, nil
	}
	return linkstate.Resource{}, fmt.Errorf("a kind of resource that this version does not know")
}

func toVIP(self federation.ClusterID, p *MemberVIP) (*federation.VIP, error) {
	id, err := ToService(p.GetService())
	if err != nil {
		return nil, err
	}
	if p.GetFederated() {
		self = ""
	}
	v := &federation.VIP{
		Owner: federation.ExportKey{Cluster: self, Service: id}, Name: p.GetName(), ServiceName: p.GetServiceName(), Tailnet: p.GetTailnet(),
		TailnetRef: p.GetTailnetRef(),
	}
	if v.Addrs, err = toAddrs(p.GetAddrs()); err != nil {
		return nil, err
	}
	v.Ports, err = toPorts(p.GetPorts())
	return v, err
}

func toSet(self federation.ClusterID, p *EndpointSet) (*federation.EndpointSet, error) {
	id, err := ToService(p.GetService())
	if err != nil {
		return nil, err
	}
	set := &federation.EndpointSet{Consumer: self, Service: id}
	for _, e := range p.GetEndpoints() {
		c := federation.ClusterID(e.GetCluster())
		if err := c.Validate(); err != nil {
			return nil, err
		}
		addr, err := toAddr(e.GetAddr())
		if err != nil {
			return nil, err
		}
		ports, err := toPorts(e.GetPorts())
		if err != nil {
			return nil, err
		}
		if e.GetHealth() < Health_HEALTH_HEALTHY || e.GetHealth() > Health_HEALTH_UNHEALTHY {
			return nil, fmt.Errorf("health %d is unknown", e.GetHealth())
		}
		set.Endpoints = append(set.Endpoints, federation.Endpoint{
			Cluster: c, Addr: addr, Ports: ports, Priority: e.GetPriority(), Weight: e.GetWeight(),
			Health: federation.Health(e.GetHealth()), Reason: e.GetReason(), Stale: e.GetStale(), ClusterPinned: e.GetClusterPinned(),
			TailnetRef: e.GetTailnetRef(),
		})
	}
	return set, nil
}

func toPeer(p *Peer) (*federation.Peer, error) {
	out := &federation.Peer{
		Cluster:  federation.ClusterID(p.GetCluster()),
		Locality: federation.Locality{Region: p.GetRegion(), Zone: p.GetZone()},
		Consumer: p.GetConsumer(),
	}
	if err := out.Cluster.Validate(); err != nil {
		return nil, err
	}
	for _, s := range p.GetIngress() {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("ingress host: %w", err)
		}
		out.Ingress = append(out.Ingress, a)
	}
	return out, nil
}

// FromService converts a service id for the wire.
func FromService(id federation.ServiceID) *ServiceID {
	return &ServiceID{Kind: string(id.Kind), Namespace: id.Namespace, Name: id.Name}
}

// ToService converts a service id from the wire; it fails for one that is incomplete.
func ToService(p *ServiceID) (federation.ServiceID, error) {
	return federation.ParseServiceID(federation.ServiceID{
		Kind: federation.Kind(p.GetKind()), Namespace: p.GetNamespace(), Name: p.GetName(),
	}.String())
}

func fromAddrs(addrs []netip.Addr) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		out = append(out, a.AsSlice())
	}
	return out
}

func toAddr(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address of %d bytes, want 4 or 16", len(b))
	}
	return a, nil
}

func fromPorts(ports []federation.Port) []*Port {
	var out []*Port
	for _, p := range ports {
		out = append(out, &Port{Name: p.Name, Port: uint32(p.Port), Protocol: string(p.Protocol), App: p.App.String()})
	}
	return out
}

func toPorts(ports []*Port) ([]federation.Port, error) {
	var out []federation.Port
	for _, p := range ports {
		proto := federation.Protocol(p.GetProtocol())
		if p.GetPort() == 0 || p.GetPort() > math.MaxUint16 || (proto != federation.TCP && proto != federation.UDP) {
			return nil, fmt.Errorf("port %d/%s: want 1 to 65535 and TCP or UDP", p.GetPort(), p.GetProtocol())
		}
		out = append(out, federation.Port{Name: p.GetName(), Port: uint16(p.GetPort()), Protocol: proto, App: federation.ParseAppProtocol(p.GetApp())})
	}
	return out, nil
}
