// Package link is the hub's end of the link: it serves the spokes, each known by its tailnet identity.
//
// A call counts for the node that WhoIs names, never for a name that a message gives. Before the node is known to
// carry the spokes' tag, nothing of the hub's state is sent to it.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

var (
	// ErrTaken reports a cluster id that another node has, ErrNotAccepted a member that waits for acceptance. What is wrong,
	// says the error around them.
	ErrTaken, ErrNotAccepted = errors.New("not let in"), errors.New("not let in yet")
)

// Node is a tailnet node, as WhoIs names it.
type Node struct {
	StableID string
	Name     string
	Tags     []string
}

// Claim is a spoke's wish to be a member.
type Claim struct {
	Cluster  federation.ClusterID
	Node     Node
	API      netip.AddrPort
	Locality federation.Locality
	Versions *link.Versions
}

// Members decides who is a member.
type Members interface {
	// Join admits the claim, or fails with [ErrTaken] or [ErrNotAccepted] and a message for the spoke's operator.
	// It returns the member's locality.
	Join(ctx context.Context, c Claim) (federation.Locality, error)
	// Owns reports whether the node is the accepted member.
	Owns(c federation.ClusterID, stableID string) bool
	// Connected is told when the member's link comes and goes.
	Connected(ctx context.Context, c federation.ClusterID, up bool, reason string)
	// Applied is told which of the hub's states the member has applied.
	Applied(ctx context.Context, c federation.ClusterID, epoch, version uint64)
	// Devices is told which nodes the member's proxies are now.
	Devices(ctx context.Context, c federation.ClusterID, devices []Device)
}

// Device is a proxy's node. Tailnet is the TailscaleTailnet that it is in, empty for that of the spokes.
type Device struct{ Tailnet, NodeID string }

// Hub is what the server tells and asks the hub.
type Hub interface {
	Epoch() uint64
	Next(ctx context.Context, c federation.ClusterID, epoch, version uint64) (linkstate.Update, error)
	Joined(ctx context.Context, c federation.ClusterID, l federation.Locality) error
	LinkState(ctx context.Context, c federation.ClusterID, up bool) error
	Observed(ctx context.Context, observer federation.ClusterID, t federation.Target, reachable bool, age time.Duration) error
	Hosts(ctx context.Context, c federation.ClusterID, hosts []ledger.Host) error
	Interest(ctx context.Context, c federation.ClusterID, i federation.Interest) error
}

// Options are a server's parts. All are required but the times.
type Options struct {
	Hub     Hub
	Members Members
	// WhoIs names the node behind a remote address of the listener.
	WhoIs func(ctx context.Context, remote string) (Node, error)
	// MintKey makes an auth key for a proxy of a member, with the tag ProxyTag.
	MintKey func(ctx context.Context, p Proxy) (ProxyKey, error)
	// Discover selects what a TailscaleTailnet has, and says how old that is, and what keeps it from being younger. Without an
	// answer it returns ErrNoTailnet, wrapped, or why it has none.
	Discover func(ctx context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (found discovery.Inventory, age time.Duration, problem, err error)
	// Probed is told each probe with what the decisions do not need, if it is not nil. It must not wait.
	Probed func(Probe)
	// SpokeTag is what a node must carry to be served, ProxyTag what its proxies will carry.
	SpokeTag, ProxyTag string
	// Heartbeat is the interval of heartbeats both ways, 1 s by default.
	Heartbeat time.Duration
	Log       *slog.Logger
}

// Probe is the result of an observer's probe.
type Probe struct {
	Observer  federation.ClusterID
	Target    federation.Target
	Reachable bool
	// Age is how long ago the probe ended, RTT how long it took, Error why it failed.
	Age, RTT time.Duration
	Error    string
}

// Proxy is a proxy that asks for an auth key.
type Proxy struct {
	Cluster federation.ClusterID
	// Role is ingress or egress.
	Role    string
	Replica uint32
	// Tailnet is the TailscaleTailnet to join; empty for the one that hub and spokes are on.
	Tailnet string
}

// ProxyKey lets a proxy join its tailnet.
type ProxyKey struct {
	Key string
	// ControlURL is the tailnet's control server; empty for that of the spokes.
	ControlURL string
}

// ErrNoTailnet is returned, wrapped, by MintKey for a TailscaleTailnet that there is not.
var ErrNoTailnet = errors.New("no such TailscaleTailnet")

// Server serves the link.
type Server struct {
	link.UnimplementedHubServer
	Options

	mu      sync.Mutex
	members map[federation.ClusterID]*member
}

// New returns a server.
func New(o Options) *Server {
	if o.Heartbeat == 0 {
		o.Heartbeat = time.Second
	}
	return &Server{Options: o, members: map[federation.ClusterID]*member{}}
}

// Serve serves the listener until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	g := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 3 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.identifyUnary),
		grpc.StreamInterceptor(s.identifyStream),
	)
	link.RegisterHubServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the link: %w", err)
	}
	return nil
}

type nodeKey struct{}

// identify finds out who calls, and refuses who is no spoke.
func (s *Server) identify(ctx context.Context) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no peer address")
	}
	n, err := s.WhoIs(ctx, p.Addr.String())
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "the tailnet does not know you")
	}
	if !slices.Contains(n.Tags, s.SpokeTag) {
		s.Log.Warn("refused a peer without the spokes' tag", "node", n.Name, "tags", n.Tags, "want", s.SpokeTag)
		return nil, status.Errorf(codes.PermissionDenied, "node %s does not carry %s: join with a key that has this tag", n.Name, s.SpokeTag)
	}
	return context.WithValue(ctx, nodeKey{}, n), nil
}

