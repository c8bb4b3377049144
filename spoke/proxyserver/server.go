// Package proxyserver is the spoke's end of the connections of its proxies, over a unix socket or over TCP with mutual TLS:
// it sends them their configuration, takes their state and what their probes found, and gives them their auth keys.
package proxyserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
)

// maxPath is the longest path of a unix socket that the kernel takes.
const maxPath = 107

// Spoke is what the server tells and asks the spoke.
type Spoke interface {
	ProxyConfig(r spoke.Role) (spoke.ProxyConfig, <-chan struct{})
	ProxyOpened(ctx context.Context, id spoke.ProxyID) error
	ProxyClosed(ctx context.Context, id spoke.ProxyID) error
	ProxyReported(ctx context.Context, st spoke.ProxyStatus) error
}

// Server serves the proxies. It may serve any number of listeners.
type Server struct {
	proxyapi.UnimplementedSpokeServer
	// Key makes the auth keys that proxies ask for. It is set before the server serves; without it they get none.
	Key KeyFunc

	spoke Spoke
	log   *slog.Logger
	pacer *pacer
}

// New returns a server.
func New(s Spoke, log *slog.Logger) *Server {
	return &Server{spoke: s, log: log, pacer: newPacer(time.Now)}
}

// Listen listens on the socket, which only the own user may use. A socket that a spoke left behind is replaced; one
// that is in use is an error.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path of the proxies' socket is longer than %d bytes, give a shorter one with --proxy-socket: %s", maxPath, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the proxies' socket: %w", err)
	}
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the proxies' socket %s is in use by another spoke: give another with --proxy-socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the proxies' socket: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the proxies' socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the proxies' socket: %w", err), ln.Close())
	}
	return ln, nil
}

// A proxy over TCP that says nothing is asked whether it lives, and dropped when it does not answer: what a dead node hosts
// is known to be gone within about 3 seconds.
const (
	pingAfter   = time.Second
	pingTimeout = 2 * time.Second
	// handshakeTimeout is the time to become a proxy with a certificate.
	handshakeTimeout = 5 * time.Second
)

// Serve serves the listener of a socket until ctx ends. Who may dial it is believed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.serve(ctx, ln) }

// ServeTLS serves a TCP listener until ctx ends. config says which certificate to show, which must be for
// [proxytls.SpokeName], and in ClientCAs which CAs to trust, both by functions where they change; all else of it is set
// here. Peers without a certificate for [proxytls.ProxyName] are refused before they are told anything.
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener, config *tls.Config) error {
	return s.serve(ctx, ln,
		grpc.Creds(refusals{TransportCredentials: credentials.NewTLS(proxytls.Server(config)), log: s.log}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
}

// refusals tells the log who was refused; gRPC does not.
type refusals struct {
	credentials.TransportCredentials
	log *slog.Logger
}

// ServerHandshake implements [credentials.TransportCredentials].
func (r refusals) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := r.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) { // a mere look at the port is nothing to tell
		r.log.Warn("refused a peer at the proxies' port", "peer", conn.RemoteAddr().String(), "err", err)
	}
	return secure, info, err
}

func (s *Server) serve(ctx context.Context, ln net.Listener, options ...grpc.ServerOption) error {
	options = append(options, grpc.MaxRecvMsgSize(proxyapi.MaxStatusSize), grpc.MaxSendMsgSize(proxyapi.MaxConfigSize))
	g := grpc.NewServer(options...)
	proxyapi.RegisterSpokeServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the proxies: %w", err)
	}
	return nil
}

func parseRole(role string) (spoke.Role, error) {
	switch r := spoke.Role(role); r {
	case spoke.Ingress, spoke.Egress:
		return r, nil
	}
	return "", status.Errorf(codes.InvalidArgument, "role %q: want ingress or egress", role)
}

