package export_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	mcmanager "sigs.k8s.io/multicluster-runtime/pkg/manager"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/clusters"
	"github.com/tailgate-project/tailgate/hub/clusters/clusterstest"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestController runs the controller over a member with a real API server, through all that a member goes through.
func TestController(t *testing.T) {
	f := start(t)
	f.testBeforeCRDs(t)
	f.testExports(t)
	f.testOneSliceOneExport(t)
	f.testListeners(t)
	f.testOutside(t)
	f.testServiceExports(t)
	f.testLeave(t)
	f.testDeletedWhileAway(t)
}

type fixture struct {
	api      *controlplane.ControlPlane
	admin    client.Client
	provider *clusters.Provider
	member   clusters.Member
	sink     *sink
}

func start(t *testing.T) *fixture {
	t.Helper()
	api := controlplane.ForTest(t)
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), gatewayv1.Install(scheme), mcsv1alpha1.Install(scheme), mcsv1beta1.Install(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{api: api, sink: &sink{exports: map[federation.ExportKey]federation.Export{}, changed: make(chan struct{}, 1)}}
	f.member = clusters.Member{ID: "c1", Addr: clusterstest.ServeAPI(t, api.RESTConfig()), NodeID: "n1"}
	members := &memberSink{}
	f.provider = clusters.New(clusters.Options{
		Scheme: scheme, Sink: members, Log: slog.New(slog.DiscardHandler), Recheck: 100 * time.Millisecond, Retry: 50 * time.Millisecond,
		Dial: func(ctx context.Context, m clusters.Member) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", m.Addr.String())
		},
	})
	members.controller = export.New(f.provider, f.sink)
	mgr, err := mcmanager.New(api.RESTConfig(), f.provider, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(members.controller.AddTo(t.Context(), mgr), f.provider.AddTo(mgr)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if f.admin, err = client.New(api.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return f
}

var (
	webKey   = federation.ExportKey{Cluster: "c1", Service: federation.Service("default", "web")}
	apiKey   = federation.ExportKey{Cluster: "c1", Service: federation.Service("default", "api")}
	httpKey  = federation.ExportKey{Cluster: "c1", Service: federation.Listener("default", "main", "http")}
	staleKey = federation.ExportKey{Cluster: "c1", Service: federation.Service("default", "deleted-long-ago")}
	staleGW  = federation.ExportKey{Cluster: "c1", Service: federation.Listener("default", "gone", "http")}
)

// testBeforeCRDs: a member without any CRD exports nothing, and what the store has of it from before goes away.
func (f *fixture) testBeforeCRDs(t *testing.T) {
	f.sink.put(federation.Export{Key: staleKey})
	f.sink.put(federation.Export{Key: staleGW})
	f.create(t, newService("web"))
	f.provider.Engage(f.member)
	f.sink.await(t)
}

// testExports: with the CRDs and a TailscaleGateway, the Services of its namespace are exported.
func (f *fixture) testExports(t *testing.T) {
	found, err := assets.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	crds := filepath.FromSlash("../../../deploy/crds/gateway.tailscale.com_")
	if err := f.api.ApplyFiles(t.Context(), found.EnvoyGatewayCRDs[0], crds+"tailscalegateways.yaml", crds+"tailscaleendpoints.yaml"); err != nil {
		t.Fatal(err)
	}
	tg := tsgw("default", "main")
	f.create(t, &tg)
	f.sink.await(t, exported(webKey, 0))
	f.create(t, newService("api"), newSlice("web", "web-1", "10.0.0.1", "10.0.0.2"))
	f.sink.await(t, exported(webKey, 2), exported(apiKey, 0))
}

// testOneSliceOneExport: a change of one EndpointSlice is told for its own Service only.
func (f *fixture) testOneSliceOneExport(t *testing.T) {
	f.sink.forgetCalls()
	s := newSlice("web", "web-1", "10.0.0.1")
	f.update(t, s)
	f.sink.await(t, exported(webKey, 1), exported(apiKey, 0))
	if calls := f.sink.forgetCalls(); !slices.Equal(calls, []string{"set " + webKey.String()}) {
		t.Errorf("the sink was told %v, want the changed export once", calls)
	}
	f.delete(t, s)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0))
}

// testListeners: the listeners of the TailscaleGateway's Gateway are exported, with the endpoints of its Envoys.
func (f *fixture) testListeners(t *testing.T) {
	gw := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main"}}
	gw.Spec = gatewayv1.GatewaySpec{GatewayClassName: "eg", Listeners: []gatewayv1.Listener{{Name: "http", Port: 8080, Protocol: gatewayv1.HTTPProtocolType}}}
	f.create(t, gw)
	listener := federation.Export{
		Key: httpKey, Tailnet: "prod", TailnetRef: "prod-tailnet", Ports: []federation.Port{{Name: "http", Port: 8080, Protocol: federation.TCP}},
	}
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), listener)
	f.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "envoy-gateway-system"}})
	envoy := labelled(labelled(newService("envoy"), "gateway.envoyproxy.io/owning-gateway-name", "main"), "gateway.envoyproxy.io/owning-gateway-namespace", "default")
	slice := newSlice("envoy", "envoy-1", "10.0.1.1")
	envoy.Namespace, slice.Namespace = "envoy-gateway-system", "envoy-gateway-system"
	f.create(t, envoy, slice)
	listener.Ready, listener.Desired = 1, 1
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), listener)
	f.delete(t, gw)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0))
}

