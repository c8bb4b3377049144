package extension_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/envoyproxy/gateway/proto/extension"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

func largeCalls() []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(extension.MaxMessage), grpc.MaxCallSendMsgSize(extension.MaxMessage)}
}

func to(addrs ...string) extension.Assignment {
	var a extension.Assignment
	for i, addr := range addrs {
		a.Endpoints = append(a.Endpoints, extension.Endpoint{Addr: netip.MustParseAddrPort(addr), Priority: uint32(i), Weight: 1})
	}
	return a
}

// envoy is a delta client.
type envoy struct {
	t      *testing.T
	stream endpointservice.EndpointDiscoveryService_DeltaEndpointsClient
	have   map[string]string
}

func connect(t *testing.T, w *wire, node string, have map[string]string, names ...string) *envoy {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := endpointservice.NewEndpointDiscoveryServiceClient(w.client(t)).DeltaEndpoints(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := &envoy{t, stream, map[string]string{}}
	e.send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node}, ResourceNamesSubscribe: names, InitialResourceVersions: have})
	return e
}

func (e *envoy) send(r *discoveryv3.DeltaDiscoveryRequest) {
	e.t.Helper()
	if err := e.stream.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

// receive returns the names that the next response brings.
func (e *envoy) receive() (*discoveryv3.DeltaDiscoveryResponse, []string) {
	e.t.Helper()
	r, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	var names []string
	for _, res := range r.GetResources() {
		names = append(names, res.GetName())
		e.have[res.GetName()] = res.GetVersion()
	}
	slices.Sort(names)
	return r, names
}

// startEDS returns a running server with its events as a channel.
func startEDS(t *testing.T, w *wire, all map[string]extension.Assignment) (*extension.EDS, <-chan extension.Event) {
	t.Helper()
	events := make(chan extension.Event, 100)
	s, err := extension.NewEDS(w.options(t), func(e extension.Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetAssignments(all); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s, events
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	w := newWire(t)
	all := map[string]extension.Assignment{"tsgw/a": to("127.0.0.1:1"), "tsgw/b": to("127.0.0.1:2"), "tsgw/empty": {}}
	s, events := startEDS(t, w, all)
	e := connect(t, w, "envoy-1", nil, "tsgw/a", "tsgw/b", "tsgw/empty")
	r, names := e.receive()
	if diff := cmp.Diff([]string{"tsgw/a", "tsgw/b", "tsgw/empty"}, names); diff != "" {
		t.Fatal(diff)
	}
	sent := <-events
	e.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce()})
	acked := <-events
	if sent.Kind != extension.Sent || acked.Kind != extension.Acked || acked.Nonce != sent.Nonce || acked.Node != "envoy-1" || acked.At.Before(sent.At) {
		t.Errorf("sent %+v, acked %+v", sent, acked)
	}
	if diff := cmp.Diff(names, acked.Names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"envoy-1"}, s.Connected()); diff != "" {
		t.Error(diff)
	}

	all["tsgw/b"] = to("127.0.0.1:3", "127.0.0.1:2")
	if err := s.SetAssignments(all); err != nil {
		t.Fatal(err)
	}
	r, names = e.receive()
	if diff := cmp.Diff([]string{"tsgw/b"}, names); diff != "" {
		t.Fatal(diff)
	}
	var cla endpointv3.ClusterLoadAssignment
	if err := r.GetResources()[0].GetResource().UnmarshalTo(&cla); err != nil {
		t.Fatal(err)
	}
	if got := len(cla.GetEndpoints()); got != 2 {
		t.Errorf("%d priorities", got)
	}
	<-events
	e.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce(), ErrorDetail: &status.Status{Message: "no thanks"}})
	if ev := <-events; ev.Kind != extension.Nacked || ev.Error != "no thanks" || !slices.Equal(ev.Names, names) {
		t.Errorf("nacked %+v", ev)
	}

	// The same set again sends nothing, so the next message is the removal.
	if err := s.SetAssignments(all); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(map[string]*extension.Assignment{"tsgw/a": nil, "tsgw/unknown": nil}); err != nil {
		t.Fatal(err)
	}
	r, names = e.receive()
	if diff := cmp.Diff([]string{"tsgw/a"}, r.GetRemovedResources()); diff != "" || len(names) != 0 {
		t.Errorf("names %v %s", names, diff)
	}
	if ev := <-events; !slices.Equal(ev.Removed, []string{"tsgw/a"}) {
		t.Errorf("removal %+v", ev)
	}
	var kinds []extension.EventKind
	for _, ev := range s.Events(1) {
		kinds = append(kinds, ev.Kind)
	}
	if diff := cmp.Diff([]extension.EventKind{extension.Acked, extension.Sent, extension.Nacked, extension.Sent}, kinds); diff != "" {
		t.Error(diff)
	}
}