func (s *Server) identifyUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := s.identify(ctx)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// identified is a stream whose context names the node.
type identified struct {
	grpc.ServerStream
	ctx context.Context // a ServerStream is asked for its context
}

// Context returns the context that names the node.
func (i identified) Context() context.Context { return i.ctx }

func (s *Server) identifyStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := s.identify(stream.Context())
	if err != nil {
		return err
	}
	return next(srv, identified{ServerStream: stream, ctx: ctx})
}

func caller(ctx context.Context) Node {
	n, _ := ctx.Value(nodeKey{}).(Node) // the interceptors have put it there
	return n
}

// Join admits a member.
func (s *Server) Join(ctx context.Context, r *link.JoinRequest) (*link.JoinResponse, error) {
	c := federation.ClusterID(r.GetClusterId())
	if err := c.Validate(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if r.GetApiPort() == 0 || r.GetApiPort() > math.MaxUint16 {
		return nil, status.Errorf(codes.InvalidArgument, "api_port %d: want 1 to 65535", r.GetApiPort())
	}
	api, err := s.apiAddress(ctx, uint16(r.GetApiPort()))
	if err != nil {
		return nil, err
	}
	locality, err := s.Members.Join(ctx, Claim{
		Cluster: c, Node: caller(ctx), API: api, Versions: r.GetVersions(),
		Locality: federation.Locality{Region: r.GetRegion(), Zone: r.GetZone()},
	})
	switch {
	case errors.Is(err, ErrTaken):
		return nil, status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, ErrNotAccepted):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		s.Log.Error("join failed", "cluster", string(c), "err", err)
		return nil, status.Error(codes.Unavailable, "the hub cannot store the member now, try again")
	}
	if err := s.Hub.Joined(ctx, c, locality); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return &link.JoinResponse{Epoch: s.Hub.Epoch(), HeartbeatMs: uint32(s.Heartbeat.Milliseconds()), ProxyTag: s.ProxyTag}, nil
}

// apiAddress is the caller's tailnet address with the port of its API server proxy.
func (s *Server) apiAddress(ctx context.Context, port uint16) (netip.AddrPort, error) {
	p, _ := peer.FromContext(ctx)
	ap, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return netip.AddrPort{}, status.Errorf(codes.Internal, "peer address: %v", err)
	}
	return netip.AddrPortFrom(ap.Addr(), port), nil
}

// owned checks that the caller is the member that it speaks for.
func (s *Server) owned(ctx context.Context, id string) (federation.ClusterID, error) {
	c := federation.ClusterID(id)
	if n := caller(ctx); !s.Members.Owns(c, n.StableID) {
		return "", status.Errorf(codes.PermissionDenied, "node %s is not the accepted member %q: join first", n.Name, id)
	}
	return c, nil
}

// Watch sends the member's state.
func (s *Server) Watch(r *link.WatchRequest, stream grpc.ServerStreamingServer[link.WatchResponse]) error {
	ctx := stream.Context()
	c, err := s.owned(ctx, r.GetClusterId())
	if err != nil {
		return err
	}
	if err := compress(ctx); err != nil {
		return err
	}
	sender := linkstate.NewSender(s.Hub.Epoch(), s.Heartbeat, r.GetEpoch(), r.GetVersion(), time.Now())
	for {
		epoch, version := sender.Position()
		wait, cancel := context.WithDeadline(ctx, sender.Deadline())
		u, err := s.Hub.Next(wait, c, epoch, version)
		cancel()
		switch {
		case err == nil:
			sender.Sent(u, time.Now())
		case ctx.Err() != nil:
			return status.FromContextError(ctx.Err()).Err()
		default: // nothing new for a heartbeat
			if _, err := s.owned(ctx, r.GetClusterId()); err != nil {
				return err
			}
			u = sender.Beat(time.Now())
		}
		if err := stream.Send(link.FromUpdate(u)); err != nil {
			return err
		}
	}
}

// compress has the stream's responses compressed if the spoke can read that.
func compress(ctx context.Context) error {
	names, err := grpc.ClientSupportedCompressors(ctx)
	if err == nil && slices.Contains(names, link.Compression) {
		err = grpc.SetSendCompressor(ctx, link.Compression)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "compress the watch: %v", err)
	}
	return nil
}

// ProxyKey mints an auth key for one of the member's proxies.
func (s *Server) ProxyKey(ctx context.Context, r *link.ProxyKeyRequest) (*link.ProxyKeyResponse, error) {
	c, err := s.owned(ctx, r.GetClusterId())
	if err != nil {
		return nil, err
	}
	if role := r.GetRole(); role != "ingress" && role != "egress" {
		return nil, status.Errorf(codes.InvalidArgument, "role %q: want ingress or egress", role)
	}
	key, err := s.MintKey(ctx, Proxy{Cluster: c, Role: r.GetRole(), Replica: r.GetReplica(), Tailnet: r.GetTailnet()})
	switch {
	case errors.Is(err, ErrNoTailnet):
		return nil, status.Errorf(codes.NotFound, "the hub has no TailscaleTailnet %q", r.GetTailnet())
	case err != nil:
		s.Log.Warn("no key for a proxy", "cluster", string(c), "role", r.GetRole(), "tailnet", r.GetTailnet(), "err", err)
		return nil, status.Error(codes.Unavailable, "the Tailscale API gives no key now, try again")
	}
	return &link.ProxyKeyResponse{Key: key.Key, ControlUrl: key.ControlURL, Tags: []string{s.ProxyTag}}, nil
}
