package spoke

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// proxyGrace is how long a proxy whose stream ended is still taken for a host: it may just be opening a new one.
const proxyGrace = 500 * time.Millisecond

// proxies are the cluster's proxies that the spoke hears or has just heard.
type proxies struct {
	byKey map[ProxyID]*proxy
	// numbers tell the probers apart: replicas of different tailnets have the same ordinals.
	numbers map[ProxyID]uint32
	// ingressKnown is set once an ingress proxy was heard.
	ingressKnown bool
	// lost are the addresses of egress proxies that are gone since they were heard.
	lost map[netip.Addr]bool
	// serving are the addresses of egress proxies that Kubernetes calls ready, retired of those that it no longer does and
	// that are heard still.
	serving, retired map[netip.Addr]bool
}

type proxy struct {
	status ProxyStatus
	// streams counts the proxy's open streams; goneAt is when the last one ended.
	streams int
	goneAt  time.Time
	// released is set when a draining proxy's VIPs have moved.
	released bool
}

func newProxies() proxies {
	return proxies{byKey: map[ProxyID]*proxy{}, numbers: map[ProxyID]uint32{}, lost: map[netip.Addr]bool{}, retired: map[netip.Addr]bool{}}
}

// prober returns the number of a proxy, which it keeps.
func (p *proxies) prober(k ProxyID) uint32 {
	n, ok := p.numbers[k]
	if !ok {
		n = uint32(len(p.numbers))
		p.numbers[k] = n
	}
	return n
}

func (p *proxies) get(k ProxyID) *proxy {
	if p.byKey[k] == nil {
		p.byKey[k] = &proxy{}
	}
	return p.byKey[k]
}

// opened and closed count streams of a proxy.
func (p *proxies) opened(k ProxyID) { p.get(k).streams++ }

func (p *proxies) closed(k ProxyID, now time.Time) {
	x := p.get(k)
	x.streams--
	x.goneAt = now
}

// report takes a proxy's state. It reports whether that changes the hosts or the devices.
func (p *proxies) report(st ProxyStatus) bool {
	x := p.get(st.ID())
	before, devices := p.hosts(), p.devices()
	if !st.Draining {
		x.released = false
	}
	st.Results = nil
	x.status = st
	delete(p.lost, st.Listen)
	p.ingressKnown = p.ingressKnown || st.Role == Ingress
	return !slices.Equal(before, p.hosts()) || !slices.Equal(devices, p.devices())
}

// expire drops the proxies that are gone for the grace time, and returns them.
func (p *proxies) expire(now time.Time) []ProxyID {
	var gone []ProxyID
	for k, x := range p.byKey {
		if x.streams == 0 && now.Sub(x.goneAt) >= proxyGrace {
			gone = append(gone, k)
			delete(p.byKey, k)
			if x.status.Listen.IsValid() {
				p.lost[x.status.Listen] = true
			}
		}
	}
	return gone
}

func (p *proxies) deadline() (time.Time, bool) {
	var first time.Time
	for _, x := range p.byKey {
		if at := x.goneAt.Add(proxyGrace); x.streams == 0 && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// hosts are the ingress proxies that serve, by node.
func (p *proxies) hosts() []Host {
	var out []Host
	for k, x := range p.byKey {
		if k.Role == Ingress && x.status.NodeID != "" && !x.status.Draining {
			out = append(out, Host{NodeID: x.status.NodeID, Addr: x.status.Addr})
		}
	}
	slices.SortFunc(out, func(a, b Host) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out
}

// devices are the nodes of all proxies, sorted.
func (p *proxies) devices() []Device {
	var out []Device
	for k, x := range p.byKey {
		if x.status.NodeID != "" {
			out = append(out, Device{Tailnet: k.Tailnet, NodeID: x.status.NodeID})
		}
	}
	slices.SortFunc(out, func(a, b Device) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out
}

// released are the ingress proxies that have nothing to host any more, sorted.
func (p *proxies) released() []ProxyID {
	var out []ProxyID
	for k, x := range p.byKey {
		if k.Role == Ingress && x.released {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, ProxyID.Compare)
	return out
}

// ready reports whether a proxy of the role is on the tailnet and has applied something, and what is wrong with any.
func (p *proxies) ready(role Role) (ready bool, problem string) {
	for _, k := range slices.SortedFunc(maps.Keys(p.byKey), ProxyID.Compare) {
		x := p.byKey[k]
		if k.Role != role || x.streams == 0 {
			continue
		}
		ready = ready || (x.status.NodeID != "" && x.status.Applied > 0)
		for _, name := range slices.Sorted(maps.Keys(x.status.Errors)) {
			if problem == "" {
				problem = name + ": " + x.status.Errors[name]
			}
		}
	}
	return ready, problem
}

// draining are the nodes of the ingress proxies that drain and are not released.
func (p *proxies) draining() map[ProxyID]string {
	out := map[ProxyID]string{}
	for k, x := range p.byKey {
		if k.Role == Ingress && x.status.Draining && !x.released {
			out[k] = x.status.NodeID
		}
	}
	return out
}
