package link_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	api "github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/probes"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/link"
)

const patience = 2 * time.Minute

// fakeHub is a hub that does what the test says.
type fakeHub struct {
	api.UnimplementedHubServer
	join    func() error
	watches chan *api.WatchRequest
	// send is what a Watch sends; closed, the stream falls silent.
	send    chan *api.WatchResponse
	reports chan *api.ReportRequest
	beat    uint32
}

func (h *fakeHub) Join(context.Context, *api.JoinRequest) (*api.JoinResponse, error) {
	if err := h.join(); err != nil {
		return nil, err
	}
	return &api.JoinResponse{Epoch: 1, HeartbeatMs: h.beat, ProxyTag: "tag:proxy"}, nil
}

func (h *fakeHub) Watch(r *api.WatchRequest, stream grpc.ServerStreamingServer[api.WatchResponse]) error {
	h.watches <- r
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case w := <-h.send:
			if err := stream.Send(w); err != nil {
				return err
			}
		}
	}
}

func (h *fakeHub) Report(stream grpc.ClientStreamingServer[api.ReportRequest, api.ReportResponse]) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case h.reports <- r:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (h *fakeHub) Discover(_ context.Context, r *api.DiscoverRequest) (*api.DiscoverResponse, error) {
	if r.GetTailnet() == "nobodys" {
		return nil, status.Error(codes.NotFound, "no such tailnet")
	}
	return &api.DiscoverResponse{Devices: []*api.Device{{Fqdn: r.GetClusterId() + "." + r.GetTailnet()}}, Problem: "old", LeftOut: 3}, nil
}

func (h *fakeHub) ProxyKey(_ context.Context, r *api.ProxyKeyRequest) (*api.ProxyKeyResponse, error) {
	return &api.ProxyKeyResponse{Key: "key-" + r.GetRole() + "-" + r.GetTailnet(), ControlUrl: "http://control", Tags: []string{"tag:proxy"}}, nil
}

// fakeSpoke is the loop as the link sees it.
type fakeSpoke struct {
	mu      sync.Mutex
	state   linkstate.State
	report  spoke.Report
	changed chan struct{}
	links   chan spoke.LinkStatus
}

func newFakeSpoke() *fakeSpoke {
	return &fakeSpoke{changed: make(chan struct{}), links: make(chan spoke.LinkStatus, 100)}
}

func (s *fakeSpoke) Position(context.Context) (uint64, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Epoch(), s.state.Version(), nil
}

func (s *fakeSpoke) Apply(_ context.Context, u linkstate.Update) error {
	s.mu.Lock()
	next, _, err := s.state.Apply(u)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.state = next
	r := s.report
	s.mu.Unlock()
	r.Epoch, r.Version = next.Epoch(), next.Version()
	s.set(r)
	return nil
}

func (s *fakeSpoke) LinkChanged(_ context.Context, l spoke.LinkStatus) error {
	s.links <- l
	return nil
}

func (s *fakeSpoke) LastReport() (spoke.Report, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report, s.changed
}

func (s *fakeSpoke) set(r spoke.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
	close(s.changed)
	s.changed = make(chan struct{})
}

type bed struct {
	t     *testing.T
	hub   *fakeHub
	spoke *fakeSpoke
	*link.Client
}

// start runs a client against a fake hub until the test ends. Its heartbeat is short: a test that waits for a stall waits
// but a moment.
func start(t *testing.T, join func() error) *bed {
	return startWithHeartbeat(t, join, 50*time.Millisecond)
}

