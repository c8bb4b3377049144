package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

const patience = 2 * time.Minute

// envoy is an extension that remembers the structure.
type envoy struct {
	mu        sync.Mutex
	structure spoke.Structure
}

func (e *envoy) SetStructure(s spoke.Structure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.structure = s
}

func (e *envoy) SetEndpoints(map[spoke.Assignment][]spoke.Endpoint) {}

// revision is the one that the structure was published under.
func (e *envoy) revision() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.structure.Gateways) == 0 {
		return 0
	}
	return e.structure.Gateways[0].Revision
}

type fixture struct {
	*testing.T
	api   *controlplane.ControlPlane
	admin client.Client
	envoy *envoy
	spoke *spoke.Spoke
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// eventually waits until check returns nil.
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

// TestControllers runs the controllers over a real API server, from before its CRDs to the deletion of what they made.
func TestControllers(t *testing.T) {
	f := &fixture{T: t, api: controlplane.ForTest(t), envoy: &envoy{}}
	f.testMissingCRDs()
	f.testClusterID()
	f.objects()
	stop := f.start()
	defer stop()
	f.testPrimed()
	f.testConditions()
	f.testRevisions()
	f.testMissingTailnet()
	f.testRivals()
	f.testGatewayGone()
	f.testTailscaleGatewayGone()
}

func (f *fixture) newSpoke() *spoke.Spoke {
	s, err := spoke.New(spoke.Config{
		Cluster: "c1", StateDir: f.TempDir(), EgressAddr: netip.MustParseAddr("127.0.0.1"), EgressPorts: spoke.PortRange{Low: 20000, High: 20099},
		Extension: f.envoy, Log: slog.New(slog.DiscardHandler),
	})
	f.must(err)
	return s
}

func (f *fixture) testMissingCRDs() {
	_, err := controllers.New(controllers.Options{API: f.api.RESTConfig(), Spoke: f.newSpoke(), Namespace: "tailgate-system", Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, controllers.ErrMissingKind) {
		f.Fatalf("error %v, want %v", err, controllers.ErrMissingKind)
	}
	for _, want := range []string{"Gateway.gateway.networking.k8s.io", "TailscaleGateway.gateway.tailscale.com", "deploy/crds"} {
		if !strings.Contains(err.Error(), want) {
			f.Errorf("error %q does not say %q", err, want)
		}
	}
	found, err := assets.Find(f.Context())
	f.must(err)
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	f.must(err)
	f.must(f.api.ApplyFiles(f.Context(), append(own, found.EnvoyGatewayCRDs...)...))
}

const aboutCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusterproperties.about.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: about.k8s.io
  names: {kind: ClusterProperty, plural: clusterproperties, singular: clusterproperty}
  scope: Cluster
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

func (f *fixture) testClusterID() {
	if _, err := controllers.ClusterID(f.Context(), f.api.RESTConfig()); !errors.Is(err, controllers.ErrNoClusterID) {
		f.Errorf("without the CRD: %v", err)
	}
	f.must(f.api.ApplyYAML(f.Context(), []byte(aboutCRD)))
	if _, err := controllers.ClusterID(f.Context(), f.api.RESTConfig()); !errors.Is(err, controllers.ErrNoClusterID) {
		f.Errorf("without the object: %v", err)
	}
	property := "apiVersion: about.k8s.io/v1alpha1\nkind: ClusterProperty\nmetadata: {name: cluster.clusterset.k8s.io}\nspec: {value: %s}\n"
	f.must(f.api.ApplyYAML(f.Context(), fmt.Appendf(nil, property, "Not_A_Label")))
	if _, err := controllers.ClusterID(f.Context(), f.api.RESTConfig()); !errors.Is(err, federation.ErrInvalidClusterID) {
		f.Errorf("with a bad value: %v", err)
	}
	f.must(f.api.ApplyYAML(f.Context(), fmt.Appendf(nil, property, "berlin")))
	if id, err := controllers.ClusterID(f.Context(), f.api.RESTConfig()); err != nil || id != "berlin" {
		f.Errorf("id %q, %v", id, err)
	}
}

func meta1(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }

func tailscaleGateway(name string) *v1alpha1.TailscaleGateway {
	return &v1alpha1.TailscaleGateway{ObjectMeta: meta1(name), Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"},
		Tailnets: []v1alpha1.TailnetConfig{{
			Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production-tailnet"},
			RouteGeneration: &v1alpha1.RouteGenerationConfig{Egress: &v1alpha1.EgressRouteConfig{PathPrefix: "/api/{service}/"}},
		}},
	}}
}

func gateway() *gatewayv1.Gateway {
	return &gatewayv1.Gateway{ObjectMeta: meta1("main"), Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "eg",
		Listeners: []gatewayv1.Listener{
			{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}, {Name: "db", Port: 5432, Protocol: gatewayv1.TCPProtocolType},
		},
	}}
}

