package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

const (
	// backendTimeout is the time to connect to one backend.
	backendTimeout = time.Second
	// backendsTimeout is the time to connect to any backend.
	backendsTimeout = 3 * time.Second
)

// inletKey is a port of a VIP.
type inletKey struct {
	service  string
	protocol federation.Protocol
	port     uint16
}

func (k inletKey) subject() subject { return subject{service: k.service, protocol: k.protocol} }

// inlet passes what arrives at a port of a VIP on to its backends, in turn.
type inlet struct {
	key      inletKey
	backends atomic.Pointer[[]netip.AddrPort]
	next     atomic.Uint64
	flow     flow
	// open counts the inlet's own connections, all those of the process.
	open   tracker
	all    *tracker
	logger *slog.Logger
}

// handle carries one TCP connection.
func (in *inlet) handle(ctx context.Context, conn net.Conn) {
	defer in.all.begin()()
	defer in.open.begin()()
	defer in.flow.begin()()
	client, ok := conn.(stream)
	if !ok {
		conn.Close()
		return
	}
	server, err := in.dial(ctx, "tcp")
	if err != nil {
		in.flow.dialFailed(err)
		in.logger.Debug("no backend answers", "service", in.key.service, "port", in.key.port, "error", err)
		// What the client has sent is unread, which makes this a reset.
		client.Close()
		return
	}
	splice(ctx, client, server.(stream), in.flow)
}

// dial connects to the next backend, or to the first after it that takes the connection.
func (in *inlet) dial(ctx context.Context, network string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, backendsTimeout)
	defer cancel()
	backends := *in.backends.Load()
	first := in.next.Add(1) - 1
	err := errNoBackend
	dialer := net.Dialer{Timeout: backendTimeout}
	for n := range uint64(len(backends)) {
		backend := backends[(first+n)%uint64(len(backends))]
		conn, dialErr := dialer.DialContext(ctx, network, backend.String())
		if dialErr == nil {
			return conn, nil
		}
		if err = dialErr; ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (in *inlet) dialUDP(ctx context.Context) (net.Conn, error) { return in.dial(ctx, "udp") }
