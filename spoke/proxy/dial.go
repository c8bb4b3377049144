package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/tailgate-project/tailgate/spoke/probe"
)

const (
	// attemptTimeout is the time for one attempt to reach a VIP. A SYN into a host that just died is repeated by the
	// stack after a second at the earliest; a new attempt goes where the VIP has moved to.
	attemptTimeout = 500 * time.Millisecond
	// dialTimeout is the time for all attempts.
	dialTimeout = 2 * time.Second
)

// dialVIP connects to a VIP and keeps trying for dialTimeout, so that a VIP that moves is reached at its new host. A
// refusal is an answer, and the end.
func (n *node) dialVIP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for {
		changed := n.netmap.changes()
		conn, err := n.attempt(ctx, addr)
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) || ctx.Err() != nil {
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

func (n *node) attempt(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return n.dialPeer(ctx, addr)
}

// dialPeer connects through the tailnet and nothing else: first it makes sure that a peer owns the address, then it
// dials in the node's own network stack, which has no way to the host's network. (tsnet.Server.Dial has one, and takes
// it for an address whose peer is gone.)
func (n *node) dialPeer(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if !n.netmap.owned(addr.Addr()) {
		return nil, fmt.Errorf("dial %v: %w", addr, probe.ErrNoRoute)
	}
	conn, err := n.stack.DialContextTCPWithBind(ctx, n.ownAddr(addr.Addr()), addr)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", addr, translate(err))
	}
	return tailnetConn{conn}, nil
}

// dialPeerUDP is dialPeer for datagrams.
func (n *node) dialPeerUDP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if !n.netmap.owned(addr.Addr()) {
		return nil, fmt.Errorf("dial %v: %w", addr, probe.ErrNoRoute)
	}
	conn, err := n.stack.DialContextUDPWithBind(ctx, n.ownAddr(addr.Addr()), addr)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", addr, translate(err))
	}
	return conn, nil
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