func startWithHeartbeat(t *testing.T, join func() error, heartbeat time.Duration) *bed {
	t.Helper()
	b := &bed{
		t: t, spoke: newFakeSpoke(),
		hub: &fakeHub{
			join: join, watches: make(chan *api.WatchRequest, 100), send: make(chan *api.WatchResponse), reports: make(chan *api.ReportRequest),
			beat: uint32(heartbeat.Milliseconds()),
		},
	}
	ln := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	api.RegisterHubServer(g, b.hub)
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	b.Client = link.New(link.Options{
		Cluster: "c1", Spoke: b.spoke, APIPort: 6443, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (net.Conn, error) { return ln.DialContext(ctx) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		g.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b
}

func accept() error { return nil }

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

func give[T any](t *testing.T, what string, to chan<- T, v T) {
	t.Helper()
	select {
	case to <- v:
	case <-time.After(patience):
		t.Fatalf("%s was not taken within %s", what, patience)
	}
}

// until returns the first value for which f is true.
func until[T any](t *testing.T, what string, from <-chan T, f func(T) bool) T {
	t.Helper()
	for {
		if v := receive(t, what, from); f(v) {
			return v
		}
	}
}

func notice(key, subject string) *api.Resource {
	return &api.Resource{Key: key, Object: &api.Resource_Notice{Notice: &api.Notice{Subject: subject}}}
}

func TestJoinErrorsSayWhatToDoAndAreRetried(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		reason string
		says   []string
	}{
		"cluster-id-taken": {
			status.Error(codes.AlreadyExists, "node n2 has it"), spoke.ReasonClusterIDTaken, []string{`"c1" is taken`, "--cluster-id", "node n2 has it"},
		},
		"not-accepted-yet": {
			status.Error(codes.FailedPrecondition, "waits"), spoke.ReasonNotAccepted, []string{"waits for acceptance", "spec.accepted"},
		},
		"without-the-tag": {
			status.Error(codes.PermissionDenied, "node lacks tag:x"), spoke.ReasonRefused, []string{"refuses this spoke", "tag:x"},
		},
		"hub-not-ready": {status.Error(codes.Unavailable, "store"), spoke.ReasonHubUnreachable, []string{"cannot be reached"}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			tries := 0
			b := start(t, func() error {
				mu.Lock()
				defer mu.Unlock()
				if tries++; tries <= 2 {
					return tc.err
				}
				return nil
			})
			l := receive(t, "link status", b.spoke.links)
			if l.Up || l.Reason != tc.reason {
				t.Errorf("status %+v, want reason %s", l, tc.reason)
			}
			for _, want := range tc.says {
				if !strings.Contains(l.Message, want) {
					t.Errorf("message %q does not say %q", l.Message, want)
				}
			}
			receive(t, "watch after the error was over", b.hub.watches)
		})
	}
}

func TestStalledStreamIsNoticedAndResumed(t *testing.T) {
	b := start(t, accept)
	if r := receive(t, "watch", b.hub.watches); r.GetVersion() != 0 || r.GetClusterId() != "c1" {
		t.Errorf("first watch %v", r)
	}
	give(t, "update", b.hub.send, &api.WatchResponse{Epoch: 1, Version: 5, Full: true, Upserts: []*api.Resource{notice("notice/a", "a")}})
	until(t, "link up", b.spoke.links, func(l spoke.LinkStatus) bool { return l.Up })
	// The hub sends nothing more: after three heartbeats of 50 ms the stream is opened anew from where it was.
	r := receive(t, "second watch", b.hub.watches)
	if r.GetEpoch() != 1 || r.GetVersion() != 5 {
		t.Errorf("resumed from %d/%d, want 1/5", r.GetEpoch(), r.GetVersion())
	}
	l := receive(t, "link down", b.spoke.links)
	if l.Up || !strings.Contains(l.Message, "silent for three heartbeats") {
		t.Errorf("status %+v", l)
	}
}

func TestBadResourceIsRefusedByNameAndTheRestApplied(t *testing.T) {
	b := start(t, accept)
	receive(t, "watch", b.hub.watches)
	give(t, "update", b.hub.send, &api.WatchResponse{Epoch: 1, Version: 2, Full: true, Upserts: []*api.Resource{
		notice("notice/a", "a"), notice("notice/b", "something else"), {Key: "future/x"},
	}})
	r := until(t, "report with refusals", b.hub.reports, func(r *api.ReportRequest) bool { return len(r.GetRefused()) > 0 })
	var keys []string
	for _, f := range r.GetRefused() {
		keys = append(keys, f.GetKey())
	}
	if got := strings.Join(keys, " "); got != "notice/b future/x" {
		t.Errorf("refused %q", got)
	}
	if _, v, err := b.spoke.Position(t.Context()); err != nil || v != 2 {
		t.Errorf("version %d, %v: want 2", v, err)
	}
}

func TestOlderHubIsNotBelieved(t *testing.T) {
	b := start(t, accept)
	receive(t, "watch", b.hub.watches)
	give(t, "update", b.hub.send, &api.WatchResponse{Epoch: 7, Version: 1, Full: true})
	until(t, "link up", b.spoke.links, func(l spoke.LinkStatus) bool { return l.Up })
	give(t, "older update", b.hub.send, &api.WatchResponse{Epoch: 6, Version: 9, Full: true})
	l := until(t, "refusal", b.spoke.links, func(l spoke.LinkStatus) bool { return !l.Up })
	if l.Reason != spoke.ReasonRefused || !strings.Contains(l.Message, "replaced by a newer one") {
		t.Errorf("status %+v", l)
	}
}

func TestWhatDoesNotFollowIsAskedForAnew(t *testing.T) {
	b := start(t, accept)
	receive(t, "watch", b.hub.watches)
	give(t, "update", b.hub.send, &api.WatchResponse{Epoch: 7, Version: 3, Full: true})
	give(t, "update after a gap", b.hub.send, &api.WatchResponse{Epoch: 7, Version: 9, Base: 8, Upserts: []*api.Resource{notice("notice/a", "a")}})
	if r := receive(t, "watch after the gap", b.hub.watches); r.GetEpoch() != 7 || r.GetVersion() != 0 {
		t.Errorf("goes on from %d/%d, want everything of epoch 7", r.GetEpoch(), r.GetVersion())
	}
	give(t, "full update", b.hub.send, &api.WatchResponse{Epoch: 7, Version: 9, Full: true, Upserts: []*api.Resource{notice("notice/a", "a")}})
	// Then the hub falls silent, and the spoke goes on from where it is.
	if r := receive(t, "watch after the silence", b.hub.watches); r.GetEpoch() != 7 || r.GetVersion() != 9 {
		t.Errorf("goes on from %d/%d, want 7/9", r.GetEpoch(), r.GetVersion())
	}
}

func TestReports(t *testing.T) {
	// Long enough that a busy machine makes no stall of it: a stream opened anew says everything again.
	b := startWithHeartbeat(t, accept, 400*time.Millisecond)
	receive(t, "watch", b.hub.watches)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // heartbeats, or the stream would be taken for stalled
		for {
			select {
			case b.hub.send <- &api.WatchResponse{Epoch: 1, Version: 1, Full: true}:
			case <-stop:
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	first := receive(t, "first report", b.hub.reports)
	if first.GetInterest() == nil || first.GetProxies() != nil {
		t.Errorf("first report %v: want an interest, and no proxies while they are unknown", first)
	}
	second := receive(t, "keep-alive", b.hub.reports)
	if second.GetInterest() != nil {
		t.Errorf("an interest that did not change is sent again: %v", second)
	}
	at := time.Now().Add(-2 * time.Second)
	target := federation.Target{Cluster: "c2"}
	next := spoke.Report{
		Observations: map[federation.Target]probes.Result{target: {Reachable: false, At: at, Error: "timeout"}}, All: true,
		HostsKnown: true, Hosts: []spoke.Host{{NodeID: "n", Addr: netip.MustParseAddrPort("100.64.0.1:9440")}},
	}
	b.spoke.set(next)
	r := until(t, "report with an observation", b.hub.reports, func(r *api.ReportRequest) bool { return len(r.GetObservations()) > 0 })
	o := r.GetObservations()[0]
	if o.GetCluster() != "c2" || o.GetReachable() || o.GetError() != "timeout" || o.GetAgeMs() < 2000 || o.GetAgeMs() > 20000 {
		t.Errorf("observation %v", o)
	}
	if !r.GetInterest().GetAll() || len(r.GetProxies().GetIngress()) != 1 {
		t.Errorf("report %v: want the new interest and the host", r)
	}
	for range 3 {
		if r := receive(t, "keep-alive", b.hub.reports); len(r.GetObservations()) > 0 || r.GetProxies() != nil {
			t.Fatalf("what did not change is sent again: %v", r)
		}
	}
	next.Devices = []spoke.Device{{NodeID: "n"}, {Tailnet: "lab", NodeID: "e"}}
	b.spoke.set(next)
	r = until(t, "report with devices", b.hub.reports, func(r *api.ReportRequest) bool { return r.GetProxies() != nil })
	if d := r.GetProxies().GetDevices(); len(d) != 2 || d[1].GetTailnetRef() != "lab" || d[1].GetNodeId() != "e" || len(r.GetProxies().GetIngress()) != 1 {
		t.Errorf("report %v: want both devices, and the host again", r)
	}
	next.Observations = map[federation.Target]probes.Result{target: {Reachable: false, At: at.Add(time.Second)}}
	next.Hosts = nil
	b.spoke.set(next)
	r = until(t, "refreshed observation", b.hub.reports, func(r *api.ReportRequest) bool { return len(r.GetObservations()) > 0 })
	if r.GetProxies() == nil || len(r.GetProxies().GetIngress()) != 0 {
		t.Errorf("report %v: want an empty list of hosts", r)
	}
}

func TestProxyKey(t *testing.T) {
	b := start(t, accept)
	idle := link.New(link.Options{Cluster: "c1"})
	if _, err := idle.ProxyKey(t.Context(), spoke.ProxyID{Role: spoke.Ingress}); !errors.Is(err, link.ErrNoLink) {
		t.Errorf("without a link: %v", err)
	}
	receive(t, "watch", b.hub.watches)
	key, err := b.ProxyKey(t.Context(), spoke.ProxyID{Role: spoke.Egress, Tailnet: "acme"})
	if err != nil || key.Key != "key-egress-acme" || key.ControlURL != "http://control" {
		t.Errorf("key %+v, %v", key, err)
	}
}

func TestDiscover(t *testing.T) {
	b := start(t, accept)
	idle := link.New(link.Options{Cluster: "c1"})
	if _, err := idle.Discover(t.Context(), "acme", discovery.Query{}, time.Second); !errors.Is(err, link.ErrNoLink) {
		t.Errorf("without a link: %v", err)
	}
	receive(t, "watch", b.hub.watches)
	found, err := b.Discover(t.Context(), "acme", discovery.Query{}, time.Second)
	if err != nil || len(found.Devices) != 1 || found.Devices[0].FQDN != "c1.acme" || found.Problem != "old" || found.LeftOut != 3 {
		t.Errorf("found %+v, %v", found, err)
	}
	if _, err := b.Discover(t.Context(), "nobodys", discovery.Query{}, time.Second); !errors.Is(err, link.ErrNoTailnet) {
		t.Errorf("an unknown tailnet: %v", err)
	}
}
