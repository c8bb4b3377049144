// Package xds is a client of the incremental (delta) xDS protocol, as Envoy speaks it: wildcard and named
// subscriptions on one stream, an ACK or a NACK with error_detail for each response, resumption with the versions
// already held, and the last configuration kept while there is no stream. Test equipment, never part of the product.
package xds

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
)

// The resource types that the stand-in asks for.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Stream is the client's side of a delta xDS stream, of ADS or of one type.
type Stream interface {
	Send(*discoveryv3.DeltaDiscoveryRequest) error
	Recv() (*discoveryv3.DeltaDiscoveryResponse, error)
}

// Options configure a Client.
type Options struct {
	Source  string // names the control plane in logs and events
	Node    *corev3.Node
	Open    func(ctx context.Context) (Stream, error) // opens a new stream, which ends with ctx
	Handler Handler
	Events  *events.Log
	Log     *slog.Logger
	// BackoffBase and BackoffMax bound the jittered exponential wait before a broken stream is opened again.
	// Envoy's defaults are 500 ms and 30 s.
	BackoffBase, BackoffMax time.Duration
}

// Handler applies responses. An error refuses the response: it is sent as a NACK. Like Envoy, a handler may have
// applied the resources that were good.
type Handler interface {
	Apply(source, typeURL string, resources []*discoveryv3.Resource, removed []string) error
}

// Client holds the subscriptions of one stream and keeps it open.
type Client struct {
	opts Options
	wake chan struct{}

	mu    sync.Mutex
	types []*subscription // in the order in which they were first asked for
	up    bool
}

type subscription struct {
	typeURL  string
	wildcard bool
	want     map[string]bool
	sent     map[string]bool   // subscribed on the present stream
	opened   bool              // the present stream has had a request of this type
	versions map[string]string // versions held, by resource name
}

// New returns a client without subscriptions. Run makes it work.
func New(opts Options) *Client { return &Client{opts: opts, wake: make(chan struct{}, 1)} }

// WantAll subscribes to every resource of a type.
func (c *Client) WantAll(typeURL string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscriptionLocked(typeURL).wildcard = true
	c.signal()
}

// Want makes names the whole set of resources of a type that are subscribed to.
func (c *Client) Want(typeURL string, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subscriptionLocked(typeURL)
	s.want = map[string]bool{}
	for _, n := range names {
		s.want[n] = true
	}
	maps.DeleteFunc(s.versions, func(n, _ string) bool { return !s.want[n] })
	c.signal()
}

// Connected reports whether there is a stream.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

func (c *Client) subscriptionLocked(typeURL string) *subscription {
	for _, s := range c.types {
		if s.typeURL == typeURL {
			return s
		}
	}
	s := &subscription{typeURL: typeURL, want: map[string]bool{}, sent: map[string]bool{}, versions: map[string]string{}}
	c.types = append(c.types, s)
	return s
}

func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps a stream open until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	wait := c.opts.BackoffBase
	for {
		answered, err := c.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.opts.Events.Add(events.Event{Source: c.opts.Source, Type: "stream", Outcome: "disconnected", Reason: err.Error()})
		c.opts.Log.Warn("xDS stream ended; the configuration stays as it is", "source", c.opts.Source, "err", err)
		if answered {
			wait = c.opts.BackoffBase
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(wait) + 1): // full jitter, as in Envoy
		}
		wait = min(2*wait, c.opts.BackoffMax)
	}
}

// stream runs one stream to its end and reports whether it ever answered.
func (c *Client) stream(ctx context.Context) (answered bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	st, err := c.opts.Open(ctx)
	if err != nil {
		return false, fmt.Errorf("open stream: %w", err)
	}
	c.setUp(true)
	defer c.setUp(false)
	c.opts.Events.Add(events.Event{Source: c.opts.Source, Type: "stream", Outcome: "connected"})
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse)
	g.Go(func() error {
		for {
			resp, err := st.Recv()
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			select {
			case responses <- resp:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		node := c.opts.Node
		for {
			for _, req := range c.requests() {
				req.Node, node = node, nil // only the first message carries the node
				if err := st.Send(req); err != nil {
					return fmt.Errorf("send: %w", err)
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.wake:
			case resp := <-responses:
				answered = true
				if err := st.Send(c.apply(resp)); err != nil {
					return fmt.Errorf("send: %w", err)
				}
			}
		}
	})
	err = g.Wait()
	return answered, err
}

// setUp notes the state of the stream. A new one starts without subscriptions.
func (c *Client) setUp(up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	for _, s := range c.types {
		s.opened, s.sent = false, map[string]bool{}
	}
}

// requests returns what must be sent to bring the stream's subscriptions to what is wanted.
func (c *Client) requests() []*discoveryv3.DeltaDiscoveryRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	var reqs []*discoveryv3.DeltaDiscoveryRequest
	for _, s := range c.types {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.typeURL}
		for _, n := range slices.Sorted(maps.Keys(s.want)) {
			if !s.sent[n] {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, n)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(s.sent)) {
			if !s.want[n] {
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, n)
			}
		}
		changed := len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0
		if !changed && (s.opened || !s.wildcard) {
			continue
		}
		if !s.opened {
			req.InitialResourceVersions = maps.Clone(s.versions)
		}
		s.opened, s.sent = true, maps.Clone(s.want)
		reqs = append(reqs, req)
	}
	return reqs
}

// apply hands a response to the handler and returns its ACK or NACK.
func (c *Client) apply(resp *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
	e := events.Event{
		Source: c.opts.Source, Type: resp.GetTypeUrl(), Removed: resp.GetRemovedResources(),
		Version: resp.GetSystemVersionInfo(), Outcome: events.Ack,
	}
	resources := slices.Clone(resp.GetResources())
	slices.SortFunc(resources, func(a, b *discoveryv3.Resource) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, r := range resources {
		e.Names = append(e.Names, r.GetName())
	}
	if err := c.opts.Handler.Apply(c.opts.Source, resp.GetTypeUrl(), resources, resp.GetRemovedResources()); err != nil {
		ack.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		e.Outcome, e.Reason = events.Nack, err.Error()
		c.opts.Log.Warn("xDS response refused", "source", c.opts.Source, "type", resp.GetTypeUrl(), "err", err)
	} else {
		c.hold(resp)
	}
	c.opts.Events.Add(e)
	return ack
}

// hold remembers the versions of an accepted response, to resume from.
func (c *Client) hold(resp *discoveryv3.DeltaDiscoveryResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subscriptionLocked(resp.GetTypeUrl())
	for _, r := range resp.GetResources() {
		if s.wildcard || s.want[r.GetName()] {
			s.versions[r.GetName()] = r.GetVersion()
		}
	}
	for _, n := range resp.GetRemovedResources() {
		delete(s.versions, n)
	}
}
