package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"tailscale.com/tailcfg"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// egress gives local addresses to remote VIPs and to other endpoints in the tailnet.
type egress struct {
	node    *node
	logger  *slog.Logger
	metrics *metrics
	// open counts the connections of all outlets, also of those that are gone.
	open tracker
	// addr replaces the host part of all listen addresses, where it is valid.
	addr netip.Addr
	// outlets belong to the goroutine that calls apply.
	outlets map[outletKey]*outlet
}

func newEgress(n *node, o Options, m *metrics) *egress {
	n.netmap.named = true
	return &egress{node: n, logger: o.Logger, metrics: m, addr: o.ListenAddr, outlets: map[outletKey]*outlet{}}
}

// outletKey is a local address.
type outletKey struct {
	protocol federation.Protocol
	listen   netip.AddrPort
}

// destination is where an outlet leads.
type destination struct {
	remote           probe.Remote
	cluster, service string
	reset            bool
}

func parseEgress(e *proxyapi.Egress) (outletKey, destination, error) {
	protocol, err := parseProtocol(e.GetProtocol())
	if err != nil {
		return outletKey{}, destination{}, err
	}
	listen, err := netip.ParseAddrPort(e.GetListen())
	if err != nil {
		return outletKey{}, destination{}, fmt.Errorf("listen address: %w", err)
	}
	remote, err := parseRemote(e, protocol)
	if err != nil {
		return outletKey{}, destination{}, err
	}
	return outletKey{protocol, listen},
		destination{remote: remote, cluster: e.GetCluster(), service: e.GetService(), reset: e.GetReset_()}, nil
}

// parseRemote reads where an entry leads: to a name and port, or to an address.
func parseRemote(e *proxyapi.Egress, protocol federation.Protocol) (probe.Remote, error) {
	if e.GetName() != "" {
		port, err := parsePortNumber(e.GetPort())
		return probe.Remote{Name: e.GetName(), Addr: netip.AddrPortFrom(netip.Addr{}, port), Protocol: protocol}, err
	}
	addr, err := netip.ParseAddrPort(e.GetRemote())
	if err != nil {
		return probe.Remote{}, fmt.Errorf("remote address: %w", err)
	}
	return probe.Remote{Addr: addr, Protocol: protocol}, nil
}

func (e *egress) apply(ctx context.Context, config *proxyapi.Config) map[string]string {
	problems := map[string]string{}
	wanted := map[outletKey]destination{}
	for _, entry := range config.GetEgress() {
		key, dst, err := parseEgress(entry)
		if err != nil {
			problems[entry.GetListen()] = err.Error()
			continue
		}
		if e.addr.IsValid() {
			key.listen = netip.AddrPortFrom(e.addr, key.listen.Port())
		}
		if _, twice := wanted[key]; twice {
			problems[entry.GetListen()] = "two remotes want this listen address; the first has it"
			continue
		}
		wanted[key] = dst
	}
	before := e.subjects()
	// Those that go come first: an address that changes its protocol or owner is free then.
	for key, o := range e.outlets {
		if _, ok := wanted[key]; !ok {
			o.close()
			go o.retire(ctx)
			delete(e.outlets, key)
		}
	}
	for key, dst := range wanted {
		o, ok := e.outlets[key]
		if !ok {
			o = &outlet{egress: e, key: key}
			if err := o.listen(ctx, dst); err != nil {
				problems[key.listen.String()] = err.Error()
				continue
			}
			e.outlets[key] = o
		}
		o.direct(ctx, dst)
		o.follow(ctx)
		if err := e.node.netmap.unknown(dst.remote.Name); err != nil {
			problems[key.listen.String()] = err.Error()
		}
	}
	after := e.subjects()
	for s := range before {
		if _, ok := after[s]; !ok {
			e.metrics.forget(s)
		}
	}
	return problems
}

func (e *egress) subjects() map[subject]struct{} {
	subjects := map[subject]struct{}{}
	for key, o := range e.outlets {
		subjects[o.current().subject(key.protocol)] = struct{}{}
	}
	return subjects
}

func (d destination) subject(p federation.Protocol) subject {
	return subject{service: d.service, cluster: d.cluster, protocol: p}
}

func (e *egress) drain(context.Context) bool {
	for _, o := range e.outlets {
		o.close()
	}
	return true
}