// Watch sends a proxy its configuration, and again whenever it changes.
func (s *Server) Watch(r *proxyapi.WatchRequest, stream grpc.ServerStreamingServer[proxyapi.Config]) error {
	role, err := parseRole(r.GetRole())
	if err != nil {
		return err
	}
	beats, stop := beats(stream.Context())
	defer stop()
	for {
		config, changed := s.spoke.ProxyConfig(role)
		if config.Version > 0 {
			if err := stream.Send(toConfig(config, spoke.ProxyID{Role: role, Tailnet: r.GetTailnet(), Replica: r.GetReplica()})); err != nil {
				return err
			}
		}
		for waiting := true; waiting; {
			select {
			case <-stream.Context().Done():
				return status.FromContextError(stream.Context().Err()).Err()
			case <-beats:
				if err := stream.Send(&proxyapi.Config{Unchanged: true}); err != nil {
					return err
				}
			case <-changed:
				waiting = false
			}
		}
	}
}

// beats tells when to say that nothing has changed: never on a socket, whose end is seen at once.
func beats(ctx context.Context) (at <-chan time.Time, stop func()) {
	if p, ok := peer.FromContext(ctx); ok {
		if _, secure := p.AuthInfo.(credentials.TLSInfo); secure {
			ticker := time.NewTicker(proxyapi.BeatInterval)
			return ticker.C, ticker.Stop
		}
	}
	return nil, func() {}
}

// Report takes a proxy's state until its stream ends.
func (s *Server) Report(stream grpc.ClientStreamingServer[proxyapi.Status, proxyapi.ReportResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	role, err := parseRole(first.GetRole())
	if err != nil {
		return err
	}
	id := spoke.ProxyID{Role: role, Tailnet: first.GetTailnet(), Replica: first.GetReplica()}
	if err := s.spoke.ProxyOpened(ctx, id); err != nil {
		return status.FromContextError(err).Err()
	}
	defer s.closed(context.WithoutCancel(ctx), id)
	for st := first; ; {
		if st.GetRole() != first.GetRole() || st.GetReplica() != id.Replica || st.GetTailnet() != id.Tailnet {
			return status.Error(codes.InvalidArgument, "a stream is one proxy's")
		}
		report, err := toStatus(st, time.Now())
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if err := s.spoke.ProxyReported(ctx, report); err != nil {
			return status.FromContextError(err).Err()
		}
		if st, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return stream.SendAndClose(&proxyapi.ReportResponse{})
			}
			return err
		}
	}
}

func (s *Server) closed(ctx context.Context, id spoke.ProxyID) {
	log := s.log.With("role", string(id.Role), "tailnet", id.Tailnet, "replica", id.Replica)
	log.Info("a proxy's stream ended")
	ctx, cancel := context.WithTimeout(ctx, time.Second) // the spoke may have ended before its proxies
	defer cancel()
	if err := s.spoke.ProxyClosed(ctx, id); err != nil {
		log.Debug("the spoke ended before a proxy's stream")
	}
}

// toStatus converts what a proxy said at a time.
func toStatus(p *proxyapi.Status, now time.Time) (spoke.ProxyStatus, error) {
	st := spoke.ProxyStatus{
		Role: spoke.Role(p.GetRole()), Replica: p.GetReplica(), Tailnet: p.GetTailnet(), NodeID: p.GetNodeId(), Applied: p.GetAppliedVersion(),
		Errors: p.GetErrors(), Draining: p.GetDraining(),
	}
	if p.GetAddr() != "" {
		addr, err := parseAddr(p.GetAddr())
		if err != nil {
			return st, err
		}
		st.Addr = addr
	}
	if p.GetListenAddr() != "" {
		addr, err := netip.ParseAddr(p.GetListenAddr())
		if err != nil {
			return st, fmt.Errorf("address at which the proxy listens: %w", err)
		}
		st.Listen = addr
	}
	for _, r := range p.GetResults() {
		st.Results = append(st.Results, spoke.ProbeResult{
			ID: r.GetId(), Reachable: r.GetReachable(), At: now.Add(-time.Duration(r.GetAgeMs()) * time.Millisecond),
			RTT: time.Duration(r.GetRttUs()) * time.Microsecond, Error: r.GetError(), Row: int(r.GetRow()),
		})
	}
	return st, nil
}

// parseAddr reads an address with or without a port: an egress proxy has no probe port.
func parseAddr(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 0), nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address of the proxy: %w", err)
	}
	return addr, nil
}