// objects makes a Service with endpoints of all kinds, a Gateway and a TailscaleGateway.
func (f *fixture) objects() {
	scheme, err := controllers.Scheme()
	f.must(err)
	f.admin, err = client.New(f.api.RESTConfig(), client.Options{Scheme: scheme})
	f.must(err)
	slice := func(name, port string, number int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: meta1(name), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
			Ports: []discoveryv1.EndpointPort{{Name: new(port), Port: new(number), Protocol: new(corev1.ProtocolTCP)}},
		}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
		return s
	}
	endpoint := func(addr string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	for _, o := range []client.Object{
		&corev1.Service{ObjectMeta: meta1("web"), Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		slice("web-1", "http", 8080, endpoint("10.1.0.1", new(true)), endpoint("10.1.0.2", new(false)), endpoint("10.1.0.3", nil)),
		slice("web-2", "http", 8080, endpoint("10.1.0.1", new(true))),
		slice("web-3", "other", 9090, endpoint("10.1.0.4", new(true))),
		gateway(), tailscaleGateway("ts"),
	} {
		f.must(f.admin.Create(f.Context(), o))
	}
}

// noHub is what a spoke hears of its tailnets while it has no hub.
func noHub(context.Context, string, discovery.Query, time.Duration) (tailscaleendpoints.Found, error) {
	return tailscaleendpoints.Found{}, errors.New("no link to the hub")
}

func (f *fixture) start() (stop func()) {
	f.spoke = f.newSpoke()
	c, err := controllers.New(controllers.Options{
		API: f.api.RESTConfig(), Spoke: f.spoke, Namespace: "tailgate-system", Discover: noHub, Log: slog.New(slog.DiscardHandler),
	})
	f.must(err)
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 2)
	go func() { ended <- f.spoke.Run(ctx) }()
	go func() { ended <- c.Run(ctx) }()
	primed, done := context.WithTimeout(ctx, patience)
	defer done()
	f.must(c.Prime(primed))
	return func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				f.Error(err)
			}
		}
	}
}

func (f *fixture) update(version uint64, rs ...linkstate.Resource) {
	f.Helper()
	web := federation.Service("default", "web")
	ports := []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}
	f.must(f.spoke.Apply(f.Context(), linkstate.Update{Epoch: 1, Version: version, Full: true, Upserts: append(rs,
		linkstate.Resource{VIP: &federation.VIP{
			Owner: federation.ExportKey{Cluster: "c1", Service: web}, Name: "local-production-web", ServiceName: "local-production-web-c1",
			Tailnet: "production", Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")}, Ports: ports,
		}},
		linkstate.Resource{EndpointSet: &federation.EndpointSet{Consumer: "c1", Service: web, Endpoints: []federation.Endpoint{
			{Cluster: "c1", Addr: netip.MustParseAddr("100.100.0.1"), Ports: ports, Weight: 1},
			{Cluster: "c2", Addr: netip.MustParseAddr("100.100.0.2"), Ports: ports, Weight: 1, Priority: 1},
		}}},
	)}))
}

// testPrimed checks that all is known as soon as Prime has returned, with nothing to wait for.
func (f *fixture) testPrimed() {
	f.update(1)
	config, _ := f.spoke.ProxyConfig(spoke.Ingress)
	if got := fmt.Sprint(config.Ingress[0].Ports[0].Ready); got != "[10.1.0.1:8080 10.1.0.3:8080]" {
		f.Errorf("ready endpoints %s", got)
	}
	if r, _ := f.spoke.LastReport(); !r.All {
		f.Error("a cluster with a joined Gateway refers to nothing")
	}
	st, err := f.spoke.Status(f.Context())
	f.must(err)
	if len(st.Gateways) != 1 || len(st.Gateways[0].Listeners) != 1 || st.Gateways[0].Tailnets[0].Egress.PathPrefix != "/api/{service}/" {
		f.Errorf("gateways %+v: want one with its HTTP listener only", st.Gateways)
	}
}

