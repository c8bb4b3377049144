package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// attemptTimeout is the time for one attempt to reach a VIP. A SYN into a host that just died is repeated by the stack
// after a second at the earliest; a new attempt goes where the VIP has moved to.
const attemptTimeout = 500 * time.Millisecond

// dialVIP connects to a VIP, or to another endpoint in the tailnet, and keeps trying for the time that is given for it, so that a VIP that
// moves is reached at its new host. A refusal is an answer, and the end; so is a name that nobody has.
func (n *node) dialVIP(ctx context.Context, remote probe.Remote) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.dialTimeout)
	defer cancel()
	for turn := 0; ; turn++ {
		changed := n.netmap.changes()
		conn, err := n.attempt(ctx, remote, turn)
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, probe.ErrUnknownName) || ctx.Err() != nil {
			return conn, err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		// What failed before its time will fail again, unless the tailnet changes.
		pause := time.NewTimer(attemptTimeout)
		select {
		case <-changed:
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

func (n *node) attempt(ctx context.Context, remote probe.Remote, turn int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return n.dialInTurn(ctx, remote, turn)
}

// dialPeer connects to a remote once. For UDP it does not block.
func (n *node) dialPeer(ctx context.Context, remote probe.Remote) (net.Conn, error) {
	return n.dialInTurn(ctx, remote, 0)
}

// dialInTurn tries the addresses of a remote one after the other, until one answers or does not answer in time. In each
// turn it begins with another one, so that one which swallows everything does not hide the others for ever.
func (n *node) dialInTurn(ctx context.Context, remote probe.Remote, turn int) (net.Conn, error) {
	addrs, err := n.addrs(remote)
	if err != nil {
		return nil, err
	}
	var refused error
	for i := range addrs {
		addr := netip.AddrPortFrom(addrs[(turn+i)%len(addrs)], remote.Addr.Port())
		var conn net.Conn
		conn, err = n.dialAddr(ctx, addr, remote)
		switch {
		case err == nil, ctx.Err() != nil:
			return conn, err
		case errors.Is(err, syscall.ECONNREFUSED):
			refused = err
		}
	}
	return nil, cmp.Or(refused, err)
}

// addrs returns the addresses of a remote, at least one, those of IPv4 first.
func (n *node) addrs(remote probe.Remote) ([]netip.Addr, error) {
	if remote.Name == "" {
		return []netip.Addr{remote.Addr.Addr()}, nil
	}
	addrs, err := n.netmap.lookup(remote.Name)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", remote, err)
	}
	// A tailnet may give its nodes addresses of one family only.
	usable := slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !n.ownAddr(a).IsValid() })
	if len(usable) == 0 {
		return nil, fmt.Errorf("dial %v: no address of a family that this node has: %w", remote, probe.ErrNoRoute)
	}
	return usable, nil
}

// dialAddr connects through the tailnet and nothing else: first it makes sure that a peer owns the address, then it
// dials in the node's own network stack, which has no way to the host's network. (tsnet.Server.Dial has one, and takes
// it for an address whose peer is gone.)
func (n *node) dialAddr(ctx context.Context, addr netip.AddrPort, remote probe.Remote) (net.Conn, error) {
	changed := n.netmap.changes()
	if !n.netmap.owned(addr.Addr()) {
		return nil, fmt.Errorf("dial %v: %w", addr, probe.ErrNoRoute)
	}
	if remote.Protocol == federation.UDP {
		conn, err := n.stack.DialContextUDPWithBind(ctx, n.ownAddr(addr.Addr()), addr)
		if err != nil {
			return nil, fmt.Errorf("dial %v: %w", addr, translate(err))
		}
		return &tailnetPackets{UDPConn: conn, node: n, remote: remote, addr: addr.Addr(), changed: changed}, nil
	}
	conn, err := n.stack.DialContextTCPWithBind(ctx, n.ownAddr(addr.Addr()), addr)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", addr, translate(err))
	}
	return tailnetConn{conn}, nil
}

// tailnetConn is a connection of the node's network stack whose errors are those of the system's connections.
type tailnetConn struct{ *gonet.TCPConn }

func (c tailnetConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	return n, translate(err)
}

func (c tailnetConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, translate(err)
}

// tailnetPackets is tailnetConn for datagrams. A datagram into nowhere is no error of the network stack, so this ends by
// itself when its address is no longer where its remote is. Only one goroutine may write.
type tailnetPackets struct {
	*gonet.UDPConn
	node   *node
	remote probe.Remote
	addr   netip.Addr
	// changed is closed when the tailnet has changed since addr was looked up.
	changed <-chan struct{}
}

func (c *tailnetPackets) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	return n, translate(err)
}

func (c *tailnetPackets) Write(b []byte) (int, error) {
	select {
	case <-c.changed:
		c.changed = c.node.netmap.changes()
		if addrs, err := c.node.addrs(c.remote); err != nil || !slices.Contains(addrs, c.addr) || !c.node.netmap.owned(c.addr) {
			return 0, errors.Join(fmt.Errorf("send to %v: %w", c.remote, probe.ErrNoRoute), c.Close())
		}
	default:
	}
	n, err := c.UDPConn.Write(b)
	return n, translate(err)
}

// translations are the errors of the network stack, which come as bare text, that are told apart here.
var translations = map[string]syscall.Errno{
	(&tcpip.ErrConnectionRefused{}).String():  syscall.ECONNREFUSED,
	(&tcpip.ErrConnectionReset{}).String():    syscall.ECONNRESET,
	(&tcpip.ErrConnectionAborted{}).String():  syscall.ECONNABORTED,
	(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
	(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
}

func translate(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Err == nil {
		return err
	}
	if errno, ok := translations[op.Err.Error()]; ok {
		return &net.OpError{Op: op.Op, Net: op.Net, Source: op.Source, Addr: op.Addr, Err: errno}
	}
	return err
}
