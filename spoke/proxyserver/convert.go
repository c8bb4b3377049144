package proxyserver

import (
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// toConfig converts the configuration for one proxy: what concerns its tailnet, or any.
func toConfig(c spoke.ProxyConfig, id spoke.ProxyID) *proxyapi.Config {
	out := &proxyapi.Config{Version: c.Version, Cluster: string(c.Cluster)}
	if slices.Contains(c.Released, id) {
		return out
	}
	concerns := func(tailnet string) bool { return tailnet == id.Tailnet || tailnet == "" || id.Tailnet == "" }
	for _, v := range c.Ingress {
		if !concerns(v.Tailnet) {
			continue
		}
		vip := &proxyapi.Ingress{ServiceName: v.Service}
		for _, p := range v.Ports {
			vip.Ports = append(vip.Ports, &proxyapi.IngressPort{
				Port: uint32(p.Port.Port), Protocol: string(p.Port.Protocol), Backends: addresses(p.Ready),
			})
		}
		out.Ingress = append(out.Ingress, vip)
	}
	datagrams := map[string]bool{}
	for _, e := range c.Egress {
		if !concerns(e.Tailnet) {
			continue
		}
		out.Egress = append(out.Egress, toEgress(e))
		if e.Service.Kind == spoke.KindEndpoint && e.Protocol == federation.UDP {
			datagrams[endpointProbe(e.Service)] = true
		}
	}
	for _, p := range c.Probes {
		if !concerns(p.Tailnet) {
			continue
		}
		probe := toProbe(p)
		if datagrams[p.ID] {
			probe.Protocol = string(federation.UDP)
		}
		out.Probes = append(out.Probes, probe)
	}
	return out
}

// endpointProbe is the id of the probe of a backend's endpoint, by the name of its egress port. A probe does not say its
// protocol itself.
func endpointProbe(endpoint federation.ServiceID) string {
	return "endpoint/" + endpoint.Namespace + "/" + endpoint.Name
}

func toEgress(e spoke.EgressPort) *proxyapi.Egress {
	out := &proxyapi.Egress{
		Listen: e.Listen.String(), Protocol: string(e.Protocol), Cluster: string(e.Cluster), Reset_: e.Reset, Service: e.Service.String(),
	}
	if e.Name != "" {
		out.Name, out.Port = e.Name, uint32(e.Remote.Port())
	} else {
		out.Remote = e.Remote.String()
	}
	return out
}

func toProbe(p spoke.Probe) *proxyapi.Probe {
	out := &proxyapi.Probe{
		Id: p.ID, IntervalMs: uint32(p.Interval.Milliseconds()), TimeoutMs: uint32(p.Timeout.Milliseconds()),
	}
	if p.Target.Service == (federation.ServiceID{}) {
		out.IngressOf = string(p.Target.Cluster)
	}
	// What the hub is told of is probed as an observer does. All else is an endpoint that a user has checked.
	if p.Target == (federation.Target{}) {
		out.Check = toCheck(p.Check)
	}
	if p.Name == "" {
		out.Addrs = addresses(p.Addrs)
		return out
	}
	out.Name = p.Name
	for _, a := range p.Addrs {
		out.Port = uint32(a.Port())
	}
	return out
}

func toCheck(c spoke.Check) *proxyapi.Check {
	out := &proxyapi.Check{Kind: string(c.Kind), Path: c.Path, Host: c.Host, Service: c.Service}
	for _, r := range c.Expected {
		out.Expected = append(out.Expected, &proxyapi.StatusRange{Low: uint32(r.Low), High: uint32(r.High)})
	}
	return out
}

func addresses(addrs []netip.AddrPort) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