func (f *fixture) get(name string) *v1alpha1.TailscaleGateway {
	f.Helper()
	var t v1alpha1.TailscaleGateway
	f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: name}, &t))
	return &t
}

// condition waits until the object has the condition.
func (f *fixture) condition(object, kind string, status metav1.ConditionStatus, reason string, says ...string) {
	f.Helper()
	f.eventually(object+" "+kind, func() error {
		t := f.get(object)
		c := meta.FindStatusCondition(t.Status.Conditions, kind)
		if c == nil || c.Status != status || c.Reason != reason {
			return fmt.Errorf("condition %+v, want %s %s", c, status, reason)
		}
		for _, want := range says {
			if !strings.Contains(c.Message, want) {
				return fmt.Errorf("message %q does not say %q", c.Message, want)
			}
		}
		return nil
	})
}

func (f *fixture) testConditions() {
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	f.condition("ts", v1alpha1.ConditionHubConnected, metav1.ConditionFalse, v1alpha1.ReasonHubUnreachable, "stale since")
	f.condition("ts", v1alpha1.ConditionProxiesReady, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "no ingress and no egress")
	taken := spoke.LinkStatus{Reason: spoke.ReasonClusterIDTaken, Message: `the cluster id "c1" is taken`}
	f.must(f.spoke.LinkChanged(f.Context(), taken))
	f.condition("ts", v1alpha1.ConditionHubConnected, metav1.ConditionFalse, v1alpha1.ReasonClusterIDTaken, "is taken")
	f.must(f.spoke.LinkChanged(f.Context(), spoke.LinkStatus{Reason: spoke.ReasonNotAccepted, Message: "waits for acceptance"}))
	f.condition("ts", v1alpha1.ConditionHubConnected, metav1.ConditionFalse, v1alpha1.ReasonNotAccepted, "waits")
	f.must(f.spoke.LinkChanged(f.Context(), spoke.LinkStatus{Up: true, Reason: spoke.ReasonConnected}))
	f.condition("ts", v1alpha1.ConditionHubConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected)
	for _, r := range []spoke.Role{spoke.Ingress, spoke.Egress} {
		f.must(f.spoke.ProxyOpened(f.Context(), spoke.ProxyID{Role: r}))
		f.must(f.spoke.ProxyReported(f.Context(), spoke.ProxyStatus{Role: r, NodeID: "n", Applied: 1}))
	}
	f.condition("ts", v1alpha1.ConditionProxiesReady, metav1.ConditionTrue, v1alpha1.ReasonProxiesReady)
	t := f.get("ts")
	var services []string
	for _, s := range t.Status.Services {
		services = append(services, fmt.Sprint(s.Name, s.VIPAddresses, s.OwnerCluster, s.ConsumerClusters))
	}
	want := []string{"local-production-web[100.100.0.1]c1[c1]", "web-c2[100.100.0.2]c2[c1]"}
	if t.Status.ServiceCount != 1 || !slices.Equal(services, want) {
		f.Errorf("%d services %q, want %q", t.Status.ServiceCount, services, want)
	}
}

func (f *fixture) policy() *v1alpha1.TailscaleRoutePolicy {
	f.Helper()
	var p v1alpha1.TailscaleRoutePolicy
	f.eventually("policy", func() error {
		return f.admin.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: "ts"}, &p)
	})
	return &p
}

// hooked calls the hook, as Envoy Gateway does for the newest policy.
func (f *fixture) hooked() {
	f.Helper()
	f.eventually("Programmed", func() error {
		f.must(f.spoke.Hooked(f.Context(), spoke.HookCall{
			Policy: "default/ts", Revision: f.policy().Spec.Revision, Routes: spoke.RouteCount{Ingress: 1, Egress: 2, CrossCluster: 3},
		}))
		if !meta.IsStatusConditionTrue(f.get("ts").Status.Conditions, v1alpha1.ConditionProgrammed) {
			return errors.New("not programmed")
		}
		return nil
	})
}