// TestResume connects to a second replica, which has another history and the same assignments but one.
func TestResume(t *testing.T) {
	all := map[string]extension.Assignment{"tsgw/a": to("127.0.0.1:1"), "tsgw/b": to("127.0.0.1:2")}
	first := newWire(t)
	startEDS(t, first, all)
	e := connect(t, first, "envoy-1", nil, "tsgw/a", "tsgw/b")
	e.receive()
	all["tsgw/b"] = to("127.0.0.1:9")
	second := newWire(t)
	startEDS(t, second, all)
	again := connect(t, second, "envoy-1", e.have, "tsgw/a", "tsgw/b")
	if _, names := again.receive(); !slices.Equal(names, []string{"tsgw/b"}) {
		t.Errorf("sent %v", names)
	}
}

// TestPortOpensWithAssignments checks that an Envoy cannot read an empty state, and that a closed one is not counted.
func TestPortOpensWithAssignments(t *testing.T) {
	w := newWire(t)
	s, err := extension.NewEDS(w.options(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	select {
	case <-w.opened:
		t.Fatal("the port is open without assignments")
	default:
	}
	if err := s.SetAssignments(nil); err != nil {
		t.Fatal(err)
	}
	<-w.opened
}

func TestBadAssignmentIsNamedAndTheRestSent(t *testing.T) {
	w := newWire(t)
	s, _ := startEDS(t, w, nil)
	err := s.SetAssignments(map[string]extension.Assignment{"": to("127.0.0.1:1"), "tsgw/a": to("127.0.0.1:1")})
	if err == nil || !strings.Contains(err.Error(), "ClusterName") {
		t.Errorf("got %v", err)
	}
	if _, names := connect(t, w, "e", nil, "tsgw/a").receive(); !slices.Equal(names, []string{"tsgw/a"}) {
		t.Errorf("sent %v", names)
	}
}

func TestLoadAssignment(t *testing.T) {
	addr := netip.MustParseAddrPort
	near := federation.Locality{Region: "eu"}
	a := extension.Assignment{Endpoints: []extension.Endpoint{
		{Addr: addr("127.0.0.1:3"), Priority: 7, Health: federation.Degraded, Cluster: "c3"},
		{Addr: addr("127.0.0.1:1"), Priority: 2, Weight: 3, Cluster: "c1", Locality: near},
		{Addr: addr("[::1]:2"), Priority: 2, Weight: 1, Cluster: "c2", Health: federation.Unhealthy},
		{Addr: addr("127.0.0.1:4"), Priority: 2, Weight: 2, Cluster: "c1", Locality: near},
		{Addr: addr("127.0.0.1:4"), Priority: 2, Weight: 2, Cluster: "c1", Locality: near},
		{Priority: 0, Cluster: "no-address"},
	}}
	got := extension.LoadAssignment("x", a)
	type group struct {
		Priority, Weight uint32
		Zone             string
		Health           []corev3.HealthStatus
	}
	var groups []group
	for _, l := range got.GetEndpoints() {
		g := group{Priority: l.GetPriority(), Weight: l.GetLoadBalancingWeight().GetValue(), Zone: l.GetLocality().GetSubZone()}
		for _, e := range l.GetLbEndpoints() {
			g.Health = append(g.Health, e.GetHealthStatus())
		}
		groups = append(groups, g)
	}
	want := []group{
		{0, 1, "c2", []corev3.HealthStatus{corev3.HealthStatus_UNHEALTHY}},
		{0, 5, "c1", []corev3.HealthStatus{corev3.HealthStatus_HEALTHY, corev3.HealthStatus_HEALTHY}},
		{1, 1, "c3", []corev3.HealthStatus{corev3.HealthStatus_DEGRADED}},
	}
	if diff := cmp.Diff(want, groups); diff != "" {
		t.Error(diff)
	}
	if err := got.ValidateAll(); err != nil {
		t.Error(err)
	}
}

// TestHangingTranslation calls a hook whose work does not end: the input comes back after the guard time.
func TestHangingTranslation(t *testing.T) {
	w := newWire(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := extension.NewServer(w.options(t))
		if err != nil {
			t.Fatal(err)
		}
		until := make(chan struct{})
		s.Hang(until)
		s.SetSnapshot(snapshot("a"))
		start := time.Now()
		got, err := s.PostTranslateModify(t.Context(), translation())
		if err != nil || len(got.GetClusters()) != 1 {
			t.Errorf("got %v, %v", clusterNames(got), err)
		}
		if took := time.Since(start); took < time.Second || took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		close(until)
		synctest.Wait()
	})
}

var _ pb.EnvoyGatewayExtensionServer = (*extension.Server)(nil)
