// Package link is the spoke's end of the link to the hub: it joins, takes what the hub decides, and reports what the
// spoke sees. Whatever breaks is opened anew, by itself, for as long as the spoke runs.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
)

const (
	// joinTimeout is for one call of Join or ProxyKey.
	joinTimeout = 10 * time.Second
	// maxMessage is the largest message of the hub, in bytes: a full state of thousands of services.
	maxMessage = 64 << 20
)

// Spoke is what the link tells and asks the spoke.
type Spoke interface {
	Position(ctx context.Context) (epoch, version uint64, err error)
	Apply(ctx context.Context, u linkstate.Update) error
	LinkChanged(ctx context.Context, l spoke.LinkStatus) error
	LastReport() (spoke.Report, <-chan struct{})
}

// Options are a client's parts. All are required but Versions.
type Options struct {
	Cluster federation.ClusterID
	Spoke   Spoke
	// Dial connects to the hub, whose identity it has made sure of.
	Dial func(ctx context.Context) (net.Conn, error)
	// APIPort is the port of the spoke's tailnet node where its API server can be read.
	APIPort  uint16
	Locality federation.Locality
	// Versions are asked for with each join; they are for operators to read.
	Versions func(ctx context.Context) *link.Versions
	Log      *slog.Logger
}

// ErrNoLink reports that there is no link to the hub now.
var ErrNoLink = errors.New("no link to the hub now")

// Client keeps the link.
type Client struct {
	Options
	// hub is the hub of the present connection, nil while there is none.
	hub atomic.Pointer[link.HubClient]
	// undialed is why the last attempt to dial failed, nil after one that did not. gRPC would tell it quoted twice.
	undialed atomic.Pointer[error]
	// receiver decides; Run's goroutine has it, and while both streams are open the one that watches.
	receiver linkstate.Receiver
}

// New returns a client. It connects when it runs.
func New(o Options) *Client { return &Client{Options: o} }

// connect makes a connection. A link that broke gets a new one: the old one may be a black hole that nothing but a
// timeout ends.
func (c *Client) connect() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///hub",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := c.Dial(ctx)
			c.undialed.Store(nil)
			if err != nil {
				c.undialed.Store(&err)
			}
			return conn, err
		}),
		// WireGuard has encrypted and authenticated both ends, and Dial has asked who the other one is.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: linkstate.PauseMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: linkstate.PauseMax},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to the hub: %w", err)
	}
	return conn, nil
}

// Run keeps the link until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	for {
		c.receiver.Begin(time.Now())
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause := c.receiver.Ended(time.Now(), rand.Float64())
		if err := c.Spoke.LinkChanged(ctx, c.describe(err)); err != nil {
			return nil
		}
		c.Log.Debug("the link ended", "err", err, "pause", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// once joins and keeps both streams until one of them ends.
func (c *Client) once(ctx context.Context) error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	hub := link.NewHubClient(conn)
	joined, err := c.join(ctx, hub)
	if err != nil {
		return err
	}
	c.hub.Store(&hub)
	defer c.hub.Store(nil)
	heartbeat := time.Duration(joined.GetHeartbeatMs()) * time.Millisecond
	if heartbeat <= 0 {
		return fmt.Errorf("join: the hub gave no heartbeat interval: %w", errProtocol)
	}
	c.receiver.Joined(heartbeat, time.Now())
	g, ctx := errgroup.WithContext(ctx)
	refused := make(chan []*link.Refusal, 1)
	g.Go(func() error { return c.watch(ctx, hub, refused) })
	g.Go(func() error { return c.report(ctx, hub, heartbeat, refused) })
	return g.Wait()
}