func (f *fixture) testRevisions() {
	first := f.policy()
	if len(first.Spec.TargetRefs) != 1 || first.Spec.TargetRefs[0].Name != "main" || first.Spec.TailscaleGatewayRef.Name != "ts" || !metav1.IsControlledBy(first, f.get("ts")) {
		f.Errorf("policy %+v", first)
	}
	// No hook is called: the revision grows by itself.
	f.eventually("unseen revision grows", func() error {
		if now := f.policy().Spec.Revision; now <= first.Spec.Revision {
			return fmt.Errorf("revision %d", now)
		}
		return nil
	})
	f.hooked()
	f.condition("ts", v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
	if g := f.get("ts").Status.GeneratedRoutes; g == nil || g.Ingress != 1 || g.Egress != 2 || g.CrossCluster != 3 || g.Revision == 0 || g.LastHookCall.IsZero() {
		f.Errorf("generated routes %+v", g)
	}

	// The structure changes: the revision grows, after the structure was published under it.
	before := f.policy().Spec.Revision
	g := gateway()
	f.must(f.admin.Get(f.Context(), client.ObjectKeyFromObject(g), g))
	g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: "http2", Port: 8080, Protocol: gatewayv1.HTTPProtocolType})
	f.must(f.admin.Update(f.Context(), g))
	f.eventually("revision of a new structure", func() error {
		now := f.policy().Spec.Revision
		if now <= before {
			return fmt.Errorf("revision %d", now)
		}
		if published := f.envoy.revision(); published < now {
			return fmt.Errorf("policy has revision %d, the structure %d", now, published)
		}
		return nil
	})
	f.hooked()

	// Somebody deletes the policy: it comes back, with a higher revision.
	before = f.policy().Spec.Revision
	f.must(f.admin.Delete(f.Context(), f.policy()))
	f.eventually("policy comes back", func() error {
		if now := f.policy().Spec.Revision; now <= before {
			return fmt.Errorf("revision %d, want more than %d", now, before)
		}
		return nil
	})
	f.hooked()
}

func (f *fixture) testMissingTailnet() {
	f.update(2, linkstate.Resource{Notice: &federation.Notice{
		Subject: "tailnet/production", Reason: v1alpha1.ReasonTailnetNotFound, Message: `create the TailscaleTailnet "production-tailnet"`,
	}})
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonTailnetNotFound, `tailnet "production"`, "create the TailscaleTailnet")
	f.condition("ts", v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTailnetNotFound)
	f.eventually("an Event", func() error {
		var events corev1.EventList
		f.must(f.admin.List(f.Context(), &events, client.InNamespace("default")))
		for _, e := range events.Items {
			if e.Reason == v1alpha1.ReasonTailnetNotFound && e.InvolvedObject.Name == "ts" {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of the missing tailnet", len(events.Items))
	})
	f.update(3)
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
}

func (f *fixture) testRivals() {
	f.must(f.admin.Create(f.Context(), tailscaleGateway("younger")))
	f.condition("younger", v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonConflict, `"ts"`)
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	f.must(f.admin.Delete(f.Context(), tailscaleGateway("younger")))
}

func (f *fixture) testGatewayGone() {
	f.must(f.admin.Delete(f.Context(), gateway()))
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonGatewayNotFound, `no Gateway "main"`, "spec.gatewayRef")
	f.eventually("policy is deleted", func() error {
		err := f.admin.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: "ts"}, &v1alpha1.TailscaleRoutePolicy{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("get: %w", err)
		}
		return nil
	})
	f.must(f.admin.Create(f.Context(), gateway()))
	f.condition("ts", v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
}

func (f *fixture) testTailscaleGatewayGone() {
	f.must(f.admin.Delete(f.Context(), tailscaleGateway("ts")))
	f.eventually("nothing is referred to", func() error {
		if r, _ := f.spoke.LastReport(); r.All {
			return errors.New("the cluster still refers to everything")
		}
		return nil
	})
	f.must(f.admin.Delete(f.Context(), &corev1.Service{ObjectMeta: meta1("web")}))
	f.eventually("the Service's endpoints are gone", func() error {
		config, _ := f.spoke.ProxyConfig(spoke.Ingress)
		if n := len(config.Ingress[0].Ports[0].Ready); n > 0 {
			return fmt.Errorf("%d endpoints", n)
		}
		return nil
	})
}