// testOutside: an endpoint with an external target is exported under its name, until a Service has that name.
func (f *fixture) testOutside(t *testing.T) {
	httpbin := federation.ExportKey{Cluster: "c1", Service: federation.Service("default", "httpbin")}
	outside := func(port uint16, app federation.AppProtocol) federation.Export {
		return federation.Export{
			Key: httpbin, Tailnet: "prod", TailnetRef: "prod-tailnet", Ready: 1, Desired: 1,
			Ports: []federation.Port{{Port: port, Protocol: federation.TCP, App: app}},
		}
	}
	set := &v1alpha1.TailscaleEndpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "set"}}
	set.Spec = v1alpha1.TailscaleEndpointsSpec{Tailnet: "prod-tailnet", Endpoints: []v1alpha1.TailscaleEndpoint{
		{Name: "httpbin", ExternalTarget: "httpbin.example.com:80", Port: 80, Protocol: v1alpha1.EndpointHTTP},
		{Name: "in-the-tailnet", TailscaleIP: "100.64.1.1", Port: 80},
	}}
	f.create(t, set)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), outside(80, federation.AppHTTP))
	set.Spec.Endpoints[0].Port, set.Spec.Endpoints[0].Protocol = 443, v1alpha1.EndpointHTTPS
	f.update(t, set)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), outside(443, federation.AppHTTPS))
	svc := newService("httpbin")
	f.create(t, svc)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), exported(httpbin, 0))
	f.delete(t, svc)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), outside(443, federation.AppHTTPS))
	set.Spec.Tailnet = "another-tailnet" // which no TailscaleGateway joins
	f.update(t, set)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0))
	set.Spec.Tailnet = "prod-tailnet"
	f.update(t, set)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0), outside(443, federation.AppHTTPS))
	f.delete(t, set)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0))
}

// testLeave: a member that leaves exports nothing any more.
func (f *fixture) testLeave(t *testing.T) {
	f.provider.Disengage("c1")
	f.sink.await(t)
}

// testDeletedWhileAway: what was deleted while the member was not watched goes away when it is again.
func (f *fixture) testDeletedWhileAway(t *testing.T) {
	f.provider.Engage(f.member)
	f.sink.await(t, exported(webKey, 0), exported(apiKey, 0))
	f.provider.Disengage("c1")
	f.sink.await(t)
	f.delete(t, newService("api"))
	f.sink.put(exported(apiKey, 7))
	f.provider.Engage(f.member)
	f.sink.await(t, exported(webKey, 0))
}

func exported(k federation.ExportKey, ready int) federation.Export {
	return federation.Export{
		Key: k, Tailnet: "prod", TailnetRef: "prod-tailnet", Ready: ready, Desired: ready, Ports: []federation.Port{{Name: "http", Port: 80, App: federation.AppHTTP, Protocol: federation.TCP}},
	}
}

func newService(name string) *corev1.Service { return service("default", name) }

func newSlice(service, name string, addrs ...string) *discoveryv1.EndpointSlice {
	s := slice(discoveryv1.AddressTypeIPv4)
	s.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, endpoint(a, nil, nil))
	}
	return &s
}

func (f *fixture) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := f.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) update(t *testing.T, o client.Object) {
	t.Helper()
	if err := f.admin.Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) delete(t *testing.T, o client.Object) {
	t.Helper()
	if err := f.admin.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// memberSink ends the exports of members that are gone, as the hub's does.
type memberSink struct{ controller *export.Controller }

func (s *memberSink) APIState(context.Context, federation.ClusterID, bool, string) error { return nil }

func (s *memberSink) ClusterGone(ctx context.Context, c federation.ClusterID) error {
	return s.controller.ClusterGone(ctx, c)
}

// sink keeps exports, as the hub does.
type sink struct {
	mu      sync.Mutex
	exports map[federation.ExportKey]federation.Export
	calls   []string
	changed chan struct{}
}

func (s *sink) ExportsListed(_ context.Context, c federation.ClusterID) error {
	s.edit("listed "+string(c), func() {})
	return nil
}

func (s *sink) SetExport(_ context.Context, x federation.Export) error {
	s.edit("set "+x.Key.String(), func() { s.exports[x.Key] = x })
	return nil
}

func (s *sink) RemoveExport(_ context.Context, k federation.ExportKey) error {
	s.edit("remove "+k.String(), func() { delete(s.exports, k) })
	return nil
}

func (s *sink) RemoveCluster(_ context.Context, c federation.ClusterID) error {
	s.edit("remove cluster "+string(c), func() { clear(s.exports) })
	return nil
}

func (s *sink) Exports(context.Context, federation.ClusterID) ([]federation.ExportKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []federation.ExportKey
	for k := range s.exports {
		keys = append(keys, k)
	}
	return keys, nil
}

// put puts an export there as if it was from before.
func (s *sink) put(x federation.Export) { s.edit("put", func() { s.exports[x.Key] = x }) }

func (s *sink) edit(call string, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.calls = append(s.calls, call)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *sink) forgetCalls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// await waits until the sink has exactly these exports.
func (s *sink) await(t *testing.T, want ...federation.Export) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all := map[federation.ExportKey]federation.Export{}
	for _, x := range want {
		all[x.Key] = x
	}
	for {
		s.mu.Lock()
		diff := cmp.Diff(all, s.exports)
		s.mu.Unlock()
		if diff == "" {
			return
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			t.Fatalf("timed out, exports (-want +got):\n%s", diff)
		}
	}
}
