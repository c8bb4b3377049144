package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// ingress hosts the VIPs of its cluster.
//
// Connections are taken straight from the node's network stack. The forwarding that a serve configuration offers would
// be simpler, but it ends both directions of a connection when one ends, and can refuse none.
type ingress struct {
	node    *node
	logger  *slog.Logger
	metrics *metrics
	probes  *probePort
	hosting hosting
	open    tracker

	// inlets belong to the goroutine that calls apply; table is its copy for those that accept connections.
	inlets map[inletKey]*inlet
	table  atomic.Pointer[map[inletKey]*inlet]
	// leaving are the TCP ports that are hosted no more, but still have connections.
	leaving map[inletKey]*inlet
	// datagrams are the open UDP ports.
	datagrams map[datagramKey]context.CancelFunc
	accepting bool
}

// problemHosting is what cannot be applied when no VIP can be offered.
const problemHosting = "services"

// datagramKey is a UDP port at one of a VIP's addresses.
type datagramKey struct {
	inlet inletKey
	addr  netip.Addr
}

func newIngress(n *node, o Options, m *metrics) *ingress {
	i := &ingress{
		node: n, logger: o.Logger, metrics: m, probes: newProbePort(n, o), hosting: hosting{local: n.local},
		inlets: map[inletKey]*inlet{}, leaving: map[inletKey]*inlet{}, datagrams: map[datagramKey]context.CancelFunc{},
	}
	i.table.Store(&map[inletKey]*inlet{})
	return i
}

func (i *ingress) apply(ctx context.Context, config *proxyapi.Config) map[string]string {
	problems := map[string]string{}
	if !i.accepting {
		i.node.server.RegisterFallbackTCPHandler(func(_, dst netip.AddrPort) (func(net.Conn), bool) {
			return i.accept(ctx, dst)
		})
		i.accepting = true
	}
	wanted := parseIngress(config.GetIngress(), problems)
	i.update(wanted)
	if err := i.hosting.host(ctx, wanted, i.leaving); err != nil {
		problems[problemHosting] = err.Error()
	}
	i.listenUDP(ctx, problems)
	if err := i.probes.serve(ctx, config.GetCluster()); err != nil {
		problems["probe port"] = err.Error()
	}
	return problems
}

// parseIngress returns the backends of each port and puts what makes no sense into problems.
func parseIngress(entries []*proxyapi.Ingress, problems map[string]string) map[inletKey][]netip.AddrPort {
	wanted := map[inletKey][]netip.AddrPort{}
	for _, entry := range entries {
		name := entry.GetServiceName()
		if !federation.IsLabel(name) {
			problems[name] = fmt.Sprintf("service name %q is not an RFC 1123 label", name)
			continue
		}
		for _, port := range entry.GetPorts() {
			key, backends, err := parsePort(name, port)
			if err != nil {
				problems[name] = fmt.Sprintf("port %d: %v", port.GetPort(), err)
				continue
			}
			wanted[key] = backends
		}
	}
	return wanted
}

func parsePort(service string, port *proxyapi.IngressPort) (inletKey, []netip.AddrPort, error) {
	protocol, err := parseProtocol(port.GetProtocol())
	if err != nil {
		return inletKey{}, nil, err
	}
	if port.GetPort() == 0 || port.GetPort() > 65535 {
		return inletKey{}, nil, fmt.Errorf("use a port from 1 to 65535")
	}
	backends := make([]netip.AddrPort, 0, len(port.GetBackends()))
	for _, s := range port.GetBackends() {
		backend, err := netip.ParseAddrPort(s)
		if err != nil {
			return inletKey{}, nil, fmt.Errorf("backend: %w", err)
		}
		backends = append(backends, backend)
	}
	return inletKey{service: service, protocol: protocol, port: uint16(port.GetPort())}, backends, nil
}

// update makes the inlets those that are wanted, and gives them their backends.
func (i *ingress) update(wanted map[inletKey][]netip.AddrPort) {
	subjects, services := map[subject]bool{}, map[string]bool{}
	for key := range wanted {
		subjects[key.subject()], services[key.service] = true, true
	}
	for key, in := range i.inlets {
		if _, ok := wanted[key]; !ok {
			delete(i.inlets, key)
			if !subjects[key.subject()] {
				i.metrics.forget(key.subject())
			}
			if key.protocol == federation.TCP {
				i.leaving[key] = in
			}
		}
	}
	for key, backends := range wanted {
		in, ok := i.inlets[key]
		if !ok {
			in = &inlet{key: key, flow: i.metrics.flow(key.subject()), all: &i.open, logger: i.logger}
			i.inlets[key] = in
			delete(i.leaving, key)
		}
		in.backends.Store(&backends)
	}
	// A port that is no longer served by the node's configuration swallows packets without a word. So it stays until
	// its connections have ended and, if its VIP goes as a whole, the tailnet sends none here any more.
	maps.DeleteFunc(i.leaving, func(key inletKey, in *inlet) bool {
		expected := !services[key.service] && len(i.node.netmap.addrs(key.service)) > 0
		return !in.open.busy() && !expected
	})
	table := maps.Clone(i.inlets)
	i.table.Store(&table)
}

// accept decides about a new TCP connection to dst. It must not block. A nil handler resets the connection before it
// is established.
func (i *ingress) accept(ctx context.Context, dst netip.AddrPort) (handler func(net.Conn), intercept bool) {
	service, ok := i.node.netmap.hosted(dst.Addr())
	if !ok {
		return nil, false
	}
	in, ok := (*i.table.Load())[inletKey{service: service, protocol: federation.TCP, port: dst.Port()}]
	if !ok {
		return nil, true
	}
	if len(*in.backends.Load()) == 0 {
		in.flow.dialFailed(errNoBackend)
		return nil, true
	}
	return func(conn net.Conn) { in.handle(ctx, conn) }, true
}

// listenUDP opens each UDP port at the addresses that its VIP has now, and closes the others.
func (i *ingress) listenUDP(ctx context.Context, problems map[string]string) {
	wanted := map[datagramKey]*inlet{}
	for key, in := range i.inlets {
		if key.protocol != federation.UDP {
			continue
		}
		for _, addr := range i.node.netmap.addrs(key.service) {
			wanted[datagramKey{inlet: key, addr: addr}] = in
		}
	}
	for key, stop := range i.datagrams {
		if _, ok := wanted[key]; !ok {
			stop()
			delete(i.datagrams, key)
		}
	}
	for key, in := range wanted {
		if _, ok := i.datagrams[key]; ok {
			continue
		}
		local, err := i.node.server.ListenPacket("udp", netip.AddrPortFrom(key.addr, key.inlet.port).String())
		if err != nil {
			problems[key.inlet.service] = err.Error()
			continue
		}
		relaying, stop := context.WithCancel(ctx)
		i.datagrams[key] = stop
		r := &relay{local: local, dial: in.dialUDP, idle: sessionIdle, flow: in.flow, tracker: &i.open, logger: i.logger}
		go r.run(relaying)
	}
}

func (i *ingress) drain(ctx context.Context) bool {
	i.hosting.withdrawn = true
	if err := i.hosting.advertise(ctx, nil); err != nil {
		// The next apply tries again.
		i.logger.Warn("cannot withdraw from the tailnet yet", "error", err)
	}
	return false
}

func (i *ingress) idle(ctx context.Context) { i.open.idle(ctx) }