func (e *egress) idle(ctx context.Context) { e.open.idle(ctx) }

// outlet is one local address of a remote.
type outlet struct {
	egress *egress
	key    outletKey
	// close ends the local address. Open TCP connections go on, as long as the process does.
	close context.CancelFunc

	// host is the peer that had the remote's address when it was last looked at; 0 for none yet.
	host tailcfg.NodeID

	mu  sync.Mutex
	dst destination
	// epoch ends when the remote is called unreachable or moves: with it all connections of the outlet are reset.
	epoch context.Context
	end   context.CancelFunc

	open tracker
}

// current returns where the outlet leads now.
func (o *outlet) current() destination {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dst
}

// route returns where a new connection goes, and the context that ends with it.
func (o *outlet) route() (context.Context, destination) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.epoch, o.dst
}

// direct changes where the outlet leads. Open connections stay where they are, unless the remote is now called
// unreachable. ctx is the process's.
func (o *outlet) direct(ctx context.Context, dst destination) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.dst
	o.dst = dst
	if was.remote != dst.remote {
		o.host = 0
	}
	if dst.reset {
		o.end()
	} else if was.reset {
		o.epoch, o.end = context.WithCancel(ctx)
	}
}

// follow ends the connections of an outlet whose remote has moved to another host. That host knows none of them, and would
// reset each with its next packet, which for one that rests in a client's pool is the client's next request.
func (o *outlet) follow(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	host, ok := o.egress.node.netmap.owner(o.dst.remote.Addr.Addr())
	if !ok || host == o.host { // one that nobody has may be back in a moment
		return
	}
	if o.host != 0 && !o.dst.reset {
		o.end()
		o.epoch, o.end = context.WithCancel(ctx)
	}
	o.host = host
}

// listen opens the local address and begins to serve it.
func (o *outlet) listen(ctx context.Context, dst destination) error {
	o.dst = dst
	o.epoch, o.end = context.WithCancel(ctx)
	var config net.ListenConfig
	listening, closeListener := context.WithCancel(ctx)
	o.close = closeListener
	if o.key.protocol == federation.UDP {
		local, err := config.ListenPacket(ctx, "udp", o.key.listen.String())
		if err != nil {
			closeListener()
			return err
		}
		r := &relay{
			local: local, dial: o.dialUDP, idle: sessionIdle, flow: o.egress.metrics.flow(dst.subject(federation.UDP)),
			tracker: &o.egress.open, logger: o.egress.logger,
		}
		go r.run(listening)
		return nil
	}
	listener, err := config.Listen(ctx, "tcp", o.key.listen.String())
	if err != nil {
		closeListener()
		return err
	}
	go acceptAll(listening, listener, o.egress.logger, o.handle)
	return nil
}

// retire ends the last epoch of a closed outlet when its connections have ended.
func (o *outlet) retire(ctx context.Context) {
	o.open.idle(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end()
}

// handle carries one TCP connection.
func (o *outlet) handle(conn net.Conn) {
	defer o.egress.open.begin()()
	defer o.open.begin()()
	ctx, dst := o.route()
	flow := o.egress.metrics.flow(dst.subject(federation.TCP))
	client, ok := conn.(stream)
	if !ok || ctx.Err() != nil {
		flow.dialFailed(errTold)
		reset(conn)
		return
	}
	defer flow.begin()()
	server, err := o.egress.node.dialVIP(ctx, dst.remote)
	if err != nil {
		flow.dialFailed(err)
		o.egress.logger.Debug("reset a connection", "cluster", dst.cluster, "service", dst.service, "error", err)
		reset(client)
		return
	}
	splice(ctx, client, server.(stream), flow)
}

// dialUDP opens a session. It ends with the epoch, and none begins while the remote is called unreachable.
func (o *outlet) dialUDP(ctx context.Context) (net.Conn, error) {
	epoch, dst := o.route()
	if epoch.Err() != nil {
		return nil, errTold
	}
	conn, err := o.egress.node.dialPeer(ctx, dst.remote)
	if err != nil {
		return nil, err
	}
	return boundConn{conn, context.AfterFunc(epoch, func() { conn.Close() })}, nil
}

// boundConn is a connection that something else may close, too.
type boundConn struct {
	net.Conn
	release func() bool
}

func (c boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}