func (c *Client) join(ctx context.Context, hub link.HubClient) (*link.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	request := &link.JoinRequest{ClusterId: string(c.Cluster), ApiPort: uint32(c.APIPort), Region: c.Locality.Region, Zone: c.Locality.Zone}
	if c.Versions != nil {
		request.Versions = c.Versions(ctx)
	}
	joined, err := hub.Join(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return joined, nil
}

// errProtocol reports a hub that does not keep to the protocol; errStalled one that fell silent.
var (
	errProtocol = errors.New("the hub does not keep to the protocol")
	errStalled  = errors.New("the hub was silent for three heartbeats")
)

// watch takes the hub's updates until the stream ends or stalls.
func (c *Client) watch(ctx context.Context, hub link.HubClient, refused chan<- []*link.Refusal) error {
	epoch, version, err := c.Spoke.Position(ctx)
	if err != nil {
		return err
	}
	epoch, version = c.receiver.Position(epoch, version)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.patience(), func() { cancel(errStalled) })
	defer silence.Stop()
	stream, err := hub.Watch(ctx, &link.WatchRequest{ClusterId: string(c.Cluster), Epoch: epoch, Version: version})
	for up := false; err == nil; {
		var response *link.WatchResponse
		if response, err = stream.Recv(); err != nil {
			break
		}
		c.receiver.Heard(time.Now())
		silence.Reset(c.patience())
		update, bad := link.ToUpdate(c.Cluster, response)
		err = c.Spoke.Apply(ctx, update)
		c.receiver.Took(update, err)
		if err != nil {
			break
		}
		if len(bad) > 0 {
			c.refuse(refused, bad)
		}
		if !up {
			up = true
			err = c.Spoke.LinkChanged(ctx, spoke.LinkStatus{Up: true, Reason: spoke.ReasonConnected})
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		err = cause
	}
	return fmt.Errorf("watch: %w", err)
}

// patience is how long the hub may be silent from now on.
func (c *Client) patience() time.Duration {
	at, _ := c.receiver.Deadline() // there is one: the hub let the spoke in
	return time.Until(at)
}

// refuse has the next report name the resources; what was not reported yet is replaced, for the newest state counts.
func (c *Client) refuse(refused chan<- []*link.Refusal, bad []*link.Refusal) {
	for _, r := range bad {
		c.Log.Warn("refused a resource of the hub", "key", r.GetKey(), "reason", r.GetReason())
	}
	select {
	case refused <- bad:
	default:
	}
}

// ProxyKey is an auth key for a proxy.
type ProxyKey struct {
	Key, ControlURL string
	Tags            []string
}

// ProxyKey asks the hub for an auth key for a proxy. One without a tailnet is for that of the spoke.
func (c *Client) ProxyKey(ctx context.Context, id spoke.ProxyID) (ProxyKey, error) {
	hub := c.hub.Load()
	if hub == nil {
		return ProxyKey{}, fmt.Errorf("ask the hub for a key for the %s proxy %d: %w", id.Role, id.Replica, ErrNoLink)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	r, err := (*hub).ProxyKey(ctx, &link.ProxyKeyRequest{ClusterId: string(c.Cluster), Role: string(id.Role), Replica: id.Replica, Tailnet: id.Tailnet})
	if err != nil {
		return ProxyKey{}, fmt.Errorf("ask the hub for a key for the %s proxy %d: %w", id.Role, id.Replica, err)
	}
	return ProxyKey{Key: r.GetKey(), ControlURL: r.GetControlUrl(), Tags: r.GetTags()}, nil
}

// describe says what an end of the link means and what to do about it.
func (c *Client) describe(err error) spoke.LinkStatus {
	s := spoke.LinkStatus{Reason: spoke.ReasonHubUnreachable, Message: err.Error()}
	st, ok := status.FromError(errors.Unwrap(err))
	switch {
	case errors.Is(err, linkstate.ErrOldEpoch):
		s.Reason, s.Message = spoke.ReasonRefused, "the hub that answers has been replaced by a newer one: stop it, or point --hub at the newer one ("+err.Error()+")"
	case !ok:
	case st.Code() == codes.AlreadyExists:
		s.Reason, s.Message = spoke.ReasonClusterIDTaken, fmt.Sprintf("the cluster id %q is taken by another node: "+
			"give this cluster an id of its own with --cluster-id, or remove the other's MemberCluster from the hub (the hub says: %s)", c.Cluster, st.Message())
	case st.Code() == codes.FailedPrecondition:
		s.Reason, s.Message = spoke.ReasonNotAccepted, fmt.Sprintf("the member %q waits for acceptance: "+
			"set spec.accepted of the MemberCluster in the hub's cluster (the hub says: %s)", c.Cluster, st.Message())
	case st.Code() == codes.PermissionDenied, st.Code() == codes.Unauthenticated, st.Code() == codes.InvalidArgument:
		s.Reason, s.Message = spoke.ReasonRefused, "the hub refuses this spoke: "+st.Message()
	case st.Code() == codes.Unavailable:
		s.Message = "the hub cannot be reached: " + st.Message()
		if err := c.undialed.Load(); err != nil {
			s.Message = "the hub cannot be reached: " + (*err).Error()
		}
	}
	return s
}
