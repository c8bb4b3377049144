package exportevent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/exportevent"
)

const patience = 2 * time.Minute

// heard is a spoke that knows what the test says.
type heard struct {
	mu    sync.Mutex
	now   spoke.Status
	asked int
}

func (h *heard) Status(context.Context) (spoke.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return h.now, nil
}

type fixture struct {
	*testing.T
	api    *controlplane.ControlPlane
	admin  client.Client
	heard  *heard
	sealed *spokeProcess
}

// spokeProcess is a spoke from its start to its end.
type spokeProcess struct {
	changes chan event.GenericEvent
	stop    func()

	mu   sync.Mutex
	told []string
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) eventually(what string, check func() error) {
	f.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

func newFixture(t *testing.T) *fixture {
	ctrl.SetLogger(logr.Discard())
	f := &fixture{T: t, api: controlplane.ForTest(t), heard: &heard{}}
	found, err := assets.Find(t.Context())
	f.must(err)
	own, err := filepath.Glob("../../../deploy/crds/*.yaml")
	f.must(err)
	f.must(f.api.ApplyFiles(t.Context(), append(own, found.EnvoyGatewayCRDs[0])...))
	scheme, err := controllers.Scheme()
	f.must(err)
	f.admin, err = client.New(f.api.RESTConfig(), client.Options{Scheme: scheme})
	f.must(err)
	return f
}

// start starts a spoke, which knows what it knew when the last one ended.
func (f *fixture) start() {
	f.Helper()
	p := &spokeProcess{changes: make(chan event.GenericEvent)}
	mgr, err := ctrl.NewManager(f.api.RESTConfig(), ctrl.Options{
		Scheme: f.admin.Scheme(), Logger: logr.FromSlogHandler(slog.DiscardHandler), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	f.must(err)
	recorder := mgr.GetEventRecorder("tailgate-spoke")
	r := &exportevent.Reconciler{
		Client: mgr.GetClient(), Spoke: f.heard, Changes: p.changes,
		Record: func(o client.Object, e exportevent.Event) {
			recorder.Eventf(o, nil, e.Type, e.Reason, "Export", "%s", e.Message)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.told = append(p.told, fmt.Sprintf("%T %s %s: %s", o, o.GetName(), e.Reason, e.Message))
		},
	}
	f.must(r.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	f.Cleanup(p.stop)
	if !mgr.GetCache().WaitForCacheSync(f.Context()) {
		f.Fatal("the cache was not synced")
	}
	f.must(r.Begin(f.Context()))
	f.sealed = p
	f.look()
}

// look has the reconciler look at what the hub says, and returns when it has.
func (f *fixture) look() {
	f.Helper()
	asked := func() int {
		f.heard.mu.Lock()
		defer f.heard.mu.Unlock()
		return f.heard.asked
	}
	for range 2 { // one pass ends before the next one begins
		before := asked()
		f.sealed.changes <- event.GenericEvent{Object: &corev1.Service{}}
		f.eventually("a pass of the reconciler", func() error {
			if asked() == before {
				return errors.New("none has begun")
			}
			return nil
		})
	}
}

func (f *fixture) say(edits ...func(*spoke.Status)) {
	f.Helper()
	now := spoke.Status{Version: 1}
	for _, e := range edits {
		e(&now)
	}
	f.heard.mu.Lock()
	f.heard.now = now
	f.heard.mu.Unlock()
	f.look()
}

// told waits until exactly these Events were told since the last call, in any order.
func (f *fixture) told(want ...string) {
	f.Helper()
	slices.Sort(want)
	f.eventually("Events", func() error {
		f.sealed.mu.Lock()
		defer f.sealed.mu.Unlock()
		got := slices.Sorted(slices.Values(f.sealed.told))
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("(-want +got)\n%s", diff)
		}
		f.sealed.told = nil
		return nil
	})
}

func vip(id federation.ServiceID, name, addr string) func(*spoke.Status) {
	return func(now *spoke.Status) {
		now.VIPs = append(now.VIPs, federation.VIP{
			Owner: federation.ExportKey{Cluster: "c1", Service: id}, ServiceName: name, Tailnet: "prod", Addrs: []netip.Addr{netip.MustParseAddr(addr)},
		})
	}
}

func shared(id federation.ServiceID, name, addr string) func(*spoke.Status) {
	return func(now *spoke.Status) {
		now.FederatedVIPs = append(now.FederatedVIPs, federation.VIP{
			Owner: federation.ExportKey{Service: id}, ServiceName: name, Tailnet: "prod", Addrs: []netip.Addr{netip.MustParseAddr(addr)},
		})
	}
}

func notice(subject, reason, message string) func(*spoke.Status) {
	return func(now *spoke.Status) {
		now.Notices = append(now.Notices, federation.Notice{Subject: subject, Reason: reason, Message: message})
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }

func newService(name string, annotations map[string]string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: named(name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	svc.Annotations = annotations
	return svc
}

var (
	web     = federation.Service("default", "web")
	httpbin = federation.Service("default", "httpbin")
	http    = federation.Listener("default", "main", "http")
	refused = notice("export/Service/default/web", "VIPConflict", "svc:web belongs to somebody else")
	differs = notice("conflict/Service/default/web", "PortConflict", "other ports in c2")
)

// TestEvents follows the exports of a cluster through all that is told of them, over a restart of the spoke.
func TestEvents(t *testing.T) {
	f := newFixture(t)
	f.objects()
	f.start()
	f.told() // the hub has not said anything
	f.say()
	f.testGiven()
	f.testTrouble()
	f.testRestart()
	f.testWithdrawn()
	f.testAnnotations()
	f.testWritten()
}

func (f *fixture) objects() {
	gateway := &gatewayv1.Gateway{ObjectMeta: named("main"), Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "eg", Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
	}}
	joined := &v1alpha1.TailscaleGateway{ObjectMeta: named("ts"), Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"},
		Tailnets:   []v1alpha1.TailnetConfig{{Name: "prod", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "prod-tailnet"}}},
	}}
	outside := &v1alpha1.TailscaleEndpoints{ObjectMeta: named("outside"), Spec: v1alpha1.TailscaleEndpointsSpec{
		Tailnet: "prod-tailnet", Endpoints: []v1alpha1.TailscaleEndpoint{{Name: "httpbin", ExternalTarget: "httpbin.example.com:80", Port: 80, Protocol: v1alpha1.EndpointHTTP}},
	}}
	for _, o := range []client.Object{gateway, joined, outside, newService("web", nil)} {
		f.must(f.admin.Create(f.Context(), o))
	}
}

func (f *fixture) testGiven() {
	f.say(vip(web, "web-c1", "100.100.0.1"), vip(http, "http-c1", "100.100.0.2"), vip(httpbin, "httpbin-c1", "100.100.0.3"))
	f.told(
		"*v1.Service web VIPAssigned: exported as svc:web-c1 at 100.100.0.1",
		"*v1.Gateway main VIPAssigned: listener http: exported as svc:http-c1 at 100.100.0.2",
		"*v1alpha1.TailscaleEndpoints outside VIPAssigned: Service default/httpbin: exported as svc:httpbin-c1 at 100.100.0.3",
	)
	f.look()
	f.told() // nothing twice
	f.say(vip(web, "web-c1", "100.100.0.9"), shared(web, "web", "100.100.1.1"), vip(http, "http-c1", "100.100.0.2"))
	f.told(
		"*v1.Service web VIPChanged: exported as svc:web-c1 at 100.100.0.9, no longer as svc:web-c1 at 100.100.0.1",
		"*v1.Service web FederatedVIPAdvertised: this cluster advertises the federated svc:web at 100.100.1.1",
		"*v1alpha1.TailscaleEndpoints outside VIPWithdrawn: Service default/httpbin: no longer exported: svc:httpbin-c1 at 100.100.0.3 is withdrawn",
	)
}

func (f *fixture) testTrouble() {
	own := []func(*spoke.Status){vip(web, "web-c1", "100.100.0.9"), vip(http, "http-c1", "100.100.0.2")}
	f.say(append(own, differs)...)
	f.told(
		"*v1.Service web FederatedVIPWithdrawn: this cluster no longer advertises the federated svc:web at 100.100.1.1",
		"*v1.Service web PortConflict: other ports in c2",
	)
	f.say(append(own, refused, notice("tailnet/prod", "TailnetNotFound", "the TailscaleGateway's conditions say so"))...)
	f.told("*v1.Service web ConflictResolved: the service is the same in all clusters again", "*v1.Service web VIPConflict: svc:web belongs to somebody else")
}

// testRestart: what a spoke knew it does not tell again, what has changed meanwhile it does.
func (f *fixture) testRestart() {
	bad := newService("bad", map[string]string{v1alpha1.AnnotationWeight: "abc"})
	f.must(f.admin.Create(f.Context(), bad))
	const problem = `*v1.Service bad InvalidAnnotation: the annotation gateway.tailscale.com/weight is "abc", and the cluster's share is the default of 1: write a number from 1 to 1000`
	f.told(problem)
	f.sealed.stop()
	f.start()
	f.look()
	f.told()
	f.sealed.stop()
	f.start()
	f.say(vip(web, "web-c1", "100.100.0.9"), vip(http, "http-c1", "100.100.0.7"), refused)
	f.told("*v1.Gateway main VIPChanged: listener http: exported as svc:http-c1 at 100.100.0.7, no longer as svc:http-c1 at 100.100.0.2")

	f.sealed.stop()
	f.say2(spoke.Status{}) // it has lost its disk
	f.start()
	f.told(problem)
	f.say(vip(web, "web-c1", "100.100.0.9"))
	f.told("*v1.Service web VIPAssigned: exported as svc:web-c1 at 100.100.0.9")
	f.must(f.admin.Delete(f.Context(), bad))
}

// say2 changes what the hub says while nobody listens.
func (f *fixture) say2(now spoke.Status) {
	f.heard.mu.Lock()
	defer f.heard.mu.Unlock()
	f.heard.now = now
}

// testWithdrawn: where the exported object is gone, the TailscaleGateway hears of it.
func (f *fixture) testWithdrawn() {
	f.must(f.admin.Delete(f.Context(), newService("web", nil)))
	f.eventually("the cache knows", func() error {
		f.say(vip(web, "web-c1", "100.100.0.9"))
		f.say()
		f.sealed.mu.Lock()
		defer f.sealed.mu.Unlock()
		last := f.sealed.told[len(f.sealed.told)-1]
		if want := "*v1alpha1.TailscaleGateway ts VIPWithdrawn: Service default/web: no longer exported: svc:web-c1 at 100.100.0.9 is withdrawn"; last != want {
			return fmt.Errorf("%s, want %s", last, want)
		}
		f.sealed.told = nil
		return nil
	})
}

// testAnnotations: each thing that is wrong with a Service is told once, and again when it comes back.
func (f *fixture) testAnnotations() {
	external := newService("external", nil)
	external.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"}
	f.must(f.admin.Create(f.Context(), external)) // only patterns could select it
	api := newService("api", map[string]string{v1alpha1.AnnotationExpose: "yes"})
	f.must(f.admin.Create(f.Context(), api))
	const expose = `*v1.Service api InvalidAnnotation: the annotation gateway.tailscale.com/expose is "yes", which says nothing: write "true" or "false"`
	f.told(expose)
	api.Annotations[v1alpha1.AnnotationClusterPinned] = "1"
	f.must(f.admin.Update(f.Context(), api))
	f.told(`*v1.Service api InvalidAnnotation: the annotation gateway.tailscale.com/cluster-pinned is "1", which says nothing: write "true" or "false"`)
	api.Annotations = map[string]string{v1alpha1.AnnotationExpose: "true"}
	f.must(f.admin.Update(f.Context(), api))
	external.Annotations = api.Annotations
	f.must(f.admin.Update(f.Context(), external))
	f.told("*v1.Service external NotExported: a Service of type ExternalName has no endpoints of its own and is not exported: " +
		`create a TailscaleEndpoints with an endpoint whose externalTarget is "db.example.com" and its port`)
	api.Annotations[v1alpha1.AnnotationExpose] = "yes"
	f.must(f.admin.Update(f.Context(), api))
	f.told(expose)
}

// testWritten: the Events stand beside the objects, where kubectl describe finds them.
func (f *fixture) testWritten() {
	f.eventually("the Event of the Gateway is there", func() error {
		var all eventsv1.EventList
		f.must(f.admin.List(f.Context(), &all, client.InNamespace("default")))
		for _, e := range all.Items {
			if e.Regarding.Kind == "Gateway" && e.Regarding.Name == "main" && e.Reason == exportevent.ReasonVIPAssigned && e.Type == corev1.EventTypeNormal {
				return nil
			}
		}
		return fmt.Errorf("not among %d", len(all.Items))
	})
}
