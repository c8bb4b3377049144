package extension

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// EDS is the endpoint discovery server. It speaks only the delta protocol, sends only assignments that changed, and
// versions each by its content, so that an Envoy that connects again, to this or another replica, is sent nothing
// that it has.
type EDS struct {
	opts  Options
	cache *cachev3.LinearCache
	log   events
	first chan struct{}
	once  sync.Once
	// onEvent is told of each event.
	onEvent func(Event)

	// setting orders the calls that replace assignments.
	setting sync.Mutex
	current map[string]*endpointv3.ClusterLoadAssignment

	mu sync.Mutex
	// streams are the open connections.
	streams map[int64]*edsStream
}

// edsStream is what is known of one connection.
type edsStream struct {
	node string
	// sent are the responses without an answer, by nonce.
	sent map[string]Event
}

// NewEDS returns a server that answers when [EDS.Run] runs and assignments were set. onEvent, which may be nil, is
// told of each event and must not block.
func NewEDS(o Options, onEvent func(Event)) (*EDS, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &EDS{
		opts: o, onEvent: onEvent, first: make(chan struct{}),
		cache:   cachev3.NewLinearCache(resource.EndpointType),
		current: map[string]*endpointv3.ClusterLoadAssignment{},
		streams: map[int64]*edsStream{},
	}, nil
}

// SetAssignments replaces all assignments by those of the map, whose keys are Envoy cluster names, and sends what
// changed. A service without any endpoint should be in the map all the same: an Envoy that asks for what is not there
// waits for it. An assignment that Envoy would refuse is left out and named in the error; the others are sent.
func (e *EDS) SetAssignments(all map[string]Assignment) error {
	e.setting.Lock()
	defer e.setting.Unlock()
	changes := make(map[string]*Assignment, len(all))
	for name, a := range all {
		changes[name] = &a
	}
	for name := range e.current {
		if _, ok := all[name]; !ok {
			changes[name] = nil
		}
	}
	return e.applyLocked(changes)
}

// Apply replaces the assignments that it names, takes away those with nil, and sends what changed.
func (e *EDS) Apply(changes map[string]*Assignment) error {
	e.setting.Lock()
	defer e.setting.Unlock()
	return e.applyLocked(changes)
}

func (e *EDS) applyLocked(changes map[string]*Assignment) error {
	update := map[string]types.Resource{}
	var remove []string
	var bad []error
	for name, a := range changes {
		before, known := e.current[name]
		switch {
		case a != nil:
			next := loadAssignment(name, *a)
			if err := next.ValidateAll(); err != nil {
				bad = append(bad, fmt.Errorf("assignment %s: %w", name, err))
				continue
			}
			if !known || !proto.Equal(before, next) {
				update[name] = next
			}
		case known:
			remove = append(remove, name)
		}
	}
	if len(update)+len(remove) > 0 {
		slices.Sort(remove)
		if err := e.cache.UpdateResources(update, remove); err != nil {
			return fmt.Errorf("send assignments: %w", err)
		}
		for name, r := range update {
			e.current[name] = r.(*endpointv3.ClusterLoadAssignment)
		}
		for _, name := range remove {
			delete(e.current, name)
		}
	}
	e.once.Do(func() { close(e.first) })
	return errors.Join(bad...)
}

// Run waits for the first assignments, opens the port and serves until ctx ends, which is no error. Until then
// Envoys that are running keep the endpoints they have.
func (e *EDS) Run(ctx context.Context) error {
	select {
	case <-e.first:
	case <-ctx.Done():
		return nil
	}
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(e.opts.TLS)),
		// A node that vanished without a word is noticed, so that the count of Envoys is right.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		// Envoy's own pings come every 10 s.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	endpointservice.RegisterEndpointDiscoveryServiceServer(g, &edsService{delta: delta.NewServer(ctx, e.cache, e.callbacks(), config.DeactivateLegacyWildcard())})
	return serve(ctx, g, e.opts, "endpoint discovery server")
}

// edsService offers the delta method of the service and refuses the others.
type edsService struct {
	endpointservice.UnimplementedEndpointDiscoveryServiceServer
	delta delta.Server
}

// DeltaEndpoints serves one Envoy.
func (s *edsService) DeltaEndpoints(stream endpointservice.EndpointDiscoveryService_DeltaEndpointsServer) error {
	return s.delta.DeltaStreamHandler(stream, resource.EndpointType)
}

// Events returns the kept events after the one with number seq, oldest first.
func (e *EDS) Events(seq uint64) []Event { return e.log.since(seq) }

// Connected returns the node ids of the Envoys that are connected, sorted. Each stands once, however many streams it
// has; one that has not said its name is the empty string.
func (e *EDS) Connected() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	nodes := map[string]bool{}
	for _, s := range e.streams {
		nodes[s.node] = true
	}
	return slices.Sorted(maps.Keys(nodes))
}

func (e *EDS) callbacks() serverv3.CallbackFuncs {
	return serverv3.CallbackFuncs{
		DeltaStreamOpenFunc: func(_ context.Context, id int64, _ string) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.streams[id] = &edsStream{sent: map[string]Event{}}
			return nil
		},
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.streams, id)
		},
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			e.heard(id, r)
			return nil
		},
		StreamDeltaResponseFunc: e.sends,
	}
}

// heard notes an Envoy's name and its answer to what it was sent.
func (e *EDS) heard(id int64, r *discoveryv3.DeltaDiscoveryRequest) {
	e.mu.Lock()
	s := e.streams[id]
	if n := r.GetNode().GetId(); n != "" {
		s.node = n
	}
	ev, answered := s.sent[r.GetResponseNonce()]
	delete(s.sent, r.GetResponseNonce())
	e.mu.Unlock()
	if !answered {
		return
	}
	ev.Kind, ev.At = Acked, e.opts.Now()
	if d := r.GetErrorDetail(); d != nil {
		ev.Kind, ev.Error = Nacked, d.GetMessage()
		e.opts.Log.Error("Envoy refused endpoints", "node", ev.Node, "names", ev.Names, "reason", ev.Error)
	}
	e.record(ev)
}

// sends notes what is about to be sent.
func (e *EDS) sends(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
	ev := Event{Kind: Sent, At: e.opts.Now(), Stream: id, Version: r.GetSystemVersionInfo(), Nonce: r.GetNonce(), Removed: slices.Sorted(slices.Values(r.GetRemovedResources()))}
	for _, res := range r.GetResources() {
		ev.Names = append(ev.Names, res.GetName())
	}
	slices.Sort(ev.Names)
	e.mu.Lock()
	s := e.streams[id]
	ev.Node = s.node
	s.sent[ev.Nonce] = ev
	e.mu.Unlock()
	e.record(ev)
}

func (e *EDS) record(ev Event) {
	ev = e.log.add(ev)
	if e.onEvent != nil {
		e.onEvent(ev)
	}
}
